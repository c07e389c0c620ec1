"""CGCNN: Xie & Grossman, arXiv:1710.10324; and PyG's CGConv with batch normalization."""

from __future__ import annotations

from types import MappingProxyType

from dcsurgery.zoo.families.entry import Entry, frozen, frozen_counts

__all__ = ["ENTRIES"]

_SMALL = {
    "atom_embedding_size": 32,
    "num_graph_conv_layers": 2,
    "fc_feat_size": 32,
    "num_fc_layers": 2,
    "num_gaussians": 20,
}
_PAPER = {
    "atom_embedding_size": 512,
    "num_graph_conv_layers": 3,
    "fc_feat_size": 128,
    "num_fc_layers": 3,
    "num_gaussians": 100,
    "cutoff": 6.0,
}
_EVERYWHERE = MappingProxyType({"irelu": True, "denorm": True, "scope": "all"})

ENTRIES = (
    Entry(
        name="cgcnn",
        backend="pyg",
        class_path="dcsurgery.zoo.ocp.cgcnn:CGCNN",
        description="CGCNN as in OCP: k-hot elements, gated convolutions, batch and layer norms, softplus",
        sizes=frozen(small={**_SMALL, "cutoff": 5.0}, paper=_PAPER),
        counts=frozen_counts(small=16_385, paper=3_611_649),
        output_blocks=("conv_to_fc", "fcs"),
        recipe=_EVERYWHERE,
    ),
    Entry(
        name="cgconv-bn",
        backend="pyg",
        class_path="dcsurgery.zoo.ocp.pyg_models:CGConvNet",
        description="crystal-graph convolutions with batch normalization, softplus, dense head",
        sizes=frozen(small=_SMALL, paper=_PAPER),
        counts=frozen_counts(small=16_385, paper=3_609_601),
        output_blocks=("head",),
        recipe=_EVERYWHERE,
    ),
)
