"""Run the branches of ``torch.cond`` and the like one by one, so that what they call is seen.

torch runs such an operator with every mode switched off: nothing inside would be recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

__all__ = ["again", "unfold", "unfolded"]


def unfold(operator: Any, args: tuple[Any, ...]) -> Callable[[], Any] | None:
    """Return what does the same as a higher-order operator in plain Python, None for one that is not known."""
    unfolded = {"cond": _cond, "while_loop": _while_loop}.get(operator.name())
    return None if unfolded is None else lambda: unfolded(*args)


def _cond(condition: Any, true: Callable[..., Any], false: Callable[..., Any], operands: Any = ()) -> Any:
    return (true if bool(condition) else false)(*operands)


def _while_loop(
    condition: Callable[..., Any], body: Callable[..., Any], carried: Any, additional: Any = ()
) -> tuple[torch.Tensor, ...]:
    values = tuple(carried)
    while bool(condition(*values, *additional)):
        values = tuple(body(*values, *additional))
    return values


@contextmanager
def again(mode: TorchFunctionMode) -> Iterator[None]:
    """Let a mode see what is called inside its own handler."""
    TorchFunctionMode.__enter__(mode)
    try:
        yield
    finally:
        TorchFunctionMode.__exit__(mode, None, None, None)


@contextmanager
def unfolded(model: nn.Module) -> Iterator[None]:
    """Run a model's control flow as plain Python: torch's own operators have no second derivatives and do not say so."""
    if any(isinstance(module, fx.GraphModule) for module in model.modules()):
        with _Unfolding():
            yield
    else:
        yield


class _Unfolding(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        run = unfold(func, args) if isinstance(func, torch._ops.HigherOrderOperator) else None
        if run is None:
            return func(*args, **(kwargs or {}))
        with again(self):
            return run()
