"""How coarsely a model rounds that was converted to float64: some compute in float32 inside, whatever they are given."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from dcsurgery.checks.functional import Function

__all__ = ["coarsest_rounding"]


class _Coarsest(TorchFunctionMode):
    """Keeps the largest rounding unit of what is computed from inputs and parameters; tables do not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = 0.0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.requires_grad:
                self.unit = max(self.unit, torch.finfo(leaf.dtype).eps)
        return result


def coarsest_rounding(function: Function) -> float:
    """Run a model and return the unit of its coarsest intermediate result, 2.2e-16 where all is float64."""
    mode = _Coarsest()
    with mode:
        function.run()
    return mode.unit
