"""What a rewritten call does: check that the callee still is the planned operator, then apply the edit."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from dcsurgery.activations import activation_by_name, irelu
from dcsurgery.catalog import operator_named
from dcsurgery.recognition import recognise

__all__ = [
    "GatedLinear",
    "activation_function",
    "apply_edit",
    "callee_is",
    "is_inplace",
    "replace_in_place",
    "resolve_callee",
]


def resolve_callee(target: Any, method: str | None, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Return the callable and its arguments; a tensor method becomes the unbound method of `torch.Tensor`."""
    if method is None:
        return target, args
    if isinstance(target, torch.Tensor):
        unbound = getattr(torch.Tensor, method, None)
        if unbound is not None:
            return unbound, (target, *args)
    return getattr(target, method), args


def callee_is(callee: Any, operator: str) -> bool:
    """Say whether a callable is the catalog's ``operator``."""
    match = recognise(callee)
    return match is not None and match.operator.name == operator


def apply_edit(
    operator: str,
    replacement: str | nn.Module | None,
    callee: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    copied: bool = False,
) -> Any:
    """Return what the edited call returns: the replacement's value, or the input where a norm was deleted."""
    if replacement is None:
        return pass_on(_argument(args, kwargs, operator_named(operator).returns), copied)
    activation = activation_function(replacement)
    x = _argument(args, kwargs, 0)
    if operator == "glu":
        dim = callee.dim if isinstance(callee, nn.GLU) else kwargs.get("dim", args[1] if len(args) > 1 else -1)
        return _gated(x, activation, dim)
    return replace_in_place(x, activation) if is_inplace(callee, args, kwargs) else activation(x)


def replace_in_place(x: torch.Tensor, activation: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Write ``activation(x)`` into ``x`` and return ``x``; a torch function mode sees it as one call."""
    if has_torch_function_unary(x):
        result: torch.Tensor = handle_torch_function(replace_in_place, (x,), x, activation)
        return result
    return x.copy_(activation(x.clone()))


def pass_on(x: Any, copied: bool) -> Any:
    """Return ``x``, or a copy; a torch function mode sees one call, where there is any."""
    if not copied or not isinstance(x, torch.Tensor):
        return x
    if has_torch_function_unary(x):
        return handle_torch_function(pass_on, (x,), x, copied)
    return x.clone()


class GatedLinear(nn.Module):
    """``GLU`` with another activation as its gate: ``a * activation(b)``, (a, b) the halves along ``dim``."""

    def __init__(self, activation: nn.Module, dim: int = -1) -> None:
        super().__init__()
        self.activation = activation
        self.dim = dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``a * activation(b)``: half as large as ``x`` along ``dim``."""
        return _gated(x, self.activation, self.dim)


def _gated(x: torch.Tensor, activation: Callable[[torch.Tensor], torch.Tensor], dim: int) -> torch.Tensor:
    a, b = x.chunk(2, dim)
    return a * activation(b)


def activation_function(replacement: str | nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the callable for a replacement given by name or as a module."""
    return replacement if isinstance(replacement, nn.Module) else _named(replacement)


@functools.lru_cache(maxsize=64)
def _named(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    return irelu if name == "irelu" else activation_by_name(name)


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], index: int) -> Any:
    if len(args) > index:
        return args[index]
    for name in ("input", "x", "self"):
        if name in kwargs:
            return kwargs[name]
    return next(value for value in kwargs.values() if isinstance(value, torch.Tensor))


def is_inplace(callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Say whether a call writes its result into its input."""
    if isinstance(callee, nn.Module):
        return bool(getattr(callee, "inplace", False))
    if "inplace" in kwargs:
        return bool(kwargs["inplace"])
    name = getattr(callee, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        return True
    if isinstance(callee, types.FunctionType):
        names = callee.__code__.co_varnames[: callee.__code__.co_argcount]
        return "inplace" in names and len(args) > names.index("inplace") and bool(args[names.index("inplace")])
    return False
