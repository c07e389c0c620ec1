"""Cases from PyTorch Geometric: convolutions, norms, pooling, and the models of its zoo."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from exam.case import Case, normal

__all__ = ["graph_cases"]

_NODES, _IN, _HIDDEN, _EDGE = 12, 5, 8, 3


def _edges() -> Tensor:
    """Return the edges of a ring with a few chords, both ways, shape (2, 32)."""
    first = torch.arange(_NODES)
    ring = torch.stack([first, (first + 1) % _NODES])
    chords = torch.stack([first[::3], (first[::3] + 4) % _NODES])
    forward = torch.cat([ring, chords], 1)
    return torch.cat([forward, forward.flip(0)], 1)


def _x() -> Tensor:
    return normal(_NODES, _HIDDEN)


def _attributes() -> Tensor:
    return normal(_edges().shape[1], _EDGE)


def _weights() -> Tensor:
    return torch.rand(_edges().shape[1], dtype=torch.float64) + 0.5


def _batch() -> Tensor:
    return torch.arange(_NODES) * 2 // _NODES


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class ConvNet(nn.Module):
    """A convolution between two dense layers, with a norm and two activations: what users put around one."""

    def __init__(self, conv: nn.Module, width: int = _HIDDEN) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, 2)

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Tensor:
        h = self.conv(x, *args, **kwargs)
        h = h[0] if isinstance(h, tuple) else h
        return self.readout(torch.tanh(self.norm(h))) + self.readout(h).relu_()


def _plain() -> tuple[Any, ...]:
    return _x(), _edges()


def _with_weights() -> tuple[Any, ...]:
    return _x(), _edges(), _weights()


def _with_attributes() -> tuple[Any, ...]:
    return _x(), _edges(), _attributes()


def _with_types() -> tuple[Any, ...]:
    return _x(), _edges(), torch.arange(_edges().shape[1]) % 2


def _with_first() -> tuple[Any, ...]:
    return _x(), _x(), _edges()


def _with_positions() -> tuple[Any, ...]:
    return _x(), normal(_NODES, 3), _edges()


_DEGREES = torch.tensor([0, 0, 4, 6, 2])
_H = _HIDDEN

# Name -> (arguments of the layer, inputs).
_CONVS: dict[str, tuple[Callable[[Any], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "SimpleConv": (lambda g: g.SimpleConv(combine_root="sum"), _with_weights),
    "GCNConv": (lambda g: g.GCNConv(_H, _H), _with_weights),
    "ChebConv": (lambda g: g.ChebConv(_H, _H, K=3), _plain),
    "SAGEConv": (lambda g: g.SAGEConv(_H, _H, normalize=True, project=True), _plain),
    "SAGEConv, LSTM": (lambda g: g.SAGEConv(_H, _H, aggr="lstm"), lambda: (_x(), _edges()[:, _edges()[1].argsort()])),
    "SAGEConv, several": (lambda g: g.SAGEConv(_H, _H, aggr=["mean", "max", "std"]), _plain),
    "SAGEConv, softmax": (lambda g: g.SAGEConv(_H, _H, aggr="softmax", aggr_kwargs={"learn": True}), _plain),
    "GraphConv": (lambda g: g.GraphConv(_H, _H), _with_weights),
    "GatedGraphConv": (lambda g: g.GatedGraphConv(_H, num_layers=2), _plain),
    "ResGatedGraphConv": (lambda g: g.ResGatedGraphConv(_H, _H, edge_dim=_EDGE), _with_attributes),
    "ResGatedGraphConv, tanh": (lambda g: g.ResGatedGraphConv(_H, _H, act=nn.Tanh()), _plain),
    "GATConv": (lambda g: g.GATConv(_H, 4, heads=2, edge_dim=_EDGE, residual=True), _with_attributes),
    "GATv2Conv": (lambda g: g.GATv2Conv(_H, 4, heads=2, edge_dim=_EDGE), _with_attributes),
    "TransformerConv": (lambda g: g.TransformerConv(_H, 4, heads=2, beta=True, edge_dim=_EDGE), _with_attributes),
    "AGNNConv": (lambda g: g.AGNNConv(), _plain),
    "TAGConv": (lambda g: g.TAGConv(_H, _H), _with_weights),
    "GINConv": (lambda g: g.GINConv(_mlp(_H, _H, _H), train_eps=True), _plain),
    "GINEConv": (lambda g: g.GINEConv(_mlp(_H, _H), edge_dim=_EDGE), _with_attributes),
    "ARMAConv": (lambda g: g.ARMAConv(_H, _H, num_stacks=2, num_layers=2), _plain),
    "SGConv": (lambda g: g.SGConv(_H, _H, K=2), _plain),
    "SSGConv": (lambda g: g.SSGConv(_H, _H, alpha=0.1), _plain),
    "APPNP": (lambda g: g.APPNP(K=2, alpha=0.1), _plain),
    "MFConv": (lambda g: g.MFConv(_H, _H, max_degree=6), _plain),
    "RGCNConv": (lambda g: g.RGCNConv(_H, _H, num_relations=2, num_bases=2), _with_types),
    "FastRGCNConv": (lambda g: g.FastRGCNConv(_H, _H, num_relations=2), _with_types),
    "RGATConv": (lambda g: g.RGATConv(_H, _H, num_relations=2), _with_types),
    "RGATConv, f-scaled": (lambda g: g.RGATConv(_H, _H, num_relations=2, mod="f-scaled"), _with_types),
    "SignedConv": (lambda g: g.SignedConv(_H, 4, first_aggr=True), lambda: (_x(), _edges(), _edges()[:, ::2])),
    "DNAConv": (lambda g: g.DNAConv(_H, heads=2), lambda: (normal(_NODES, 2, _H), _edges())),
    "PointNetConv": (lambda g: g.PointNetConv(_mlp(_H + 3, _H), _mlp(_H, _H)), _with_positions),
    "GMMConv": (lambda g: g.GMMConv(_H, _H, dim=_EDGE, kernel_size=2), _with_attributes),
    "NNConv": (lambda g: g.NNConv(_H, _H, _mlp(_EDGE, 4, _H * _H)), _with_attributes),
    "CGConv": (lambda g: g.CGConv(_H, dim=_EDGE, batch_norm=True), _with_attributes),
    "EdgeConv": (lambda g: g.EdgeConv(_mlp(2 * _H, _H)), _plain),
    "FeaStConv": (lambda g: g.FeaStConv(_H, _H, heads=2), _plain),
    "PointTransformerConv": (lambda g: g.PointTransformerConv(_H, _H), _with_positions),
    "HypergraphConv": (lambda g: g.HypergraphConv(_H, _H), _plain),
    "HypergraphConv, attention": (
        lambda g: g.HypergraphConv(_H, _H, use_attention=True),
        lambda: (_x(), _edges(), None, normal(_NODES, _H)),
    ),
    "LEConv": (lambda g: g.LEConv(_H, _H), _plain),
    "PNAConv": (
        lambda g: g.PNAConv(
            _H, _H, ["mean", "max", "std"], ["identity", "linear"], _DEGREES, edge_dim=_EDGE, post_layers=2
        ),
        _with_attributes,
    ),
    "ClusterGCNConv": (lambda g: g.ClusterGCNConv(_H, _H), _plain),
    "GENConv": (lambda g: g.GENConv(_H, _H, learn_t=True, msg_norm=True, edge_dim=_EDGE), _with_attributes),
    "GENConv, layer norm": (lambda g: g.GENConv(_H, _H, aggr="powermean", norm="layer", learn_p=True), _plain),
    "GCN2Conv": (lambda g: g.GCN2Conv(_H, alpha=0.1), _with_first),
    "FiLMConv": (lambda g: g.FiLMConv(_H, _H), _plain),
    "SuperGATConv": (lambda g: g.SuperGATConv(_H, 4, heads=2), _plain),
    "FAConv": (lambda g: g.FAConv(_H), _with_first),
    "EGConv": (lambda g: g.EGConv(_H, _H, aggregators=["sum", "max"], num_heads=2, num_bases=2), _plain),
    "PDNConv": (lambda g: g.PDNConv(_H, _H, edge_dim=_EDGE, hidden_channels=4), _with_attributes),
    "GeneralConv": (
        lambda g: g.GeneralConv(_H, _H, _EDGE, attention=True, heads=2, l2_normalize=True),
        _with_attributes,
    ),
    "LGConv": (lambda g: g.LGConv(), _plain),
    "PointGNNConv": (
        lambda g: g.PointGNNConv(_mlp(_H, 3), _mlp(_H + 3, _H), _mlp(_H, _H)),
        _with_positions,
    ),
    "GPSConv": (lambda g: g.GPSConv(_H, g.GCNConv(_H, _H), heads=2, act="gelu", norm="layer_norm"), _plain),
    "GPSConv, performer": (lambda g: g.GPSConv(_H, g.GCNConv(_H, _H), heads=2, attn_type="performer"), _plain),
    "AntiSymmetricConv": (lambda g: g.AntiSymmetricConv(_H, num_iters=2), _plain),
    "DirGNNConv": (lambda g: g.DirGNNConv(g.SAGEConv(_H, _H)), _plain),
    "MixHopConv": (lambda g: g.MixHopConv(_H, _H, powers=[1]), _plain),
    "HEATConv": (
        lambda g: g.HEATConv(_H, _H, 2, 2, 4, _EDGE, 4),
        lambda: (_x(), _edges(), torch.arange(_NODES) % 2, torch.arange(_edges().shape[1]) % 2, _attributes()),
    ),
    "DenseGCNConv": (
        lambda g: g.DenseGCNConv(_H, _H),
        lambda: (normal(2, 6, _H), torch.ones(2, 6, 6, dtype=torch.float64)),
    ),
    "DenseGINConv": (
        lambda g: g.DenseGINConv(_mlp(_H, _H, _H)),
        lambda: (normal(2, 6, _H), torch.ones(2, 6, 6, dtype=torch.float64)),
    ),
    "DenseGATConv": (
        lambda g: g.DenseGATConv(_H, _H),
        lambda: (normal(2, 6, _H), torch.ones(2, 6, 6, dtype=torch.float64)),
    ),
    "TopKPooling": (lambda g: g.TopKPooling(_H), _plain),
    "SAGPooling": (lambda g: g.SAGPooling(_H, nonlinearity="sigmoid"), _plain),
    "Set2Set": (lambda g: g.Set2Set(4, processing_steps=2), lambda: (normal(_NODES, 4), _batch())),
    "GraphMultisetTransformer": (
        lambda g: g.aggr.GraphMultisetTransformer(_H, k=2, heads=2, layer_norm=True),
        lambda: (_x(), _batch()),
    ),
    "SetTransformerAggregation": (
        lambda g: g.aggr.SetTransformerAggregation(_H, heads=2, layer_norm=True),
        lambda: (_x(), _batch()),
    ),
    "GRUAggregation": (lambda g: g.aggr.GRUAggregation(_H, _H), lambda: (_x(), _batch())),
    "MLPAggregation": (
        lambda g: g.aggr.MLPAggregation(_H, _H, 6, num_layers=2, hidden_channels=8, norm=None),
        lambda: (_x(), _batch()),
    ),
    "DeepSetsAggregation": (
        lambda g: g.aggr.DeepSetsAggregation(_mlp(_H, _H, _H), _mlp(_H, _H)),
        lambda: (_x(), _batch()),
    ),
    "AttentionalAggregation": (
        lambda g: g.aggr.AttentionalAggregation(_mlp(_H, 4, 1), _mlp(_H, _H)),
        lambda: (_x(), _batch()),
    ),
}

# Name -> (layer, further inputs after x).
_NORMS: dict[str, tuple[Callable[[Any], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "BatchNorm": (lambda g: g.BatchNorm(_H), tuple),
    "HeteroBatchNorm": (lambda g: g.HeteroBatchNorm(_H, 2), lambda: (torch.arange(_NODES) % 2,)),
    "InstanceNorm": (lambda g: g.InstanceNorm(_H, affine=True), lambda: (_batch(),)),
    "LayerNorm": (lambda g: g.LayerNorm(_H), lambda: (_batch(),)),
    "LayerNorm, node": (lambda g: g.LayerNorm(_H, mode="node"), tuple),
    "HeteroLayerNorm": (lambda g: g.HeteroLayerNorm(_H, 2), lambda: (torch.arange(_NODES) % 2,)),
    "GraphNorm": (lambda g: g.GraphNorm(_H), lambda: (_batch(),)),
    "GraphSizeNorm": (lambda g: g.GraphSizeNorm(), lambda: (_batch(),)),
    "PairNorm": (lambda g: g.PairNorm(), lambda: (_batch(),)),
    "MeanSubtractionNorm": (lambda g: g.MeanSubtractionNorm(), lambda: (_batch(),)),
    "MessageNorm": (lambda g: g.MessageNorm(learn_scale=True), lambda: (normal(_NODES, _H),)),
    "DiffGroupNorm": (lambda g: g.DiffGroupNorm(_H, groups=2), tuple),
}


def _basic(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torch_geometric.nn as g

        if name == "PNA":
            settings.update(aggregators=["mean", "std"], scalers=["identity", "attenuation"], deg=_DEGREES)
        return getattr(g, name)(_H, _H, num_layers=2, out_channels=3, **settings)

    return make


def _made(build: Callable[[Any], nn.Module], wrap: Callable[[nn.Module], nn.Module] | None = None) -> nn.Module:
    import torch_geometric.nn as g

    module = build(g)
    return module if wrap is None else wrap(module)


class DeepGCN(nn.Module):
    """Residual layers as in PyG's DeepGCN example."""

    def __init__(self, g: Any, *, checkpointed: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            g.DeepGCNLayer(
                g.GENConv(_H, _H, norm="layer"), nn.LayerNorm(_H), nn.ReLU(inplace=True), block, 0.1, checkpointed
            )
            for block in ("res+", "res", "plain")
        )

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.layers[0].conv(x, edge_index)
        for layer in self.layers:
            x = layer(x, edge_index)
        return self.layers[0].act(self.layers[0].norm(x))


class Jumping(nn.Module):
    """Two convolutions and a jumping-knowledge layer over all depths."""

    def __init__(self, g: Any, mode: str) -> None:
        super().__init__()
        self.convs = nn.ModuleList([g.GCNConv(_H, _H), g.GCNConv(_H, _H)])
        self.jump = g.JumpingKnowledge(mode, channels=_H, num_layers=2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        depths = []
        for conv in self.convs:
            x = conv(x, edge_index).relu()
            depths.append(x)
        return self.jump(depths)


def _zoo_models() -> Iterator[tuple[str, Callable[[Any], nn.Module], Callable[[], tuple[Any, ...]]]]:
    yield "MLP", lambda g: g.MLP([_H, _H, 2], act="gelu", norm="batch_norm"), lambda: (_x(),)
    yield "GraphUNet", lambda g: g.GraphUNet(_H, _H, 3, depth=2, act="elu"), _plain
    yield "AttentiveFP", lambda g: g.AttentiveFP(_H, _H, 2, _EDGE, 2, 2), lambda: (*_with_attributes(), _batch())
    yield "NeuralFingerprint", lambda g: g.models.NeuralFingerprint(_H, _H, 3, 2), lambda: (*_plain(), _batch())
    yield "LINKX", lambda g: g.LINKX(_NODES, _H, _H, 3, num_layers=2), _plain
    yield "PMLP", lambda g: g.models.PMLP(_H, _H, 3, num_layers=2), _plain
    yield "SignedGCN", lambda g: g.SignedGCN(_H, _H, 2), lambda: (_x(), _edges(), _edges()[:, ::2])
    yield "SGFormer", lambda g: g.models.SGFormer(_H, _H, 3), lambda: (_x().float(), _edges(), _batch())
    yield "Polynormer", lambda g: g.models.Polynormer(_H, _H, 3, local_layers=2), lambda: (*_plain(), _batch())
    yield "ARLinkPredictor", lambda g: g.models.ARLinkPredictor(_H, _H), _plain
    yield "GAE", lambda g: g.GAE(g.GCN(_H, _H, 2)), _plain
    yield "MetaLayer", _meta_layer, lambda: (_x(), _edges(), _attributes())
    yield "GroupAddRev", lambda g: g.GroupAddRev(g.SAGEConv(4, 4), num_groups=2), _plain
    yield "RECT_L", lambda g: g.RECT_L(_H, _H), _plain
    yield "DeepGCN", lambda g: DeepGCN(g, checkpointed=False), _plain
    yield "DeepGCN, checkpointed", lambda g: DeepGCN(g, checkpointed=True), _plain
    for mode in ("cat", "max", "lstm"):
        yield f"JumpingKnowledge, {mode}", functools.partial(Jumping, mode=mode), _plain


class _Edges(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = _mlp(2 * _H + _EDGE, _H, _EDGE)

    def forward(self, source: Tensor, target: Tensor, attributes: Tensor, u: Any, batch: Any) -> Tensor:
        return self.mlp(torch.cat([source, target, attributes], 1))


class _Vertices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = _mlp(_H + _EDGE, _H, _H)

    def forward(self, x: Tensor, edge_index: Tensor, attributes: Tensor, u: Any, batch: Any) -> Tensor:
        sums = attributes.new_zeros(x.shape[0], _EDGE).index_add(0, edge_index[1], attributes)
        return self.mlp(torch.cat([x, sums], 1))


def _meta_layer(g: Any) -> nn.Module:
    return g.MetaLayer(_Edges(), _Vertices())


def graph_cases() -> Iterator[Case]:
    """Yield convolutions and pooling in a small net, norms, and the models of PyG's zoo."""
    for name, (conv, inputs) in _CONVS.items():
        yield Case("PyG layers", name, functools.partial(_made, conv, _net_around), inputs)
    for name, (norm, further) in _NORMS.items():
        yield Case(
            "PyG norms",
            name,
            functools.partial(_made, norm, NormNet),
            functools.partial(_norm_inputs, further),
            edits=3,
        )
    for name in ("GCN", "GraphSAGE", "GIN", "GAT", "PNA", "EdgeCNN"):
        for settings in (
            {"norm": "batch_norm"},
            {"act": "gelu", "norm": "layer_norm", "jk": "cat"},
            {"act": "elu", "act_first": True, "norm": "graph_norm", "dropout": 0.3},
        ):
            title = f"{name}, {', '.join(str(v) for v in settings.values())}"
            yield Case("PyG models", title, _basic(name, **settings), _plain, training="dropout" in settings)
    for name, model, inputs in _zoo_models():
        # PyG makes float32 tensors inside of this one.
        dtype = torch.float32 if name == "SGFormer" else torch.float64
        edits = 0 if name in {"NeuralFingerprint", "RECT_L"} else None  # gates only, and nothing at all
        yield Case("PyG models", name, functools.partial(_made, model), inputs, dtype=dtype, edits=edits)


def _norm_inputs(further: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
    return (_x(), *further())


class NormNet(nn.Module):
    """A norm between activations, one of them in place."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.act, self.last = nn.Linear(_H, _H), norm, nn.SiLU(), nn.Linear(_H, 1)

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        h = self.norm(torch.tanh(self.first(x)), *args)
        return self.last(self.act(h))


def _net_around(conv: nn.Module) -> nn.Module:
    width = {"SignedConv": 8, "Set2Set": 8}.get(type(conv).__name__, _HIDDEN)
    return ConvNet(conv, width)
