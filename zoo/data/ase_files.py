"""Whatever ASE reads: extended xyz, trajectories, databases, output files of programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.structures import StructureSet
from dcsurgery.zoo.data.units import Units

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["DATABASES", "from_atoms", "read_ase", "to_atoms"]

DATABASES = (".db",)
#: Names under which programs leave labels that are not called energy and forces.
_ENERGY_KEYS = ("energy", "REF_energy", "dft_energy", "DFT_energy", "Energy", "potential_energy", "U0")
_FORCE_KEYS = ("forces", "force", "REF_forces", "dft_forces", "DFT_forces", "Forces")


def read_ase(path: Path, units: Units | None, fmt: str | None = None) -> StructureSet:
    """Read a file with ASE.

    Parameters
    ----------
    path
        The file.
    units
        Of its numbers. By default those under ``units`` in its first structure's ``info``, where `write_data` of
        `dcsurgery.zoo.data.converting` puts them, or else ASE's own, eV and Å.
    fmt
        Name of the format as ASE knows it; by default ASE finds out.

    Raises
    ------
    BadInput
        If ASE is missing, does not know the format or cannot read the file, or a structure has no labels.
    """
    where = str(path)
    try:
        import ase.io
    except ImportError:
        raise BadInput("ASE is not installed", where=where, fix='pip install "dcsurgery[zoo]"') from None
    if path.is_file() and not path.stat().st_size:
        raise BadInput("the file is empty", where=where, fix="give data with at least one structure")
    frames = []
    try:
        for atoms in _rows(path) if path.suffix in DATABASES else ase.io.iread(where, index=":", format=fmt):
            frames.append(atoms)  # noqa: PERF402 - a file that ends early tells only when it is reached
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001 - every reader of ASE fails in its own way
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        after = f" after {len(frames)} structures" if frames else ""
        raise BadInput(
            f"ASE cannot read it{after} ({reason})", where=where, fix="get the file again, or name its format with fmt"
        ) from None
    said = str(frames[0].info.get("units", "")) if frames else ""
    stated = Units.of(said) if said else None
    if units is not None and stated is not None and units != stated:
        raise BadInput(f"the file states {stated}, not {units}", where=where, fix="leave the units out")
    return from_atoms(frames, units or stated or Units(), where=where, name=path.stem)


def from_atoms(frames: list[Atoms], units: Units, *, where: str, name: str) -> StructureSet:
    """Return the set of some labelled ASE structures; the raw forces, also of atoms that are held fixed.

    Raises
    ------
    BadInput
        If there is none, or one has no energy, no forces, or labels of a wrong shape.
    """
    if not frames:
        raise BadInput("no structures in it", where=where, fix="give data with at least one structure")
    energies, forces = [], []
    for number, atoms in enumerate(frames):
        energy, force = _labels(atoms)
        if energy is None or force is None:
            missing = " and no ".join(word for word, value in (("energy", energy), ("forces", force)) if value is None)
            found = sorted({*atoms.info, *atoms.arrays} - {"numbers", "positions"})
            raise BadInput(
                f"structure {number} has no {missing}; it has {', '.join(found) or 'positions only'}",
                where=where,
                fix="training needs both: label it with a calculator first",
            )
        if np.shape(force) != (len(atoms), 3):
            raise BadInput(
                f"structure {number}: forces must have shape {(len(atoms), 3)}, got {np.shape(force)}", where=where
            )
        energies.append(energy)
        forces.append(force)
    return StructureSet(
        np.concatenate([atoms.numbers for atoms in frames]),
        np.concatenate([atoms.positions for atoms in frames]),
        np.array([len(atoms) for atoms in frames]),
        np.array(energies, dtype=np.float64),
        np.concatenate(forces),
        units,
        cells=np.array([np.asarray(atoms.cell) * (1.0 if atoms.pbc.any() else 0.0) for atoms in frames]),
        pbc=np.array([atoms.pbc for atoms in frames]),
        fixed=np.concatenate([_fixed(atoms) for atoms in frames]),
        systems=np.array([int(atoms.info.get("system", 0)) for atoms in frames]),
        name=name,
    )


def to_atoms(data: StructureSet, indices: Any = slice(None)) -> Iterator[Atoms]:
    """Yield structures as labelled ``ase.Atoms``, in the set's own units."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.constraints import FixAtoms

    for index in np.arange(len(data))[indices]:
        rows = slice(data.offsets[index], data.offsets[index + 1])
        atoms = Atoms(data.numbers[rows], data.positions[rows], cell=data.cells[index], pbc=data.pbc[index])
        if data.systems.any():
            atoms.info["system"] = int(data.systems[index])
        if data.fixed[rows].any():
            atoms.set_constraint(FixAtoms(mask=data.fixed[rows]))
        atoms.calc = SinglePointCalculator(atoms, energy=float(data.energies[index]), forces=data.forces[rows].copy())
        yield atoms


def _rows(path: Path) -> Iterator[Atoms]:
    from ase.db import connect

    with connect(path, use_lock_file=False) as database:
        for row in database.select():
            yield row.toatoms()


def _labels(atoms: Atoms) -> tuple[Any, Any]:
    results = getattr(atoms.calc, "results", {})
    energy, forces = results.get("energy"), results.get("forces")
    if energy is None:
        energy = next((atoms.info[key] for key in _ENERGY_KEYS if key in atoms.info), None)
    if forces is None:
        forces = next((atoms.arrays[key] for key in _FORCE_KEYS if key in atoms.arrays), None)
    return energy, forces


def _fixed(atoms: Atoms) -> Any:
    from ase.constraints import FixAtoms

    mask = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            mask[constraint.index] = True
    return mask
