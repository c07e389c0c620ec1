"""PaiNN: Schütt et al., arXiv:2102.03150."""

from __future__ import annotations

from types import MappingProxyType

from dcsurgery.zoo.families.entry import Entry, frozen, frozen_counts

__all__ = ["ENTRIES"]

_OCP = {"otf_graph": True, "use_pbc": True, "regress_forces": True, "direct_forces": False}

ENTRIES = (
    Entry(
        name="painn",
        backend="fairchem",
        class_path="fairchem.core.models.painn.painn:PaiNN",
        description="PaiNN of OCP: scalar and vector features, scaled SiLU, layer norms",
        sizes=frozen(
            small={**_OCP, "hidden_channels": 32, "num_layers": 2, "num_rbf": 16, "cutoff": 5.0},
            paper={
                **_OCP,
                "hidden_channels": 512,
                "num_layers": 6,
                "num_rbf": 128,
                "cutoff": 12.0,
                "max_neighbors": 50,
            },
        ),
        counts=frozen_counts(small=29_635, paper=18_695_175),
        output_blocks=("out_energy",),
        force="feature-gradient",
        # Not one of the models of the paper; everywhere, as in those without output blocks, and its norms as well.
        recipe=MappingProxyType({"irelu": True, "denorm": True, "scope": "all"}),
        fairchem_name="painn",
    ),
)
