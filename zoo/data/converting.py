"""Write a data set into another format, whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.ase_files import to_atoms
from dcsurgery.zoo.data.structures import StructureSet
from dcsurgery.zoo.writing import replacing

__all__ = ["WRITTEN", "write_data"]

#: Formats by ending.
WRITTEN = {".npz": "npz", ".xyz": "extxyz", ".extxyz": "extxyz", ".traj": "traj", ".db": "db"}


def write_data(
    data: StructureSet,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write a set.

    Parameters
    ----------
    data
        The set. npz and extxyz files are written in its units and state them; ``.traj`` and ``.db`` are ASE's own, in
        eV and Å.
    path
        Its ending tells the format: ``.npz`` (one molecule), ``.extxyz`` or ``.xyz``, ``.traj``, ``.db``.
    force
        Replace an existing file.
    progress
        Called with the number of structures written.

    Raises
    ------
    BadInput
        If the ending is unknown, the file exists, the folder cannot be written to, or an npz file is asked for and
        structures differ in their atoms or are periodic.
    """
    path = Path(path)
    kind = WRITTEN.get(path.suffix)
    if kind is None:
        raise BadInput(
            f"cannot write {path.suffix or 'a file without ending'}", where=str(path), fix=f"use {', '.join(WRITTEN)}"
        )
    if path.exists() and not force:
        raise BadInput("the file exists", where=str(path), fix="choose another name or add --force")
    if not path.parent.is_dir():
        raise BadInput(f"no folder {path.parent}", where=str(path), fix="make the folder first")
    if kind == "npz":
        _write_npz(data, path)
    else:
        _write_ase(data if kind == "extxyz" else data.to("eV"), path, kind, progress)
    if progress is not None:
        progress(len(data))
    return path


def _write_npz(data: StructureSet, path: Path) -> None:
    atoms = int(data.natoms[0])
    if (data.natoms != atoms).any() or not np.array_equal(data.numbers, np.tile(data.numbers[:atoms], len(data))):
        raise BadInput(
            f"npz holds frames of one molecule, and structures differ: {data.natoms.min()} to {data.natoms.max()} atoms",
            where=str(path),
            fix="write .extxyz, .traj or .db",
        )
    if data.pbc.any():
        raise BadInput(
            "npz holds molecules, and these are periodic", where=str(path), fix="write .extxyz, .traj or .db"
        )
    provenance = {
        "generator": "dcsurgery.zoo.data.converting",
        "source": data.name,
        "units": {"R": data.units.length, "E": data.units.energy, "F": data.units.force},
    }
    save: Any = np.savez_compressed  # its type is another one in NumPy 1 and 2
    with replacing(path) as file:
        save(
            file,
            R=data.positions.reshape(len(data), atoms, 3),
            E=data.energies,
            F=data.forces.reshape(len(data), atoms, 3),
            z=data.numbers[:atoms],
            provenance=np.array(json.dumps(provenance)),
        )


def _write_ase(data: StructureSet, path: Path, kind: str, progress: Callable[[int], None] | None) -> None:
    from ase.db import connect
    from ase.io import write
    from ase.io.trajectory import Trajectory

    try:
        # ASE writes by name; the finished file moves into place.
        with tempfile.TemporaryDirectory(prefix=path.name, dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            if kind == "extxyz":
                with temporary.open("w", encoding="utf-8") as stream:
                    for number, atoms in enumerate(to_atoms(data)):
                        atoms.info["units"] = str(data.units)
                        write(stream, atoms, format="extxyz")
                        if progress is not None:
                            progress(number)
            elif kind == "traj":
                with Trajectory(str(temporary), "w") as trajectory:
                    for number, atoms in enumerate(to_atoms(data)):
                        trajectory.write(atoms)
                        if progress is not None:
                            progress(number)
            else:
                with connect(temporary, use_lock_file=False) as database:
                    for number, atoms in enumerate(to_atoms(data)):
                        database.write(atoms)
                        if progress is not None:
                            progress(number)
            temporary.replace(path)
    except OSError as error:
        raise BadInput(f"cannot write: {error.strerror}", where=str(path), fix="choose another folder") from None
