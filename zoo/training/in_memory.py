"""`train`: fit a model in place, without a folder, and say what it did to the errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.molecules import random_split
from dcsurgery.zoo.training.devices import fabric_for
from dcsurgery.zoo.training.errors import Errors, evaluate, structures_of
from dcsurgery.zoo.training.scale import dtype_of, label_scale
from dcsurgery.zoo.training.settings import Loss, Precision, Reference, Settings
from dcsurgery.zoo.training.trainer import Trainer

__all__ = ["History", "train"]


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
        Indices of the held-out structures.
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
    data: Any,
    *,
    steps: int,
    batch_size: int = 10,
    lr: float = 1e-3,
    alpha: float = 1.0,
    beta: float = 30.0,
    loss: Loss = "absolute",
    C: float | None = None,
    reference: Reference = "none",
    held_out: int = 100,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[], object] | None = None,
) -> History:
    """Fit a model to energies and forces with Adam, in place.

    Parameters
    ----------
    model
        Takes ``(z, pos, batch)`` or a PyG batch and returns one energy per structure.
    data
        Labelled structures; ``held_out`` of them, drawn at random, are not trained on.
    steps, batch_size, lr
        Number of steps, structures per step, Adam's learning rate.
    alpha, beta
        Weights of energy and force term (Eq. 2).
    loss
        ``absolute`` or ``squared``.
    C
        Label scale: the model's raw output times C is the energy. By default that of a model whose labels were
        rescaled, otherwise 1.
    reference
        ``mean`` subtracts the mean training energy from the energy labels; forces do not change. ``none`` trains on raw
        labels, as the paper does.
    held_out
        Number of structures on which the errors are measured.
    seed
        Seed of the split, of the batches and of dropout. The caller's random numbers are left alone.
    device
        ``cpu``, ``cuda`` or ``auto``.
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
    precision: Precision = "float64" if dtype_of(model) == torch.float64 else "float32"
    settings = Settings(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        alpha=alpha,
        beta=beta,
        loss=loss,
        reference=reference,
        seed=seed,
        precision=precision,
    )
    scale = label_scale(model, C)
    structures = structures_of(data)
    test, rest = random_split(len(structures), (held_out, max(len(structures) - held_out, 0)), seed)
    if not len(test) or not len(rest):
        raise BadInput(f"{held_out} of {len(structures)} structures held out: none is left for the other set")
    fabric = fabric_for(device)
    told = None if progress is None else lambda *_: progress()
    trainer = Trainer(fabric, model, structures.subset(rest), settings, C=C, progress=told)
    measured: dict[str, Any] = {"C": scale, "reference": trainer.reference, "device": fabric.device}
    before = evaluate(model, structures.subset(test), **measured)
    trainer.run()
    after = evaluate(model, structures.subset(test), **measured)
    return History(trainer.losses, before, after, scale, trainer.reference, test)
