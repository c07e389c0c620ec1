"""The models of the coverage table: one small instance each, with inputs, for checks of every edit on every kind of model.

All are made of classes that a package installs, so that they can be loaded safely from a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dcsurgery.zoo.pde.backend import deepxde

__all__ = ["CASES", "Case", "ResNet", "ResidualBlock", "deepxde"]


@dataclass(frozen=True)
class Case:
    """One model of the coverage table.

    Attributes
    ----------
    name
        Name in the table.
    build
        Makes the model, always with the same weights; the caller's random numbers are left alone.
    inputs
        Makes the positional arguments for a model, in its dtype and on its device. At least one of them is (or holds) a
        floating-point tensor.
    scope
        Which sites are edited: ``all`` or ``output-blocks``.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[nn.Module], tuple[Any, ...]]
    scope: str = "all"


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalization around a shortcut; in-place ReLU."""

    def __init__(self, channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w) to (n, out_channels, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        x += shortcut
        return self.relu(x)


class ResNet(nn.Module):
    """A small residual network for images, shape (n, 3, h, w) -> (n, classes)."""

    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.layers = nn.Sequential(ResidualBlock(width, width), ResidualBlock(width, 2 * width, stride=2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores (n, classes) of images (n, 3, h, w)."""
        return self.fc(self.pool(self.layers(self.stem(x))).flatten(1))


def _seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make()

    return build


def _like(model: nn.Module) -> dict[str, Any]:
    parameter = next(model.parameters())
    return {"dtype": parameter.dtype, "device": parameter.device}


def _normal(model: nn.Module, *shape: int, seed: int = 0) -> Tensor:
    """Return normal random numbers, equal (to rounding) in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(**_like(model))


def _vectors(*shape: int) -> Callable[[nn.Module], tuple[Any, ...]]:
    return lambda model: (_normal(model, *shape),)


def _molecules(model: nn.Module) -> tuple[Any, ...]:
    """Return z (n_atoms,), pos (n_atoms, 3) and batch (n_atoms,) of a distorted ethanol and a water."""
    ethanol = [
        [1.17, -0.40, 0.00],
        [0.00, 0.56, 0.02],
        [-1.20, -0.24, -0.03],
        [-1.95, 0.36, 0.06],
        [2.13, 0.15, 0.05],
        [1.13, -1.03, 0.89],
        [1.16, -1.06, -0.87],
        [0.03, 1.20, 0.90],
        [0.05, 1.18, -0.91],
    ]
    water = [[0.00, 0.00, 0.12], [0.00, 0.76, -0.47], [0.05, -0.75, -0.48]]
    device = next(model.parameters()).device
    z = torch.tensor([6, 6, 8, 1, 1, 1, 1, 1, 1, 8, 1, 1], device=device)
    pos = torch.tensor(ethanol + water, **_like(model))
    return z, pos, torch.tensor([0] * 9 + [1] * 3, device=device)


def _ring(nodes: int, device: torch.device) -> Tensor:
    """Return the edges of a ring with a few chords, both ways, shape (2, n_edges)."""
    first = torch.arange(nodes, device=device)
    forward = torch.cat(
        [torch.stack([first, (first + 1) % nodes]), torch.stack([first[::3], (first[::3] + 4) % nodes])], 1
    )
    return torch.cat([forward, forward.flip(0)], 1)


def _graph(model: nn.Module) -> tuple[Any, ...]:
    """Return x (12, 5) and edge_index (2, n_edges)."""
    x = _normal(model, 12, 5)
    return x, _ring(12, x.device)


def _graph_with_edges(model: nn.Module) -> tuple[Any, ...]:
    """Return x (12, 5), edge_index (2, n_edges), edge_attr (n_edges, 3) and batch (12,)."""
    x, edge_index = _graph(model)
    edge_attr = _normal(model, edge_index.shape[1], 3, seed=1)
    return x, edge_index, edge_attr, torch.zeros(12, dtype=torch.long, device=x.device)


def _zoo(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from dcsurgery.zoo.registry import build

        return build(name)

    return make


def _gin() -> nn.Module:
    from torch_geometric.nn.models import GIN

    return GIN(5, 8, num_layers=2, out_channels=3, norm="batch_norm")


def _gat() -> nn.Module:
    from torch_geometric.nn.models import GAT

    return GAT(5, 8, num_layers=2, out_channels=3, heads=2, act="elu", norm="graph_norm")


def _pna() -> nn.Module:
    from torch_geometric.nn.models import PNA

    return PNA(
        5,
        8,
        num_layers=2,
        out_channels=3,
        norm="layer_norm",
        aggregators=["mean", "min", "max", "std"],
        scalers=["identity", "amplification", "attenuation"],
        deg=torch.tensor([0, 0, 4, 6, 2]),
    )


def _visnet() -> nn.Module:
    from torch_geometric.nn.models import ViSNet

    from dcsurgery.zoo.ocp.graph import RadiusDistance

    # Narrower, an atom's vector features can all be 0 after IReLU, and the norm of a zero vector has no second derivative.
    model = ViSNet(num_heads=2, num_layers=2, hidden_channels=32, num_rbf=8, max_z=20, vertex=True)
    # PyG's own neighbour search needs a compiled extension.
    model.representation_model.distance = RadiusDistance(5.0)
    return model


def _attentive_fp() -> nn.Module:
    from torch_geometric.nn.models import AttentiveFP

    return AttentiveFP(5, 8, out_channels=2, edge_dim=3, num_layers=2, num_timesteps=2)


def _graph_unet() -> nn.Module:
    from torch_geometric.nn.models import GraphUNet

    return GraphUNet(5, 8, out_channels=3, depth=2)


def _fnn() -> nn.Module:
    return deepxde().nn.FNN([2, 10, 10, 1], "tanh", "Glorot normal")


def _deeponet() -> nn.Module:
    return deepxde().nn.DeepONet([6, 10, 8], [2, 10, 8], "relu", "Glorot normal")


def _functions_and_points(model: nn.Module) -> tuple[Any, ...]:
    """Return the one argument of DeepONet: values of functions (4, 6) and points (4, 2)."""
    return ((_normal(model, 4, 6), _normal(model, 4, 2, seed=1)),)


def _transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, num_layers=2)


def _sequential() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 1))


#: The models, in the order of the table.
CASES: tuple[Case, ...] = tuple(
    Case(name, _seeded(make), inputs, scope)
    for name, make, inputs, scope in (
        ("PyG SchNet", _zoo("schnet"), _molecules, "all"),
        ("PyG DimeNet++", _zoo("dimenet++"), _molecules, "output-blocks"),
        ("PyG CGConv stack", _zoo("cgconv-bn"), _molecules, "all"),
        ("PyG GIN", _gin, _graph, "all"),
        ("PyG GAT", _gat, _graph, "all"),
        ("PyG PNA", _pna, _graph, "all"),
        ("PyG ViSNet", _visnet, _molecules, "all"),
        ("PyG AttentiveFP", _attentive_fp, _graph_with_edges, "all"),
        ("PyG GraphUNet", _graph_unet, _graph, "all"),
        ("DeepXDE FNN", _fnn, _vectors(6, 2), "all"),
        ("DeepXDE DeepONet", _deeponet, _functions_and_points, "all"),
        ("ResNet", ResNet, _vectors(4, 3, 8, 8), "all"),
        ("nn.TransformerEncoder", _transformer, _vectors(2, 5, 8), "all"),
        ("nn.Sequential", _sequential, _vectors(6, 4), "all"),
    )
)
