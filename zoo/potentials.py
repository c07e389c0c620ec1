"""Energies and forces of any potential: of the zoo, of PyG, of fairchem, edited or not.

A batch is a `torch_geometric.data.Batch` with ``pos`` (n_atoms, 3) in Å, ``atomic_numbers`` (n_atoms,) int64, ``natoms``
(n_structures,), ``batch`` (n_atoms,), and for periodic structures ``cell`` (n_structures, 3, 3) in Å and ``pbc``
(n_structures, 3). Energies are captured, forces derived: F = -dE/dpos, one function for all models.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.batch_checks import check_batch, check_elements
from dcsurgery.zoo.ocp import fairchem_calls
from dcsurgery.zoo.ocp.graph import radius_graph

__all__ = ["energy", "energy_and_forces", "example_inputs", "takes_batch"]

#: Wrappers whose own ``forward`` does not say what the model inside takes.
_INSIDE = ("module", "_orig_mod")


def energy(model: nn.Module, batch: Any, *, scaled: bool = False) -> Tensor:
    """Return the energies (n_structures,) of a batch.

    Parameters
    ----------
    model
        Takes ``(z, pos, batch)``, and ``cell`` and ``pbc`` if it can be periodic, or takes the batch; returns energies
        (n_structures,) or (n_structures, 1), a tuple that begins with them, or a mapping with the entry ``energy``.
    batch
        The structures; unchanged.
    scaled
        The raw output of a model whose labels were rescaled: times C it is physical. Others have only one output.

    Raises
    ------
    BadInput
        If the model does not return one energy per structure, does not know an element, or fails for want of neighbours.
    """
    check_elements(_inside(model), batch)
    arguments = example_inputs(model, batch)
    options = {"scaled": True} if scaled and _is_rescaled(model) else {}
    try:
        with fairchem_calls.energies_only(model):
            output = model(*arguments, **options)
    except (IndexError, RuntimeError, ValueError, AssertionError):
        check_batch(_inside(model), batch)  # where it finds the cause, it says it
        raise
    found = _energy_in(output)
    structures = _structures(batch)
    if found is None or found.numel() != structures:
        got = type(output).__name__ if found is None else tuple(found.shape)
        raise BadInput(
            f"the model must return one energy per structure, shape ({structures},) or ({structures}, 1), got {got}",
            where=type(model).__name__,
        )
    return found.reshape(-1)


def energy_and_forces(
    model: nn.Module, batch: Any, *, create_graph: bool = False, scaled: bool = False, consistent: bool = False
) -> tuple[Tensor, Tensor]:
    """Return energies (n_structures,) and forces -dE/dpos (n_atoms, 3).

    Parameters
    ----------
    model, batch, scaled
        As for `energy`.
    create_graph
        Make the forces differentiable, as training on them needs.
    consistent
        The true gradient also where a model leaves a part of it out: fairchem's DimeNet++ computes its angles from
        detached positions, so that its forces, and these without ``consistent``, are not -dE/dpos.

    Raises
    ------
    BadInput
        If the energies do not depend on the positions, or as for `energy`.
    """
    moved = batch.clone()
    moved.pos = batch.pos.detach().clone().requires_grad_(True)
    with torch.enable_grad(), fairchem_calls.attached_angles(model, consistent):
        energies = energy(model, moved, scaled=scaled)
        gradient = None
        if energies.requires_grad:
            (gradient,) = torch.autograd.grad(energies.sum(), moved.pos, create_graph=create_graph, allow_unused=True)
    if gradient is None or not bool(gradient.any()):
        check_batch(_inside(model), batch)  # atoms without neighbours feel no force, and nothing else tells
    if gradient is None:
        raise BadInput("the energy does not depend on the positions", where=type(model).__name__)
    return energies if create_graph else energies.detach(), -gradient


def example_inputs(model: nn.Module, batch: Any) -> tuple[Any, ...]:
    """Return the arguments with which a model is called on a batch; they are what `dcsurgery.transform` runs it on."""
    if takes_batch(model):
        return (fairchem_calls.prepared(model, batch),)
    names = _parameters(model)
    z = batch.atomic_numbers if "atomic_numbers" in batch else batch.z
    arguments = [z.long(), batch.pos, batch.batch]
    if "edge_index" in names and "natoms" in names:  # hoisted
        values = getattr(_inside(model), "dcsurgery_config", {})
        return (*arguments, radius_graph(batch.pos, values.get("cutoff", 6.0), batch.batch), batch.natoms)
    if "cell" in names and "pbc" in names and batch.get("pbc") is not None and bool(batch.pbc.any()):
        arguments += [batch.cell.reshape(-1, 3, 3).to(batch.pos), batch.pbc.reshape(-1, 3)]
    return tuple(arguments)


def takes_batch(model: nn.Module) -> bool:
    """Return whether a model's one argument is the batch, as in fairchem, and not ``(z, pos, batch)``, as in PyG."""
    return "pos" not in _parameters(model)


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(_inside(model).forward).parameters


def _inside(model: nn.Module) -> nn.Module:
    for name in _INSIDE:
        inner = model._modules.get(name)
        if inner is not None and not hasattr(type(model), "dcsurgery_config") and len(model._modules) == 1:
            return _inside(inner)
    return model


def _is_rescaled(model: nn.Module) -> bool:
    return "scaled" in _parameters(model) and hasattr(_inside(model), "label_scale")


def _structures(batch: Any) -> int:
    if batch.get("natoms") is not None:
        return int(batch.natoms.numel())
    return int(batch.num_graphs)


def _energy_in(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        if "energy" in output:
            return _energy_in(output["energy"])
        inner = [_energy_in(value) for value in output.values() if isinstance(value, Mapping)]
        return next((value for value in inner if value is not None), None)
    if isinstance(output, tuple) and output:
        return _energy_in(output[0])
    return None
