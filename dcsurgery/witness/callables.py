"""What a module, a function or an operator is to the witness, and how one argument of a call is found."""

from __future__ import annotations

import contextlib
import inspect
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn

from dcsurgery.catalog import match_function
from dcsurgery.witness.functions import function_behind

__all__ = ["argument_of", "forward_of", "is_checkpointed", "is_composed", "is_label", "is_torch_function", "returns_of"]


@contextlib.contextmanager
def forward_of(module: nn.Module, forward: Callable[..., Any]) -> Any:
    """Let a module run another forward."""
    own = vars(module).get("forward")
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            vars(module).pop("forward", None)
        else:
            vars(module)["forward"] = own


def is_checkpointed(frame: types.FrameType | None) -> bool:
    """Say whether a frame runs in a part of a model that torch runs again while it takes derivatives."""
    while frame is not None:
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            return True
        frame = frame.f_back
    return False


def argument_of(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], index: int) -> Any:
    """Return the argument that a site works on, given by position or by name."""
    if len(args) > index:
        return args[index]
    try:
        name = list(inspect.signature(function).parameters)[index]
    except (TypeError, ValueError, IndexError):  # a builtin
        name = ""
    return kwargs[name] if name in kwargs else next(v for v in kwargs.values() if isinstance(v, torch.Tensor))


def is_composed(value: Any) -> bool:
    """Say whether a module is more than a call of one of torch's functions."""
    return isinstance(value, nn.Module) and (
        not type(value).__module__.startswith("torch.nn.modules.") or "forward" in vars(value)
    )


def is_torch_function(value: Any) -> bool:
    """Say whether a callable is torch's own, whose kernels are replaced instead."""
    match = match_function(value) if _hashable(value) else None
    function, _ = function_behind(value)
    home = getattr(function or value, "__module__", None) or "torch"
    return match is not None and home.partition(".")[0] in ("torch", "builtins")


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def is_label(value: Any) -> bool:
    """Say whether a part of an output can be scaled."""
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def returns_of(name: str) -> Any:
    """Return what an ATen operator's schema returns."""
    packet = getattr(torch.ops.aten, name)
    return getattr(packet, packet.overloads()[0])._schema.returns
