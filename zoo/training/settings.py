"""Settings of a training, with the paper's values as defaults, and their checks."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from dcsurgery.errors import BadInput

__all__ = ["Loss", "Precision", "Reference", "Settings"]

Loss = Literal["absolute", "squared"]
Reference = Literal["none", "mean"]
Precision = Literal["float32", "float64"]

_CHOICES = {"loss": ("absolute", "squared"), "reference": ("none", "mean"), "precision": ("float32", "float64")}


@dataclass(frozen=True)
class Settings:
    """How a model is fitted to energies and forces.

    Defaults are those of Lo & Huang, arXiv:2310.01649, Sec. 5.1.1, and of the programs published with it: Adam 1e-4, 50
    epochs of batches of 20, raw labels, absolute errors with force weight 30.

    Attributes
    ----------
    epochs
        Passes over the training set; not read where ``steps`` is given.
    steps
        Steps of the optimizer instead of epochs.
    batch_size
        Structures per step, over all processes together.
    lr
        Adam's learning rate.
    alpha, beta
        Weights of energy and force term in Eq. 2.
    loss
        ``squared`` as Eq. 2 is printed, ``absolute`` as the published programs have it. Terms are means over structures
        and over force components, so that the weights do not depend on the size of batch and molecule.
    reference
        ``none`` trains on raw energies, as the paper does; ``mean`` on energies less their mean over the training set.
    seed
        Of weights, order of the batches, and dropout.
    precision
        Of weights and forward pass. Labels are divided by C, and errors summed, in float64 always.
    tf32
        Let CUDA round products of float32 to TF32: faster, and wrong in the fourth digit.
    """

    epochs: int = 50
    steps: int | None = None
    batch_size: int = 20
    lr: float = 1e-4
    alpha: float = 1.0
    beta: float = 30.0
    loss: Loss = "absolute"
    reference: Reference = "none"
    seed: int = 0
    precision: Precision = "float32"
    tf32: bool = False

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 0:
            raise BadInput(f"steps must not be negative, got {self.steps}")
        if self.epochs < 1:
            raise BadInput(f"epochs must be at least 1, got {self.epochs}")
        if self.batch_size < 1:
            raise BadInput(f"batch_size must be at least 1, got {self.batch_size}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise BadInput(f"lr must be a positive number, got {self.lr}")
        for name in ("alpha", "beta"):
            weight = getattr(self, name)
            if not (math.isfinite(weight) and weight >= 0):
                raise BadInput(f"{name} must be a number of at least 0, got {weight}")
        if self.alpha == self.beta == 0:
            raise BadInput("alpha and beta are both 0: there is nothing to learn", fix="raise one of them")
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise BadInput(f"unknown {name} {value!r}", fix=f"use {' or '.join(map(repr, known))}")

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and positions."""
        return torch.float64 if self.precision == "float64" else torch.float32

    def steps_per_epoch(self, structures: int) -> int:
        """Return the number of batches in which a training set is passed once; the last one may be smaller."""
        return -(-structures // self.batch_size)

    def total_steps(self, structures: int) -> int:
        """Return the number of steps of the whole training."""
        return self.epochs * self.steps_per_epoch(structures) if self.steps is None else self.steps

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a run record keeps them."""
        return asdict(self)
