"""One file per family of models: what the zoo can build."""

from __future__ import annotations

from dcsurgery.zoo.families import cgcnn, dimenet, escn, forcenet, gemnet, painn, pinn, schnet
from dcsurgery.zoo.families.entry import FORCES, Entry, ForceKind, Size

__all__ = ["ENTRIES", "FORCES", "Entry", "ForceKind", "Size"]

#: Every model with every backend; of several backends of a name, the first that is installed is the usual one.
ENTRIES: tuple[Entry, ...] = tuple(
    entry for family in (cgcnn, dimenet, escn, forcenet, gemnet, painn, pinn, schnet) for entry in family.ENTRIES
)
