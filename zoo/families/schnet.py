"""SchNet: Schütt et al., arXiv:1706.08566."""

from __future__ import annotations

from types import MappingProxyType

from dcsurgery.zoo.families.entry import Entry, frozen, frozen_counts

__all__ = ["ENTRIES"]

_SMALL = {"hidden_channels": 32, "num_filters": 32, "num_interactions": 2, "num_gaussians": 20, "cutoff": 5.0}
_PAPER = {"hidden_channels": 1024, "num_filters": 256, "num_interactions": 5, "num_gaussians": 200, "cutoff": 6.0}
_OCP = {"otf_graph": True, "use_pbc": True, "regress_forces": True}
_EVERYWHERE = MappingProxyType({"irelu": True, "denorm": False, "scope": "all"})

ENTRIES = (
    Entry(
        name="schnet",
        backend="pyg",
        class_path="dcsurgery.zoo.ocp.pyg_models:SchNet",
        description="SchNet: continuous-filter convolutions, shifted softplus, no normalization",
        sizes=frozen(
            small=_SMALL,
            paper={**_PAPER, "max_num_neighbors": 50, "readout": "add"},
        ),
        counts=frozen_counts(small=13_473, paper=9_088_513),
        recipe=_EVERYWHERE,
    ),
    Entry(
        name="schnet",
        backend="fairchem",
        class_path="fairchem.core.models.schnet:SchNetWrap",
        description="SchNet of OCP",
        sizes=frozen(small={**_SMALL, **_OCP}, paper={**_PAPER, **_OCP, "readout": "add"}),
        counts=frozen_counts(small=13_473, paper=9_088_513),
        recipe=_EVERYWHERE,
        fairchem_name="schnet",
    ),
    Entry(
        name="schnet-hoisted",
        backend="torch",
        class_path="dcsurgery.zoo.ocp.hoisted_schnet:HoistedSchNet",
        description="SchNet with its edges as an input, for TorchScript, torch.export and torch.fx",
        sizes=frozen(small=_SMALL, paper=_PAPER),
        counts=frozen_counts(small=13_473, paper=9_088_513),
        recipe=_EVERYWHERE,
    ),
)
