"""What CGCNN and ForceNet know of the elements: k-hot codes, continuous properties, radii.

The tables are the ones that OCP trains with, so that its weights fit; ``elements.npz`` holds them, and this file makes it
from an installed fairchem-core 1.x (MIT licence, see ``elements.LICENSE.txt``)::

    python -m dcsurgery.zoo.ocp.element_tables elements.npz
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcsurgery.zoo.writing import replacing

__all__ = ["khot", "make", "properties", "radii"]

_FILE = Path(__file__).with_name("elements.npz")


@cache
def _table(name: str) -> NDArray[Any]:
    with np.load(_FILE, allow_pickle=False) as file:
        return file[name]


def khot() -> Tensor:
    """Return CGCNN's code of every element, row z - 1, shape (100, 92): one of each group of entries is 1."""
    return torch.as_tensor(np.unpackbits(_table("khot"), axis=1, count=92), dtype=torch.float32)


def properties() -> Tensor:
    """Return nine properties of every element, row z, shape (101, 9), NaN where unknown.

    Among them are group, period, electronegativity, covalent radius, valence electrons, ionization energy, electron
    affinity, block.
    """
    return torch.as_tensor(_table("properties"), dtype=torch.float32)


def radii() -> Tensor:
    """Return the atomic radius of every element, entry z, shape (101,), in Å, NaN where unknown."""
    return torch.as_tensor(_table("radii"), dtype=torch.float32) / 100


def make(path: Path) -> None:
    """Write the tables of the installed fairchem-core 1.x.

    Raises
    ------
    BadInput
        If it is missing, or the file cannot be written.
    """
    from dcsurgery.zoo.ocp import fairchem

    fairchem.require()
    source = importlib.import_module("fairchem.core.datasets.embeddings")
    codes = np.array([source.KHOT_EMBEDDINGS[z] for z in range(1, 101)], dtype=np.uint8)
    with replacing(path) as file:
        np.savez_compressed(
            file,
            khot=np.packbits(codes, axis=1),
            properties=np.array([source.CONTINUOUS_EMBEDDINGS[z] for z in range(101)], dtype=np.float64),
            radii=np.array([source.ATOMIC_RADII[z] for z in range(101)], dtype=np.float64),  # pm
        )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
