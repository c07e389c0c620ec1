"""ForceNet: Hu et al., arXiv:2103.01436."""

from __future__ import annotations

from types import MappingProxyType

from dcsurgery.zoo.families.entry import Entry, frozen, frozen_counts

__all__ = ["ENTRIES"]

ENTRIES = (
    Entry(
        name="forcenet",
        backend="pyg",
        class_path="dcsurgery.zoo.ocp.forcenet:ForceNet",
        description="ForceNet as in OCP: filters from directions and distances, batch norms, SiLU; no rotation invariance",
        sizes=frozen(
            small={
                "hidden_channels": 32,
                "num_interactions": 2,
                "num_freqs": 10,
                "basis": "gauss",
                "decoder_hidden_channels": 32,
                "cutoff": 5.0,
            },
            paper={
                "hidden_channels": 512,
                "num_interactions": 5,
                "cutoff": 6.0,
                "basis": "gauss",
                "depth_mlp_edge": 2,
                "depth_mlp_node": 1,
                "activation_str": "swish",
                "decoder_hidden_channels": 512,
                "decoder_type": "mlp",
                "decoder_activation_str": "swish",
            },
        ),
        counts=frozen_counts(small=27_894, paper=12_168_470),
        output_blocks=("activation", "decoder"),
        recipe=MappingProxyType({"irelu": True, "denorm": True, "scope": "all"}),
    ),
)
