"""What a rewritten call does: check that the callee still is the planned operator, then apply the edit."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function_unary

from dcsurgery.activations import activation_by_name, irelu
from dcsurgery.catalog import Match, match_function, operator_named
from dcsurgery.recognition import recognise

__all__ = [
    "Decision",
    "GatedLinear",
    "HeldFunction",
    "activation_function",
    "apply_activation",
    "apply_edit",
    "argument_name",
    "call_hidden",
    "decide",
    "gate",
    "is_inplace",
    "operator_of",
    "replace_in_place",
    "resolve_callee",
    "takes_more",
]


_TORCH = str(Path(torch.__file__).parent) + os.sep


def resolve_callee(target: Any, method: str | None, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Return the callable and its arguments; a tensor method becomes the unbound method of `torch.Tensor`."""
    if method is None:
        return target, args
    if isinstance(target, torch.Tensor):
        unbound = getattr(torch.Tensor, method, None)
        if unbound is not None:
            return unbound, (target, *args)
    return getattr(target, method), args


def operator_of(callee: Any, planned: str) -> str | None:
    """Return which operator of the planned one's role a callable is, None where it is none.

    One call may apply another activation in every run: ``{"a": F.silu, "b": F.gelu}[kind](x)``.
    """
    match = recognise(callee)
    return match.operator.name if match is not None and _same_role(match, planned) else None


def _same_role(match: Match, planned: str) -> bool:
    return match.operator.name == planned or match.operator.role == operator_named(planned).role


@dataclass(frozen=True)
class Decision:
    """What a callee is found to be: an operator, and whether ``callee(x)`` is a new tensor, one for one from ``x``."""

    operator: str
    plain: bool


def decide(callee: Any, planned: str) -> Decision | None:
    """Say which operator of the planned one's role a callable is, None where it is none."""
    operator = operator_of(callee, planned)
    return None if operator is None else Decision(operator, operator != "glu" and not is_inplace(callee, (), {}))


# Dynamo asks once while it compiles; it guards the callee's identity itself. What torch.compiler's decorator of that
# name sets, without the import of Dynamo.
decide._dynamo_marked_constant = True  # type: ignore[attr-defined]


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
        return pass_on(_argument(args, kwargs, operator_named(operator).returns, callee), copied)
    activation = activation_function(replacement)
    x = _argument(args, kwargs, 0, callee)
    if operator == "glu":
        dim = callee.dim if isinstance(callee, nn.GLU) else kwargs.get("dim", args[1] if len(args) > 1 else -1)
        return gate(x, activation, dim)
    if is_inplace(callee, args, kwargs):
        return replace_in_place(x, activation)
    return irelu(x) if activation is irelu else apply_activation(x, activation)


def apply_activation(x: torch.Tensor, activation: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return ``activation(x)``; a torch function mode sees it as one call."""
    if has_torch_function_unary(x):
        result: torch.Tensor = handle_torch_function(apply_activation, (x,), x, activation)
        return result
    return activation(x)


def call_hidden(
    operator: str,
    replacement: str | nn.Module | None,
    callee: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    copied: bool = False,
) -> Any:
    """Call what is not the operator itself but may apply it: ``sum(map(F.silu, xs))``, ``checkpoint(F.silu, x)``.

    What a user wrote in Python has calls of its own; nothing in it is replaced from here.
    """
    if is_user_code(callee):
        return callee(*args, **kwargs)

    def edited(value: Any) -> Any:
        if isinstance(value, torch.Tensor | nn.Module | type) or not callable(value):
            return value
        found = operator_of(value, operator)
        if found is None:
            return value
        return lambda *a, **k: apply_edit(found, replacement, value, a, k, copied=copied)

    # checkpoint() calls its function again in backward, when no mode is on: it has to be given the edited one.
    args, kwargs = tuple(edited(a) for a in args), {name: edited(value) for name, value in kwargs.items()}
    with _AppliedBelow(operator, replacement, sys._getframe(), copied):
        return callee(*args, **kwargs)


class _AppliedBelow(TorchFunctionMode):
    """Edits the calls that torch's own or C code makes below one frame, without user code in between."""

    def __init__(
        self, operator: str, replacement: str | nn.Module | None, frame: types.FrameType, copied: bool
    ) -> None:
        super().__init__()
        self._operator = operator
        self._replacement = replacement
        self._frame = frame
        self._copied = copied

    def __torch_function__(
        self, func: Any, types_: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        match = match_function(func)
        if match is None or not _same_role(match, self._operator) or not self._is_next(sys._getframe(1)):
            return func(*args, **(kwargs or {}))
        return apply_edit(match.operator.name, self._replacement, func, args, kwargs or {}, copied=self._copied)

    def _is_next(self, frame: types.FrameType | None) -> bool:
        while frame is not None and frame is not self._frame:
            if not frame.f_code.co_filename.startswith(_TORCH):
                return False
            frame = frame.f_back
        return frame is not None


def is_user_code(callee: Any) -> bool:
    """Say whether a callable is a module or a user's function: what such code calls are calls of its own."""
    if isinstance(callee, nn.Module):
        return True
    function = getattr(callee, "__func__", callee)
    return isinstance(function, types.FunctionType) and not function.__code__.co_filename.startswith(_TORCH)


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


@dataclass(eq=False, slots=True)  # without a __dict__: what it holds are no slots of the model
class HeldFunction:
    """Stands in an attribute for a function that takes settings besides its input, and takes them like that one.

    Parameters
    ----------
    operator
        What the function is, for instance ``leaky_relu``.
    replacement
        An activation's name, or a module without parameters.
    old
        The function.
    """

    operator: str
    replacement: str | nn.Module
    old: Callable[..., Any]
    activation: Callable[[torch.Tensor], torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.activation = activation_function(self.replacement)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the new activation to the old function's input."""
        if len(args) == 1 and not kwargs and self.operator != "glu":
            return irelu(args[0]) if self.activation is irelu else apply_activation(args[0], self.activation)
        return apply_edit(self.operator, self.replacement, self.old, args, kwargs)


class GatedLinear(nn.Module):
    """``GLU`` with another activation as its gate: ``a * activation(b)``, (a, b) the halves along ``dim``."""

    def __init__(self, activation: nn.Module, dim: int = -1) -> None:
        super().__init__()
        self.activation = activation
        self.dim = dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``a * activation(b)``: half as large as ``x`` along ``dim``."""
        return gate(x, self.activation, self.dim)


def gate(x: torch.Tensor, activation: Callable[[torch.Tensor], torch.Tensor], dim: int) -> torch.Tensor:
    """Return ``a * activation(b)``; a torch function mode sees it as one call."""
    if has_torch_function_unary(x):
        result: torch.Tensor = handle_torch_function(gate, (x,), x, activation, dim)
        return result
    a, b = x.chunk(2, dim)
    return a * activation(b)


def activation_function(replacement: str | nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the callable for a replacement given by name or as a module."""
    return replacement if isinstance(replacement, nn.Module) else _named(replacement)


@functools.lru_cache(maxsize=64)
def _named(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    return irelu if name == "irelu" else activation_by_name(name)


def takes_more(callee: Callable[..., Any]) -> bool:
    """Say whether a function can be called with more than its input; of a builtin the catalog's row tells."""
    try:
        return len(inspect.signature(callee).parameters) > 1
    except (TypeError, ValueError):
        match = match_function(callee)
        return match is None or bool(match.operator.parameters)


def argument_name(callee: Any, index: int) -> str:
    """Return the name of a callable's argument, empty where it has none."""
    try:
        names = list(inspect.signature(callee.forward if isinstance(callee, nn.Module) else callee).parameters)
    except (TypeError, ValueError):  # a builtin
        return ""
    return names[index] if len(names) > index else ""


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], index: int, callee: Any) -> Any:
    if len(args) > index:
        return args[index]
    for name in (argument_name(callee, index), "input", "x", "self"):
        if name in kwargs:
            return kwargs[name]
    return next(value for value in kwargs.values() if isinstance(value, torch.Tensor))


def is_inplace(callee: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Say whether a call writes its result into its input."""
    if isinstance(callee, nn.Module):
        return bool(getattr(callee, "inplace", False))
    if "inplace" in kwargs:
        return bool(kwargs["inplace"])
    position = _inplace_position(callee)
    return position < 0 or (len(args) > position and bool(args[position]))


_NEVER = sys.maxsize


def _inplace_position(callee: Any) -> int:
    """Return at which position a callable takes ``inplace``; -1 where its name says so (``relu_``)."""
    name = getattr(callee, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        return -1
    if isinstance(callee, types.FunctionType):
        names = callee.__code__.co_varnames[: callee.__code__.co_argcount]
        return names.index("inplace") if "inplace" in names else _NEVER
    return _NEVER


_inplace_position._dynamo_marked_constant = True  # type: ignore[attr-defined] # as `decide`
