"""Molecular data sets: npz files with geometries, energies and forces."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.npz_files import read_frames
from dcsurgery.zoo.data.units import KCAL

__all__ = ["MoleculeData", "ethanol", "ethanol_path", "load_npz", "random_split"]


@dataclass(frozen=True)
class MoleculeData:
    """Labelled geometries of one molecule.

    Attributes
    ----------
    numbers
        Atomic numbers, shape (n_atoms,), int64.
    positions
        Shape (n_frames, n_atoms, 3), float64, in Å.
    energies
        Shape (n_frames,), float64, in kcal/mol.
    forces
        -dE/dR, shape (n_frames, n_atoms, 3), float64, in kcal/mol/Å.
    units
        Units of positions, energies and forces.
    """

    numbers: NDArray[Any]
    positions: NDArray[Any]
    energies: NDArray[Any]
    forces: NDArray[Any]
    units: tuple[str, str, str] = ("Angstrom", "kcal/mol", "kcal/mol/Angstrom")

    def __len__(self) -> int:
        return len(self.energies)

    def __getitem__(self, index: Any) -> MoleculeData:
        """Return some of the frames; ``index`` is a slice or an array of indices."""
        return MoleculeData(self.numbers, self.positions[index], self.energies[index], self.forces[index], self.units)


def load_npz(path: str | os.PathLike[str]) -> MoleculeData:
    """Read a data set in the layout of MD17 and sGDML.

    Parameters
    ----------
    path
        npz file with ``R`` (n_frames, n_atoms, 3) in Å, ``E`` (n_frames,) or (n_frames, 1) in kcal/mol, ``F`` (n_frames,
        n_atoms, 3) in kcal/mol/Å and ``z`` (n_atoms,), or rMD17's names for them. Other arrays are left alone.

    Raises
    ------
    BadInput
        If the file is missing or is not an npz file, an array is missing, shapes do not fit together, or a value is
        not finite; the message names the array.
    """
    frames, units = read_frames(Path(path))
    if units not in (None, KCAL):
        raise BadInput(
            f"the file states {units}", where=str(path), fix='read it with dcsurgery.zoo.load_data(...).to("kcal/mol")'
        )
    return MoleculeData(frames["z"], frames["R"], frames["E"], frames["F"])


def ethanol() -> MoleculeData:
    """Return 600 frames of ethanol at 500 K, labelled with GFN2-xTB: what ``dcsurgery.zoo.data.xtb`` made (seed 0)."""
    return load_npz(ethanol_path())


def ethanol_path() -> Path:
    """Return the file that `ethanol` reads."""
    with as_file(files("dcsurgery.zoo") / "data" / "ethanol_gfn2.npz") as path:
        return Path(path)


def random_split(n: int, sizes: tuple[int, ...], seed: int) -> tuple[NDArray[Any], ...]:
    """Draw disjoint index sets at random.

    Parameters
    ----------
    n
        Number of frames.
    sizes
        Sizes of the sets, for instance ``(400, 100, 100)``.
    seed
        Seed; the same one gives the same sets.

    Returns
    -------
    tuple of numpy.ndarray
        One array of indices for each size.

    Raises
    ------
    BadInput
        If a size is negative or all together exceed ``n``.
    """
    if any(size < 0 for size in sizes) or sum(sizes) > n:
        raise BadInput(f"cannot draw {' + '.join(map(str, sizes)) or '0'} of {n} frames", fix="ask for fewer frames")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(n)
    return tuple(np.split(order, np.cumsum(sizes))[: len(sizes)])
