"""One file per family of models: what the zoo can build."""

from __future__ import annotations

from dcsurgery.zoo.families import cgcnn, dimenet, escn, forcenet, gemnet, painn, schnet
from dcsurgery.zoo.families.entry import FORCES, Entry, ForceKind, Size
from dcsurgery.zoo.pde.entries import PINN_ENTRIES

__all__ = ["ENTRIES", "FORCES", "Entry", "ForceKind", "Size"]

#: Every model with every backend; of several backends of a name, the first that is installed is the usual one.
ENTRIES: tuple[Entry, ...] = (
    *(entry for family in (cgcnn, dimenet, escn, forcenet, gemnet, painn, schnet) for entry in family.ENTRIES),
    *(Entry(**entry) for entry in PINN_ENTRIES),
)
