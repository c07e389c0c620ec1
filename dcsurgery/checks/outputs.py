"""What a model returns: its tensors, whether they are finite, and whether two of them are equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from dcsurgery.report import Check

__all__ = ["check_finite", "equal", "tensors_of"]


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor in what a model returned."""
    plain = dict(value) if hasattr(value, "keys") and not isinstance(value, dict) else value
    return (leaf for leaf in pytree.tree_leaves(plain) if isinstance(leaf, torch.Tensor))


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Say whether two tensors have the same bits, shape and dtype."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())


def check_finite(output: Any) -> Check:
    """Count NaN and infinity."""
    tensors = list(tensors_of(output))
    bad = sum(int((~torch.isfinite(t)).sum()) for t in tensors if t.is_floating_point())
    if not tensors:
        return Check("finite", "skip", reason="the model returns no tensor")
    return Check(
        "finite", "fail" if bad else "pass", bad, 0, f"{bad} values of the output are NaN or infinite" if bad else ""
    )
