"""Batches for fairchem-core 1.x models, and energies from which forces follow by differentiation."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.ocp import fairchem

__all__ = ["batch_of", "energy_of", "forces_of"]


def batch_of(structures: Sequence[Any], dtype: torch.dtype | None = None) -> Any:
    """Return a PyG batch of ASE structures as fairchem's models take it.

    Parameters
    ----------
    structures
        ``ase.Atoms``, positions in Å; all or none of them periodic. The models are to be built with ``use_pbc=True`` and
        ``otf_graph=True``, for molecules, too: their neighbour search reads the flags, and the other one needs pyg-lib.
    dtype
        Of the positions; the cell is float32 whatever it is, as fairchem's neighbour search asks for.

    Raises
    ------
    BadInput
        If there are no structures, their periodicity differs, or fairchem-core 1.x is missing.
    """
    structures = list(structures)
    if not structures:
        raise BadInput("no structures to make a batch of", fix="pass at least one ase.Atoms")
    if len({tuple(bool(flag) for flag in atoms.pbc) for atoms in structures}) > 1:
        raise BadInput("structures of different periodicity cannot share a batch", fix="make one batch of each kind")
    fairchem.require()
    graphs = importlib.import_module("fairchem.core.preprocessing").AtomsToGraphs(
        r_edges=False, r_pbc=True, r_energy=False, r_forces=False
    )
    batch = importlib.import_module("torch_geometric.data").Batch.from_data_list(
        [graphs.convert(s) for s in structures]
    )
    batch.pos = batch.pos.to(dtype or torch.get_default_dtype())
    batch.cell = batch.cell.to(torch.float32)
    return batch


def energy_of(model: nn.Module, batch: Any) -> Tensor:
    """Return the energies (n_structures,) in the model's unit, whatever the form of its output."""
    output = model(batch)
    energy: Tensor = output["energy"] if isinstance(output, dict) else output
    return energy.reshape(-1)


def forces_of(model: nn.Module, batch: Any, create_graph: bool = False) -> Tensor:
    """Return -dE/dx (n_atoms, 3) by one differentiation of `energy_of`.

    That is not what every model of fairchem returns as forces: PaiNN's differentiate a feature, not the energy.
    DimeNet++ computes its angles from detached positions, and this derivative leaves them out, as its own forces do.
    """
    moved = batch.clone()
    moved.pos = batch.pos.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        energy = energy_of(model, moved)
        (gradient,) = torch.autograd.grad(energy.sum(), moved.pos, create_graph=create_graph)
    return -gradient
