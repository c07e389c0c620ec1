"""What one question of the exam is: a model, its example inputs, and what is asked of dcsurgery."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

__all__ = ["Case", "build", "normal"]


@dataclass(frozen=True)
class Case:
    """One model of the exam.

    Attributes
    ----------
    family
        The row of the score table that it counts in.
    name
        Unique in its family.
    model
        Builds it; the caller seeds.
    inputs
        Makes its example inputs, as `transform` takes them; the caller seeds.
    options
        Further arguments of `transform`.
    edits
        How many sites must be edited; None: one or more. 0: the model has nothing to edit, and must be untouched.
    training
        The mode in which it is edited and checked. The identity is judged in both.
    dtype
        Of the parameters. Derivatives are judged in float64.
    by_hand
        A further judgement: raises AssertionError where the edited model is not what was written by hand.
    """

    family: str
    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    options: dict[str, Any] = field(default_factory=dict)
    edits: int | None = None
    training: bool = False
    dtype: torch.dtype = torch.float64
    by_hand: Callable[[], None] | None = None

    @property
    def title(self) -> str:
        """``family: name``, unique in the exam."""
        return f"{self.family}: {self.name}"


def build(case: Case) -> tuple[nn.Module, Any]:
    """Return a case's model and its example inputs, always the same.

    Parameters that start as zeros get small values: behind a zero bias an empty feature sits exactly on an activation's
    kink, and behind a zero weight there is no gradient to compare.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = case.model().to(case.dtype).train(case.training)
        inputs = case.inputs()
        for parameter in model.parameters():
            is_plain = not isinstance(parameter, nn.parameter.UninitializedParameter)
            if is_plain and parameter.is_floating_point() and not bool(parameter.detach().any()):
                parameter.data.normal_(std=0.02)
    return model, inputs


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return normal random numbers in float64: inputs with mixed signs."""
    return torch.randn(*shape, dtype=dtype)
