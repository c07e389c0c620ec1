"""Training with derivative constraints: alpha |E(x)/C - f(x)|^2 + beta |F/C + df/dx|^2, forces from autograd.

Source: Lo & Huang, arXiv:2310.01649, Eq. 2 and 5 (with F = -dE/dx, as in the published programs); those programs take
absolute errors, the paper prints squares: ``loss`` selects. Energy and force terms are means over structures and over
force components, so that alpha and beta do not depend on the size of batch and molecule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.molecules import MoleculeData, random_split

__all__ = ["Errors", "History", "evaluate", "train"]

Loss = Literal["absolute", "squared"]
Reference = Literal["none", "mean"]


@dataclass(frozen=True)
class Errors:
    """Mean absolute errors on a set of structures.

    Attributes
    ----------
    energy
        In the labels' energy unit (kcal/mol).
    force
        Over force components, in the labels' force unit (kcal/mol/Å).
    """

    energy: float
    force: float

    def __str__(self) -> str:
        return f"energy {self.energy:.4g} kcal/mol, force {self.force:.4g} kcal/mol/Å"


@dataclass(frozen=True)
class History:
    """What a training did.

    Attributes
    ----------
    losses
        Loss of every step, of the scaled labels.
    before, after
        Errors on the held-out set.
    scale
        Label scale C.
    reference
        Energy that was subtracted from the labels and added to the predictions.
    held_out
        Indices of the held-out frames.
    """

    losses: tuple[float, ...]
    before: Errors
    after: Errors
    scale: float
    reference: float
    held_out: NDArray[Any]

    def __str__(self) -> str:
        return f"{len(self.losses)} steps: {self.before} -> {self.after}"


def train(
    model: nn.Module,
    data: MoleculeData,
    *,
    steps: int,
    batch_size: int = 10,
    lr: float = 1e-3,
    energy_weight: float = 1.0,
    force_weight: float = 30.0,
    loss: Loss = "absolute",
    C: float | None = None,
    reference: Reference = "none",
    held_out: int = 100,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[], object] | None = None,
) -> History:
    """Fit a model to energies and forces with Adam, in place.

    Parameters
    ----------
    model
        Takes ``(z, pos, batch)`` and returns energies (n_structures, 1) or (n_structures,).
    data
        Labelled structures; ``held_out`` of them, drawn at random, are not trained on.
    steps, batch_size, lr
        Number of steps, structures per step, Adam's learning rate.
    energy_weight, force_weight
        alpha and beta.
    loss
        ``absolute`` or ``squared``.
    C
        Label scale: the model's raw output times C is the energy in kcal/mol. By default that of a model whose labels
        were rescaled, otherwise 1.
    reference
        ``mean`` subtracts the mean training energy from the energy labels; forces do not change. ``none`` trains on raw
        labels, as the paper does.
    held_out
        Number of structures on which the errors are measured.
    seed
        Seed of the split, of the batches and of dropout. The caller's random numbers are left alone.
    device
        Where to train.
    progress
        Called after every step.

    Returns
    -------
    History
        Losses, and the errors on the held-out structures before and after.

    Raises
    ------
    BadInput
        If an argument is out of range, the model's output has a wrong shape or the loss is not finite; the message then
        names the step and the first module whose output is not finite.
    """
    _check(steps, batch_size, lr, energy_weight, force_weight, loss, reference)
    scale = _scale(model, C)
    test, rest = random_split(len(data), (held_out, max(len(data) - held_out, 0)), seed)
    if not len(test) or not len(rest):
        raise BadInput(f"{held_out} of {len(data)} structures held out: none is left for the other set")
    model.to(device)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    offset = float(data.energies[rest].mean()) if reference == "mean" else 0.0
    before = evaluate(model, data[test], C=scale, reference=offset, device=device)
    batches = np.random.Generator(np.random.PCG64([seed, 1]))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    losses: list[float] = []
    mode = model.training
    model.train()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for step in range(steps):
                batch = data[batches.choice(rest, size=min(batch_size, len(rest)), replace=False)]
                z, pos, index = _inputs(batch, dtype, device)
                energy, force = _scaled_energy_and_forces(model, z, pos, index, len(batch), create_graph=True)
                # Divided in float64: float32 spacing at the raw energies is of the size of their errors.
                energy_label = torch.as_tensor((batch.energies - offset) / scale).to(device, dtype)
                force_label = torch.as_tensor(batch.forces.reshape(-1, 3) / scale).to(device, dtype)
                value = energy_weight * _distance(energy - energy_label, loss)
                value = value + force_weight * _distance(force - force_label, loss)
                losses.append(value.item())
                if not math.isfinite(losses[-1]):
                    raise _not_finite(model, (z, pos.detach(), index), step, losses[-1])
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                if progress is not None:
                    progress()
    finally:
        model.train(mode)
        # The force term leaves no gradients that a later caller could add to by mistake.
        optimizer.zero_grad()
    after = evaluate(model, data[test], C=scale, reference=offset, device=device)
    return History(tuple(losses), before, after, scale, offset, test)


def evaluate(
    model: nn.Module,
    data: MoleculeData,
    *,
    C: float | None = None,
    reference: float = 0.0,
    batch_size: int = 50,
    device: str | torch.device = "cpu",
) -> Errors:
    """Return the mean absolute errors of energies and forces, in eval mode, accumulated in float64.

    Parameters
    ----------
    model, data, C, device
        As for `train`.
    reference
        Energy that is added to the model's, in kcal/mol.
    batch_size
        Structures per call.

    Raises
    ------
    BadInput
        If there are no structures or the model's output has a wrong shape.
    """
    if not len(data):
        raise BadInput("no structures to measure errors on")
    scale = _scale(model, C)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    energy_sum = force_sum = 0.0
    mode = model.training
    model.eval()
    try:
        for start in range(0, len(data), batch_size):
            batch = data[start : start + batch_size]
            z, pos, index = _inputs(batch, dtype, device)
            energy, force = _scaled_energy_and_forces(model, z, pos, index, len(batch), create_graph=False)
            predicted = energy.detach().cpu().double().numpy() * scale + reference
            energy_sum += float(np.abs(predicted - batch.energies).sum())
            force_sum += float(np.abs(force.cpu().double().numpy() * scale - batch.forces.reshape(-1, 3)).sum())
    finally:
        model.train(mode)
    return Errors(energy_sum / len(data), force_sum / data.forces.size)


def _check(steps: int, batch_size: int, lr: float, alpha: float, beta: float, loss: str, reference: str) -> None:
    if steps < 0:
        raise BadInput(f"steps must not be negative, got {steps}")
    if batch_size < 1:
        raise BadInput(f"batch_size must be at least 1, got {batch_size}")
    if not (math.isfinite(lr) and lr > 0):
        raise BadInput(f"lr must be a positive number, got {lr}")
    for name, weight in (("energy_weight", alpha), ("force_weight", beta)):
        if not (math.isfinite(weight) and weight >= 0):
            raise BadInput(f"{name} must be a number of at least 0, got {weight}")
    if loss not in ("absolute", "squared"):
        raise BadInput(f"unknown loss {loss!r}", fix="use 'absolute' or 'squared'")
    if reference not in ("none", "mean"):
        raise BadInput(f"unknown reference {reference!r}", fix="use 'none' or 'mean'")


def _scale(model: nn.Module, C: float | None) -> float:
    """Return the label scale: the model's own, or else the one that was asked for."""
    own = getattr(model, "label_scale", None)
    if own is None:
        scale = 1.0 if C is None else float(C)
        if not (math.isfinite(scale) and scale > 0):
            raise BadInput(f"label scale C must be a positive number, got {C}")
        return scale
    if C is not None and float(C) != float(own):
        raise BadInput(
            f"the model's labels are rescaled by {float(own):g} already, so C = {C:g} would scale them twice",
            fix="leave C out",
        )
    return float(own)


def _inputs(batch: MoleculeData, dtype: torch.dtype, device: str | torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return z (n_atoms,), pos (n_atoms, 3) and batch (n_atoms,) of all structures."""
    atoms = len(batch.numbers)
    z = torch.as_tensor(batch.numbers).repeat(len(batch)).to(device)
    pos = torch.as_tensor(batch.positions.reshape(-1, 3)).to(device, dtype).requires_grad_()
    return z, pos, torch.arange(len(batch), device=z.device).repeat_interleave(atoms)


def _scaled_energy_and_forces(
    model: nn.Module, z: Tensor, pos: Tensor, index: Tensor, structures: int, *, create_graph: bool
) -> tuple[Tensor, Tensor]:
    """Return the raw energies (n_structures,) and forces (n_atoms, 3): what times C is physical."""
    rescaled = getattr(model, "label_scale", None) is not None
    with torch.enable_grad():
        output = model(z, pos, index, scaled=True) if rescaled else model(z, pos, index)
        if not isinstance(output, Tensor) or output.numel() != structures:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise BadInput(
                f"the model must return one energy per structure, shape ({structures},) or ({structures}, 1), got {got}",
                where=type(model).__name__,
            )
        energy = output.reshape(-1)
        if not energy.requires_grad:
            raise BadInput("the energy does not depend on the positions", where=type(model).__name__)
        (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=create_graph, allow_unused=True)
    if gradient is None:
        raise BadInput("the energy does not depend on the positions", where=type(model).__name__)
    return energy, -gradient


def _distance(difference: Tensor, loss: str) -> Tensor:
    return difference.abs().mean() if loss == "absolute" else difference.square().mean()


def _not_finite(model: nn.Module, inputs: tuple[Tensor, ...], step: int, loss: float) -> BadInput:
    """Return the error that names the first parameter or module that is not finite."""
    fix = "lower lr, or rescale the labels"
    message = f"the loss is {loss} at step {step}"
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return BadInput(f"{message}: parameter {name} is not finite", where=type(model).__name__, fix=fix)
    found: list[str] = []

    def look(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            floats = [tensor for tensor in tensors if isinstance(tensor, Tensor) and tensor.is_floating_point()]
            if not all(tensor.isfinite().all() for tensor in floats):
                found.append(f"{name or 'the model'} ({type(module).__name__})")

        return hook

    handles = [module.register_forward_hook(look(name, module)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    where = f"first in the output of {found[0]}" if found else "the energies are finite, the forces are not"
    return BadInput(f"{message}: {where}", where=type(model).__name__, fix=fix)
