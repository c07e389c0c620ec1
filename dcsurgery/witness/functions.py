"""Stand in for Python functions and autograd Functions, whoever holds them under whatever name.

A function object keeps its identity, and gets other code for a while: attributes, closures, dictionaries and decorators
that hold it all run the new code. An `autograd.Function` gets another forward and backward. As with kernels, this
belongs to the process and acts only in threads that want it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd.function import _SingleLevelFunction

__all__ = ["Handler", "function_behind", "replaced_autograd_function", "replaced_code"]

#: Gets the arguments and the function as it was; returns what a call returns.
Handler = Callable[[tuple[Any, ...], dict[str, Any], Callable[..., Any]], Any]
_LOCK = threading.RLock()
_PATCHES: dict[int, _Patch] = {}


class _Patch:
    """A function with other code, and the code that it had."""

    def __init__(self, function: types.FunctionType) -> None:
        self.function = function
        self.code = function.__code__
        self.users = 0
        self.original = types.FunctionType(
            self.code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
        )
        self.original.__kwdefaults__ = function.__kwdefaults__
        self.original.__qualname__ = function.__qualname__
        self._local = threading.local()

    @property
    def handlers(self) -> list[Handler]:
        """The handlers of this thread, the innermost last."""
        if not hasattr(self._local, "handlers"):
            self._local.handlers = []
        handlers: list[Handler] = self._local.handlers
        return handlers

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handlers = self.handlers
        return handlers[-1](args, kwargs, self.original) if handlers else self.original(*args, **kwargs)


@contextlib.contextmanager
def replaced_code(function: types.FunctionType, handler: Handler) -> Iterator[None]:
    """Let every call of a function, in this thread, call a handler."""
    with _LOCK:
        patch = _PATCHES.get(id(function))
        if patch is None:
            patch = _PATCHES[id(function)] = _Patch(function)
            function.__code__ = _calling(patch, function.__code__)
        patch.users += 1
    patch.handlers.append(handler)
    try:
        yield
    finally:
        patch.handlers.pop()
        with _LOCK:
            patch.users -= 1
            if not patch.users:
                function.__code__ = patch.code
                del _PATCHES[id(function)]


def _calling(patch: _Patch, before: types.CodeType) -> types.CodeType:
    def template(*args: Any, **kwargs: Any) -> Any:
        patch = "PATCH"
        return patch(args, kwargs)  # type: ignore[operator]

    code = template.__code__
    constants = tuple(patch if constant == "PATCH" else constant for constant in code.co_consts)
    # A function's code must have as many free variables as the function has cells, used or not.
    return code.replace(co_consts=constants, co_freevars=before.co_freevars)


def function_behind(value: Any) -> tuple[types.FunctionType | None, int]:
    """Return the Python function that a callable runs, and how many arguments are given before the caller's own."""
    bound = 0
    while isinstance(value, functools.partial):
        bound += len(value.args)
        value = value.func
    if isinstance(value, types.MethodType):
        value, bound = value.__func__, bound + 1
    if isinstance(value, types.FunctionType):
        return value, bound
    call = getattr(type(value), "__call__", None)  # noqa: B004 - the class's own method is wanted
    return (call, bound + 1) if isinstance(call, types.FunctionType) else (None, 0)


@contextlib.contextmanager
def replaced_autograd_function(cls: Any, handler: Callable[[tuple[Any, ...]], Any]) -> Iterator[None]:
    """Let an `autograd.Function` compute something else.

    Parameters
    ----------
    cls
        The class.
    handler
        Gets the arguments of ``apply`` and returns None where the class is to do its own work, otherwise a
        differentiable function of the first argument: forward and backward become its value and its derivative.
    """
    own = {name: vars(cls)[name] for name in ("forward", "backward", "setup_context") if name in vars(cls)}
    forward, backward, setup = cls.forward, cls.backward, cls.setup_context
    splits = setup is not _SingleLevelFunction.setup_context

    def new_forward(ctx: Any, *args: Any) -> Any:
        ctx.dcs_reference = handler(args)
        if ctx.dcs_reference is None:
            if not splits:
                return forward(ctx, *args)
            output = forward(*args)
            setup(ctx, args, output)
            return output
        ctx.dcs_arguments = len(args)
        ctx.save_for_backward(args[0])
        with torch.no_grad():
            return ctx.dcs_reference(args[0])

    def new_backward(ctx: Any, *grads: Any) -> Any:
        if ctx.dcs_reference is None:
            return backward(ctx, *grads)
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            inside = x if x.requires_grad else x.detach().requires_grad_()
            value = ctx.dcs_reference(inside)
            (slope,) = torch.autograd.grad(value, inside, grads[0], create_graph=torch.is_grad_enabled())
        return (slope, *[None] * (ctx.dcs_arguments - 1))

    with _LOCK:
        cls.forward = staticmethod(new_forward)
        cls.backward = staticmethod(new_backward)
        if splits:
            cls.setup_context = staticmethod(_SingleLevelFunction.setup_context)
    try:
        yield
    finally:
        with _LOCK:
            for name in ("forward", "backward", "setup_context"):
                if name in own:
                    setattr(cls, name, own[name])
                elif name in vars(cls):
                    delattr(cls, name)
