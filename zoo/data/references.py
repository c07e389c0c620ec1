"""Reference energies per element, taken off total energies: E - Σ c[Z]."""

from __future__ import annotations

import os
import zipfile
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.structures import StructureSet

__all__ = ["fit_references", "read_references", "without_references"]

_KEY = "coeff"


def read_references(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read the file of linear references that OC20 and OC22 come with.

    Parameters
    ----------
    path
        npz file with ``coeff`` (n_elements,), in eV, by atomic number.

    Raises
    ------
    BadInput
        If it cannot be read, or has no such array.
    """
    where = str(path)
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            if _KEY not in file.files:
                raise BadInput(f"no array {_KEY}; present: {', '.join(file.files) or 'none'}", where=where)
            return np.asarray(file[_KEY], dtype=np.float64).reshape(-1)
    except BadInput:
        raise
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise BadInput(f"not a readable npz file ({error})", where=where, fix=f"give an npz with {_KEY}") from None


def without_references(data: StructureSet, references: ArrayLike) -> StructureSet:
    """Return the set with the references taken off its energies; forces do not change.

    Parameters
    ----------
    data
        The set.
    references
        By atomic number, shape (n_elements,), in the set's unit of energy. An element whose reference is 0 counts as
        one without.

    Raises
    ------
    BadInput
        If an element of the set has no reference.
    """
    table = np.asarray(references, dtype=np.float64).reshape(-1)
    present = np.unique(data.numbers)
    lacking = [int(z) for z in present if z >= len(table) or table[z] == 0]
    if lacking:
        raise BadInput(f"no reference energy for atomic numbers {lacking}", where=data.name, fix="fit them to the data")
    return replace(data, energies=data.energies - np.add.reduceat(table[data.numbers], data.offsets[:-1]))


def fit_references(data: StructureSet) -> NDArray[Any]:
    """Return the references that come closest to the energies (least squares, smallest norm), by atomic number."""
    counts = np.zeros((len(data), 119))
    np.add.at(counts, (np.repeat(np.arange(len(data)), data.natoms), data.numbers), 1.0)
    return np.linalg.lstsq(counts, data.energies, rcond=None)[0]
