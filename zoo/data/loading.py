"""Read a data set from whatever file holds it."""

from __future__ import annotations

import os
from pathlib import Path

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.npz_files import read_frames
from dcsurgery.zoo.data.structures import StructureSet
from dcsurgery.zoo.data.units import Units

__all__ = ["load"]


def load(source: str | os.PathLike[str], *, units: Units | str | None = None, fmt: str | None = None) -> StructureSet:
    """Read a data set (npz)."""
    path = Path(source)
    frames, stated = read_frames(path)
    chosen = Units.of(units) if units is not None else stated
    return StructureSet.of_molecule(frames["z"], frames["R"], frames["E"], frames["F"], chosen, name=path.stem)
