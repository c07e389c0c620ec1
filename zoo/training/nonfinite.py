"""A loss that is not finite: where it began, and the batch that did it, saved to look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.potentials import energy
from dcsurgery.zoo.writing import replacing

__all__ = ["BATCH_FILE", "Diverged", "diverged", "save_batch"]

BATCH_FILE = "nonfinite_batch.pt"
_KEPT = ("pos", "atomic_numbers", "batch", "natoms", "cell", "pbc", "energy", "forces")


class Diverged(BadInput):
    """Training stopped because its loss was not finite any more."""


def diverged(model: nn.Module, batch: Any, step: int, loss: float, saved: Path | None = None) -> Diverged:
    """Return the error that names the first parameter or module that is not finite.

    Parameters
    ----------
    model
        The model as it was when the loss was computed.
    batch
        What it was given.
    step
        Steps done before.
    loss
        The loss, inf or nan.
    saved
        Where the batch was saved.
    """
    fix = "lower lr, or rescale the labels" + (f"; the batch is in {saved.name}" if saved else "")
    message = f"the loss is {loss} at step {step}"
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return Diverged(f"{message}: parameter {name} is not finite", where=type(model).__name__, fix=fix)
    first = _first_module(model, batch)
    where = f"first in the output of {first}" if first else "the energies are finite, the forces are not"
    return Diverged(f"{message}: {where}", where=type(model).__name__, fix=fix)


def save_batch(batch: Any, indices: Any, folder: Path) -> Path:
    """Write a batch as a dict of tensors, and which structures of the training set it holds; return the file."""
    content = {key: batch[key].detach().cpu() for key in _KEPT if batch.get(key) is not None}
    content["indices"] = torch.as_tensor(indices)
    path = folder / BATCH_FILE
    with replacing(path) as file:
        torch.save(content, file)
    return path


def _first_module(model: nn.Module, batch: Any) -> str | None:
    """Run the model once more; return the first module, in the order of the run, that returns what is not finite."""
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
            energy(model, batch, scaled=True)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
