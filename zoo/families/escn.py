"""eSCN-MD, the backbone of UMA: Wood et al., arXiv:2506.23971."""

from __future__ import annotations

from types import MappingProxyType

from dcsurgery.zoo.families.entry import Entry, frozen, frozen_counts

__all__ = ["ENTRIES"]

ENTRIES = (
    Entry(
        name="escn-md",
        backend="fairchem2",
        class_path="dcsurgery.zoo.ocp.escn_md:EscnMD",
        description="eSCN-MD of fairchem-core 2.x (the backbone of UMA): equivariant convolutions, layer norms",
        sizes=frozen(
            small={"sphere_channels": 16, "hidden_channels": 16, "edge_channels": 16, "num_layers": 2, "cutoff": 5.0},
            # UMA-S without its mixture of experts.
            paper={
                "sphere_channels": 128,
                "hidden_channels": 128,
                "edge_channels": 128,
                "num_layers": 4,
                "cutoff": 6.0,
            },
        ),
        counts=frozen_counts(small=61_169, paper=6_003_073),
        recipe=MappingProxyType({"irelu": True, "denorm": True, "scope": "all"}),
    ),
)
