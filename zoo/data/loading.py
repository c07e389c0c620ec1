"""Read a data set from whatever file, folder or source holds it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.ase_files import read_ase
from dcsurgery.zoo.data.downloads import downloaded, is_remote
from dcsurgery.zoo.data.lmdb_files import read_graphs
from dcsurgery.zoo.data.magnitudes import check_magnitudes
from dcsurgery.zoo.data.npz_files import read_frames
from dcsurgery.zoo.data.references import read_references, without_references
from dcsurgery.zoo.data.structures import StructureSet
from dcsurgery.zoo.data.units import Units

__all__ = ["load"]

_EV = Units("eV")
#: Endings by which files of a folder are recognized; a single file may have any that ASE knows.
_SUFFIXES = (".npz", ".lmdb", ".xyz", ".extxyz", ".traj", ".db")


def load(
    source: str | os.PathLike[str],
    *,
    units: Units | str | None = None,
    fmt: str | None = None,
    check_units: bool = True,
    references: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> StructureSet:
    """Read a data set.

    Parameters
    ----------
    source
        An npz file in the layout of MD17 or rMD17, an LMDB of OC20 or OC22, an extended xyz file, an ASE trajectory or
        database, any other file that ASE reads, a folder of those (each file becomes a system of the set), or
        ``md17:NAME`` and ``rmd17:NAME``, which are downloaded once.
    units
        What the numbers are in. By default what the file says, or else the habit of its format: kcal/mol for npz, eV
        for all others; Å.
    fmt
        ``npz``, ``lmdb``, or a format's name as ASE knows it; by default told by the file's ending.
    check_units
        Refuse numbers that cannot be in these units.
    references
        An npz file with ``coeff``, reference energies in eV by atomic number (OC20's and OC22's ``linref``), which are
        taken off the energies.
    progress
        Called with the name of each file that is read.

    Raises
    ------
    BadInput
        If there is nothing to read, it is damaged or lacks labels, a label is not finite, or the numbers cannot be in
        the units.
    """
    stated = None if units is None else Units.of(units)
    text = os.fspath(source)
    path = downloaded(text) if is_remote(text) else Path(text)
    files = _files(path)
    sets = []
    for file in files:
        if progress is not None:
            progress(file.name)
        one = _read(file, stated, fmt)
        if check_units:
            check_magnitudes(one, where=str(file))
        sets.append(one)
    data = sets[0] if path not in _parents(files) else StructureSet.joined(sets, path.resolve().name)
    if references is not None:
        table = read_references(references)
        data = without_references(data, table * _in_units_of(data))
    return data


def _parents(files: list[Path]) -> set[Path]:
    return {file.parent for file in files}


def _in_units_of(data: StructureSet) -> float:
    from dcsurgery.zoo.data.units import energy_factor

    return energy_factor(_EV, data.units)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise BadInput("no such file", where=str(path), fix=f"give a file or folder, such as *{', *'.join(_SUFFIXES)}")
    if path.is_file() or (path / "data.mdb").is_file():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    if not files:
        found = sorted({file.suffix or file.name for file in path.iterdir()})
        raise BadInput(
            f"the folder has no data file; it has {', '.join(found) or 'nothing'}",
            where=str(path),
            fix=f"read are {', '.join(_SUFFIXES)}",
        )
    return files


def _read(path: Path, units: Units | None, fmt: str | None) -> StructureSet:
    kind = fmt or ("lmdb" if path.is_dir() or path.suffix in (".lmdb", ".mdb") else path.suffix.lstrip("."))
    if kind == "npz":
        frames, said = read_frames(path)
        if units is not None and said is not None and units != said:
            raise BadInput(f"the file states {said}, not {units}", where=str(path), fix="leave the units out")
        chosen = units or said or Units("kcal/mol")
        n = len(frames["E"])
        periodic = {
            ours: np.broadcast_to(frames[theirs], (n, *frames[theirs].shape)).reshape(shape)
            for theirs, ours, shape in (("cell", "cells", (n, 3, 3)), ("pbc", "pbc", (n, 3)), ("fixed", "fixed", -1))
            if theirs in frames
        }
        labels = (frames["z"], frames["R"], frames["E"], frames["F"])
        return StructureSet.of_molecule(*labels, chosen, name=path.stem, **periodic)
    if kind == "lmdb":
        return _graphs(path, units or _EV)
    # ASE tells .xyz files apart by their second line; the extended kind is the one that has labels.
    return read_ase(path, units, fmt or ("extxyz" if path.suffix in (".xyz", ".extxyz") else None))


def _graphs(path: Path, units: Units) -> StructureSet:
    parts: dict[str, list[Any]] = {key: [] for key in ("numbers", "positions", "forces", "energies", "cells", "fixed")}
    systems: dict[Any, int] = {}
    system = []
    for where, graph in read_graphs(path):
        energy = _first(graph, ("y", "energy"), where)
        forces = np.asarray(_first(graph, ("force", "forces"), where), dtype=np.float64)
        positions = np.asarray(_first(graph, ("pos",), where), dtype=np.float64)
        numbers = np.asarray(_first(graph, ("atomic_numbers", "z"), where)).astype(np.int64).reshape(-1)
        if forces.shape != positions.shape or positions.shape != (len(numbers), 3):
            raise BadInput(
                f"pos {positions.shape}, force {forces.shape} and {len(numbers)} atomic numbers do not fit", where=where
            )
        parts["numbers"].append(numbers)
        parts["positions"].append(positions)
        parts["forces"].append(forces)
        parts["energies"].append(float(np.asarray(energy).reshape(-1)[0]))
        parts["cells"].append(np.asarray(graph.get("cell", np.zeros((3, 3))), dtype=np.float64).reshape(3, 3))
        parts["fixed"].append(np.asarray(graph.get("fixed", np.zeros(len(numbers)))).astype(bool).reshape(-1))
        system.append(systems.setdefault(str(graph.get("sid", "")), len(systems)))
    if not system:
        raise BadInput("no structures in it", where=str(path), fix="give data with at least one structure")
    cells = np.array(parts.pop("cells"))
    per_atom = {key: np.concatenate(parts[key]) for key in ("numbers", "positions", "forces", "fixed")}
    return StructureSet(
        natoms=np.array([len(one) for one in parts["numbers"]]),
        energies=np.array(parts["energies"]),
        cells=cells,
        # OC20 and OC22 do not store it: all of their cells repeat in all directions.
        pbc=np.repeat((cells != 0).reshape(len(cells), -1).any(axis=1)[:, None], 3, axis=1),
        systems=np.array(system),
        units=units,
        name=path.stem,
        **per_atom,
    )


def _first(graph: dict[str, Any], keys: tuple[str, ...], where: str) -> Any:
    for key in keys:
        if graph.get(key) is not None:
            return graph[key]
    present = sorted(key for key in graph if not key.startswith("_"))
    raise BadInput(
        f"no {' or '.join(keys)}; it has {', '.join(present) or 'nothing'}",
        where=where,
        fix="needed are pos, atomic_numbers, y (energy) and force: OC's S2EF data, not its relaxed energies",
    )
