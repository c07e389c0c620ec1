"""The functions of a class that are the user's code."""

from __future__ import annotations

import functools
import types
from typing import Any

__all__ = ["HOLDS_CODE", "function_in", "methods_of"]

#: Types of class attributes that may hold a function of the user's.
HOLDS_CODE = (
    types.FunctionType,
    staticmethod,
    classmethod,
    property,
    functools.partialmethod,
    functools.cached_property,
)


def function_in(raw: Any) -> Any:
    """Return the function behind a class attribute: of a static or class method, a property, a partial method."""
    match raw:
        case property():
            return raw.fget
        case functools.partialmethod() | functools.cached_property():
            return function_in(raw.func)
        case _:
            return getattr(raw, "__func__", raw)


def methods_of(cls: type) -> dict[str, Any]:
    """Return the raw class attributes that hold user code, as attribute lookup finds them."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if base is object or base.__module__.split(".")[0] == "torch":
            continue
        for name, raw in vars(base).items():
            held = isinstance(raw, HOLDS_CODE)
            if held and not any(name in vars(b) for b in cls.__mro__[: cls.__mro__.index(base)]):
                found[name] = raw
    return found
