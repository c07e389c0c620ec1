"""GemNet-dT and GemNet-OC: Gasteiger et al., arXiv:2106.08903 and arXiv:2204.02782."""

from __future__ import annotations

from types import MappingProxyType

from dcsurgery.zoo.families.entry import Entry, frozen, frozen_counts

__all__ = ["ENTRIES"]

_OCP = {"otf_graph": True, "use_pbc": True, "regress_forces": True, "direct_forces": False}
_SMALL = {
    "num_spherical": 4,
    "num_radial": 16,
    "num_blocks": 2,
    "emb_size_atom": 32,
    "emb_size_edge": 32,
    "emb_size_rbf": 8,
    "emb_size_cbf": 8,
    "num_before_skip": 1,
    "num_after_skip": 1,
    "num_concat": 1,
    "num_atom": 1,
    "cutoff": 5.0,
}
_WIDTHS_OC = tuple(f"emb_size_{kind}_{side}" for kind in ("trip", "quad", "aint") for side in ("in", "out"))
_OC = {
    "num_output_afteratom": 1,
    "quad_interaction": True,
    "atom_edge_interaction": True,
    "edge_atom_interaction": True,
    "atom_interaction": True,
    # Structures without tags have 0 everywhere.
    "qint_tags": [0, 1, 2],
    "cbf": {"name": "spherical_harmonics"},
    "sbf": {"name": "legendre_outer"},
}
_OUTPUT = MappingProxyType({"irelu": True, "denorm": False, "scope": "output-blocks"})

ENTRIES = (
    Entry(
        name="gemnet-dt",
        backend="fairchem",
        class_path="fairchem.core.models.gemnet.gemnet:GemNetT",
        description="GemNet-dT of OCP: directional messages over triplets, scaled SiLU",
        sizes=frozen(
            small={**_SMALL, **_OCP, "emb_size_trip": 16, "emb_size_bil_trip": 16},
            paper={
                **_OCP,
                "num_spherical": 7,
                "num_radial": 128,
                "num_blocks": 3,
                "emb_size_atom": 512,
                "emb_size_edge": 512,
                "emb_size_trip": 64,
                "emb_size_rbf": 16,
                "emb_size_cbf": 16,
                "emb_size_bil_trip": 64,
                "num_before_skip": 1,
                "num_after_skip": 2,
                "num_concat": 1,
                "num_atom": 3,
                "cutoff": 6.0,
                "max_neighbors": 50,
                "rbf": {"name": "gaussian"},
                "envelope": {"name": "polynomial", "exponent": 5},
                "extensive": True,
            },
        ),
        counts=frozen_counts(small=53_065, paper=24_296_973),
        output_blocks=("out_blocks",),
        recipe=_OUTPUT,
        fairchem_name="gemnet_t",
    ),
    Entry(
        name="gemnet-oc",
        backend="fairchem",
        class_path="fairchem.core.models.gemnet_oc.gemnet_oc:GemNetOC",
        description="GemNet-OC of OCP: triplets, quadruplets and atoms, scaled SiLU; float32 only",
        sizes=frozen(
            small={**_SMALL, **_OCP, **_OC, **dict.fromkeys(_WIDTHS_OC, 8), "emb_size_sbf": 8},
            paper={
                **_OCP,
                **_OC,
                "num_spherical": 7,
                "num_radial": 128,
                "num_blocks": 4,
                "emb_size_atom": 256,
                "emb_size_edge": 512,
                "emb_size_trip_in": 64,
                "emb_size_trip_out": 64,
                "emb_size_quad_in": 32,
                "emb_size_quad_out": 32,
                "emb_size_aint_in": 64,
                "emb_size_aint_out": 64,
                "emb_size_rbf": 16,
                "emb_size_cbf": 16,
                "emb_size_sbf": 32,
                "num_before_skip": 2,
                "num_after_skip": 2,
                "num_concat": 1,
                "num_atom": 3,
                "num_output_afteratom": 3,
                "num_atom_emb_layers": 2,
                "num_global_out_layers": 2,
                "cutoff": 12.0,
                "cutoff_qint": 12.0,
                "cutoff_aeaint": 12.0,
                "cutoff_aint": 12.0,
                "max_neighbors": 30,
                "max_neighbors_qint": 8,
                "max_neighbors_aeaint": 20,
                "max_neighbors_aint": 1000,
                "rbf": {"name": "gaussian"},
                "envelope": {"name": "polynomial", "exponent": 5},
                "extensive": True,
            },
        ),
        counts=frozen_counts(small=77_721, paper=28_599_345),
        output_blocks=("out_blocks", "out_mlp_E", "out_energy"),
        recipe=_OUTPUT,
        fairchem_name="gemnet_oc",
    ),
)
