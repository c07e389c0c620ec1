"""Batches to run a model of the zoo on: molecules of the packaged data, or a small slab."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch_geometric.data import Batch, Data

from dcsurgery.errors import BadInput

__all__ = ["KINDS", "example_batch"]

KINDS = ("molecule", "slab")
_SPACING = 2.55  # Å, between neighbours in copper


def example_batch(kind: str = "molecule", structures: int = 2, dtype: torch.dtype = torch.float32) -> Batch:
    """Return a batch of structures, the same at every call.

    Parameters
    ----------
    kind
        ``molecule``: ethanol, frames of the packaged data. ``slab``: oxygen on two layers of copper, periodic in all
        directions, slightly distorted.
    structures
        How many.
    dtype
        Of positions and cell.

    Raises
    ------
    BadInput
        If the kind is unknown or there are no structures.
    """
    if kind not in KINDS:
        raise BadInput(f"unknown kind of structure {kind!r}", fix=f"there are: {', '.join(KINDS)}")
    if structures < 1:
        raise BadInput(f"structures must be at least 1, got {structures}")
    return Batch.from_data_list(
        [_molecule(i, dtype) if kind == "molecule" else _slab(i, dtype) for i in range(structures)]
    )


def _molecule(index: int, dtype: torch.dtype) -> Data:
    from dcsurgery.zoo.data.molecules import ethanol

    data = ethanol()
    return _data(data.numbers, data.positions[index % len(data)], np.zeros((3, 3)), periodic=False, dtype=dtype)


def _slab(index: int, dtype: torch.dtype) -> Data:
    a, h = _SPACING, _SPACING * np.sqrt(3) / 2
    layer = np.array([[i * a + (j % 2) * a / 2, j * h, 0.0] for j in range(2) for i in range(2)])
    upper = layer + np.array([a / 2, h / 3, _SPACING * np.sqrt(2 / 3)])
    oxygen = upper[0] + np.array([a / 2, h / 3, 1.2])
    noise = np.random.Generator(np.random.PCG64(index)).normal(scale=0.05, size=(9, 3))
    positions = np.concatenate([layer, upper, oxygen[None]]) + np.array([0.0, 0.0, 3.0]) + noise
    cell = np.diag([2 * a, 2 * h, 12.0])
    return _data(np.array([29] * 8 + [8]), positions, cell, periodic=True, dtype=dtype)


def _data(numbers: Any, positions: Any, cell: Any, *, periodic: bool, dtype: torch.dtype) -> Data:
    return Data(
        pos=torch.as_tensor(positions, dtype=dtype),
        atomic_numbers=torch.as_tensor(numbers, dtype=torch.long),
        natoms=torch.tensor([len(numbers)]),
        cell=torch.as_tensor(cell, dtype=dtype)[None],
        pbc=torch.full((1, 3), periodic),
    )
