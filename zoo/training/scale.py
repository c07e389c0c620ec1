"""The label scale and the number type of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dcsurgery.errors import BadInput

__all__ = ["default_dtype", "dtype_of", "label_scale"]


def label_scale(model: nn.Module, C: float | None = None) -> float:
    """Return the label scale: the model's own, or else the one that is asked for, or else 1.

    Raises
    ------
    BadInput
        If C is not positive and finite, or differs from the model's own.
    """
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


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the type of a model's weights."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make ``dtype`` torch's default, for models that make tensors of their own while they run."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
