"""Molecular data sets: npz files with geometries, energies and forces."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcsurgery.errors import BadInput

__all__ = ["MoleculeData", "ethanol", "ethanol_path", "load_npz", "random_split"]

_NEEDED = ("R", "E", "F", "z")


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
        n_atoms, 3) in kcal/mol/Å and ``z`` (n_atoms,). Other arrays are left alone.

    Raises
    ------
    BadInput
        If the file is missing or is not an npz file, an array is missing, shapes do not fit together, or a value is
        not finite; the message names the array.
    """
    where = str(path)
    if not Path(path).is_file():
        problem = "is a directory" if Path(path).is_dir() else "no such file"
        raise BadInput(problem, where=where, fix="give an npz file with R, E, F and z")
    fix = "give an npz file with R, E, F and z"
    try:
        # NumPy leaves a damaged file open that it opened itself.
        with Path(path).open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise BadInput("a single array, not an npz file", where=where, fix=fix)
            missing = [key for key in _NEEDED if key not in file.files]
            if missing:
                raise BadInput(
                    f"no array {', '.join(missing)}; present: {', '.join(file.files) or 'none'}",
                    where=where,
                    fix="needed are R (positions), E (energies), F (forces) and z (atomic numbers)",
                )
            arrays = {key: file[key] for key in _NEEDED}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"not a readable npz file ({error})", where=where, fix=fix) from None
    return _checked(arrays, where)


def _checked(arrays: dict[str, NDArray[Any]], where: str) -> MoleculeData:
    for key, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise BadInput(f"{key} must hold real numbers, got {array.dtype}", where=where)
        if not np.isfinite(array).all():
            bad = np.argwhere(~np.isfinite(array))[0].tolist()
            raise BadInput(
                f"{key} is not finite at index {bad}", where=where, fix="remove the frames whose calculation failed"
            )
    positions, energies, forces, numbers = (arrays[key] for key in _NEEDED)
    if positions.ndim != 3 or positions.shape[-1] != 3:
        raise BadInput(f"R must have shape (n_frames, n_atoms, 3), got {positions.shape}", where=where)
    frames, atoms, _ = positions.shape
    if not frames or not atoms:
        raise BadInput(f"R holds no positions: shape {positions.shape}", where=where)
    if energies.size != frames or energies.ndim > 2:
        raise BadInput(f"E must have shape ({frames},) as R has {frames} frames, got {energies.shape}", where=where)
    if forces.shape != positions.shape:
        raise BadInput(f"F must have the shape of R, {positions.shape}, got {forces.shape}", where=where)
    if numbers.shape != (atoms,):
        raise BadInput(f"z must have shape ({atoms},) as R has {atoms} atoms, got {numbers.shape}", where=where)
    if (numbers != np.round(numbers)).any() or (numbers < 1).any():
        raise BadInput("z must hold atomic numbers, whole and at least 1", where=where)
    return MoleculeData(
        numbers.astype(np.int64),
        positions.astype(np.float64),
        energies.reshape(frames).astype(np.float64),
        forces.astype(np.float64),
    )


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
