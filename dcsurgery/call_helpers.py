"""What rewritten code calls in the place of an activation or a norm: it looks at the callee before it acts."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dcsurgery.activations import irelu
from dcsurgery.calls import (
    Decision,
    activation_function,
    apply_activation,
    apply_edit,
    call_hidden,
    decide,
    is_user_code,
    resolve_callee,
)

__all__ = ["site_helper"]


def site_helper(
    operator: str, replacement: str | nn.Module | None, passing: Callable[..., Any], *, copied: bool
) -> Callable[..., Any]:
    """Return what stands in the place of a call: it asks whether the callee is the operator, and applies the replacement.

    Parameters
    ----------
    operator
        What the plan says is called.
    replacement
        An activation's name or a module without parameters; None lets the input through, or a copy if ``copied``.
    passing
        Called with a callee that is another function of the user's, or that is given more than a tensor.
    """
    decisions: dict[Any, Decision] = {}  # what a callee is is asked once: that is slower than the call
    activation = None if replacement is None else activation_function(replacement)

    def helper(target: Any, method: str | None, /, *args: Any, **kwargs: Any) -> Any:
        callee = target
        if method is not None:
            callee, args = resolve_callee(target, method, args)
        decision = _known(decisions, callee)
        if decision is None:
            decision = decide(callee, operator)
            if decision is None and is_user_code(callee):  # it has calls of its own, which may be edited, too
                return passing(callee, None, *args, **kwargs)
            if decision is None:
                return call_hidden(operator, replacement, callee, args, kwargs, copied=copied)
            token = None if torch.compiler.is_compiling() else _lasting(callee)
            if token is not None:
                decisions[token] = decision
        if args and isinstance(args[0], list | tuple | dict):  # the same function may be given anything
            return passing(callee, None, *args, **kwargs)
        if activation is not None and decision.plain and len(args) == 1 and not kwargs:
            return irelu(args[0]) if activation is irelu else apply_activation(args[0], activation)
        return apply_edit(decision.operator, replacement, callee, args, kwargs, copied=copied)

    return helper


def _known(decisions: dict[Any, Decision], callee: Any) -> Decision | None:
    try:
        return decisions.get(callee) or decisions.get(_lasting(callee))
    except TypeError:  # an unhashable object
        return None


def _lasting(callee: Any, within: tuple[types.FunctionType, ...] = ()) -> Any:
    """Return what identifies a callee without keeping alive what one call of the model made; None where nothing does."""
    if isinstance(callee, types.FunctionType):
        if "<locals>" not in callee.__qualname__:
            return callee
        if callee.__defaults__ is not None or callee.__kwdefaults__ is not None:
            return None
        return None if callee in within else _of_cells(callee, (*within, callee))
    if isinstance(callee, types.MethodDescriptorType):
        return callee
    own = getattr(callee, "__self__", None)  # a builtin's module, or what a method is bound to
    return (
        callee if isinstance(callee, types.BuiltinFunctionType) and isinstance(own, types.ModuleType | None) else None
    )


def _of_cells(function: types.FunctionType, within: tuple[types.FunctionType, ...]) -> Any:
    """Return a local function's code and what it closes over; None if that is more than numbers, names and functions."""
    values = []
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            return None
        if not isinstance(value, bool | int | float | str | None):
            value = _lasting(value, within)  # functions may hold each other
            if value is None:
                return None
        values.append((type(value), value))
    return (function.__code__, *values)
