"""DimeNet++: Gasteiger et al., arXiv:2011.14115."""

from __future__ import annotations

from types import MappingProxyType

from dcsurgery.zoo.families.entry import Entry, frozen, frozen_counts

__all__ = ["ENTRIES"]

_SMALL = {
    "hidden_channels": 32,
    "num_blocks": 2,
    "int_emb_size": 16,
    "basis_emb_size": 8,
    "out_emb_channels": 32,
    "num_spherical": 3,
    "num_radial": 4,
    "num_output_layers": 2,
    "cutoff": 5.0,
}
_PAPER = {
    "hidden_channels": 192,
    "num_blocks": 3,
    "int_emb_size": 64,
    "basis_emb_size": 8,
    "out_emb_channels": 192,
    "num_spherical": 7,
    "num_radial": 6,
    "cutoff": 6.0,
    "envelope_exponent": 5,
    "num_before_skip": 1,
    "num_after_skip": 2,
    "num_output_layers": 3,
}
_OCP = {"otf_graph": True, "use_pbc": True, "regress_forces": True}
# Replacing all of its activations made training unstable in the paper.
_OUTPUT = MappingProxyType({"irelu": True, "denorm": False, "scope": "output-blocks"})

ENTRIES = (
    Entry(
        name="dimenet++",
        backend="pyg",
        class_path="dcsurgery.zoo.ocp.pyg_models:DimeNetPlusPlus",
        description="DimeNet++: directional messages, Bessel and spherical bases, one shared SiLU",
        sizes=frozen(
            # The published zeros make energy and forces 0, and every check on an untrained model void.
            small={**_SMALL, "output_initializer": "glorot_orthogonal"},
            paper={**_PAPER, "max_num_neighbors": 50},
        ),
        counts=frozen_counts(small=38_276, paper=1_809_414),
        output_blocks=("output_blocks",),
        recipe=_OUTPUT,
    ),
    Entry(
        name="dimenet++",
        backend="fairchem",
        class_path="fairchem.core.models.dimenet_plus_plus:DimeNetPlusPlusWrap",
        description="DimeNet++ of OCP: energy and forces are 0 before training",
        sizes=frozen(small={**_SMALL, **_OCP}, paper={**_PAPER, **_OCP}),
        counts=frozen_counts(small=38_372, paper=1_810_182),
        output_blocks=("output_blocks",),
        force="detached-angles",
        recipe=_OUTPUT,
        fairchem_name="dimenetplusplus",
    ),
)
