"""What a hard case is: a model, and what it computes after the surgery, written by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Case", "Net", "between", "build", "hand", "rows"]


def hand(x: Tensor) -> Tensor:
    """IReLU as the paper means it, without anything from dcsurgery."""
    return torch.where(x > 0, 0.5 * x * x, torch.zeros_like(x))


def rows(count: int = 5, width: int = 3, seed: int = 1) -> Tensor:
    """Return inputs whose signs are mixed."""
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Net(nn.Module):
    """Two linear layers, for an activation to stand between."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.b = nn.Linear(4, 2)


@dataclass(frozen=True, eq=False)
class Case:
    """One hard case.

    Attributes
    ----------
    model
        Builds it.
    by_hand
        Computes what the edited model has to compute, from the *original* model's layers and the inputs.
    edits
        How many sites the surgery edits.
    inputs
        Example inputs, as `transform` takes them.
    other_inputs
        Inputs that take another branch; the edited model has to be right on them, too.
    options
        Further arguments of `transform`.
    pickles
        False where Python cannot pickle the original either.
    differentiable
        False where the original's output does not depend differentiably on anything.
    static
        Whether the same sites are found without running the model.
    witnessed
        False where the value witness has to be skipped.
    """

    model: Callable[[], nn.Module]
    by_hand: Callable[..., Any]
    edits: int = 1
    inputs: Any = field(default_factory=lambda: (rows(),))
    other_inputs: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    pickles: bool = True
    differentiable: bool = True
    static: bool = True
    witnessed: bool = True


def build(case: Case, seed: int = 0) -> nn.Module:
    """Return the case's model in float64, with weights of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return case.model().double()


def between(model: Any, x: Tensor) -> Tensor:
    """Compute ``b(IReLU(a(x)))``: what most of the cases come down to."""
    result: Tensor = model.b(hand(model.a(x)))
    return result
