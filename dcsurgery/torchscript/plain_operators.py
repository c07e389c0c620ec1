"""TorchScript's operators on numbers, lists, tables and texts.

A name may serve tensors and plain values alike; what gets a tensor is ATen's own operator.
"""

from __future__ import annotations

import math
import operator
import types
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["PLAIN"]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor | torch.fx.Proxy)  # a proxy stands for a tensor in a symbolic trace


def _on_numbers(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Compute with tensors as ATen does, with plain values (numbers, texts, lists) as Python does."""
    packet = getattr(torch.ops.aten, name)
    own = getattr(torch, name, None)
    tensors = own if isinstance(own, types.BuiltinFunctionType) else packet

    def compute(*args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) > 2:
            return packet(*args, **kwargs)
        for argument in args:
            if _is_tensor(argument):
                return tensors(*args)
        return function(*args)

    compute.__name__ = compute.__qualname__ = name
    compute.__torchscript_original__ = tensors  # type: ignore[attr-defined] # the catalog knows it by this
    return compute


_NUMBERS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": operator.pow,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "neg": operator.neg,
    "remainder": operator.mod,
    "sqrt": math.sqrt,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "log": math.log,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
    "abs": abs,
    "round": round,
    "tanh": math.tanh,
    "sinh": math.sinh,
    "cosh": math.cosh,
    "atan2": math.atan2,
    "log2": math.log2,
    "log10": math.log10,
    "log1p": math.log1p,
    "erf": math.erf,
    "fmod": math.fmod,
}


def _floordiv(a: Any, b: Any) -> Any:
    if _is_tensor(a) or _is_tensor(b):
        return torch.div(a, b, rounding_mode="floor")
    return a // b


def _slice(value: Any, *args: Any) -> Any:
    if _is_tensor(value):
        return torch.ops.aten.slice(value, *args)
    start, stop, step = (*args, None, None, None)[:3]
    return value[slice(start, stop, step)]


def _changing(name: str) -> Callable[..., Any]:
    """Return the method of a list or table that changes it; TorchScript's operator returns the list."""

    def change(container: Any, *args: Any) -> Any:
        result = getattr(container, name)(*args)
        return container if result is None else result

    change.__name__ = change.__qualname__ = name
    return change


def _set_item(container: Any, key: Any, value: Any) -> Any:
    container[key] = value
    return container


def _delete(container: Any, key: Any) -> None:
    del container[key]


def _remove(value: Any, *args: Any) -> Any:
    return value.remove(*args) if isinstance(value, list) else value


def _sort(value: Any, *args: Any, **kwargs: Any) -> Any:
    if _is_tensor(value):
        return torch.ops.aten.sort(value, *args, **kwargs)
    value.sort(reverse=bool(args and args[0]))
    return None


def _all(value: Any, *args: Any) -> Any:
    return torch.ops.aten.all(value, *args) if _is_tensor(value) else all(value)


def _any(value: Any, *args: Any) -> Any:
    return torch.ops.aten.any(value, *args) if _is_tensor(value) else any(value)


def _add_(value: Any, other: Any, **kwargs: Any) -> Any:
    if isinstance(value, list):
        value.extend(other)
        return value
    return torch.ops.aten.add_(value, other, **kwargs)


def _index(value: Any, *args: Any) -> Any:
    return torch.ops.aten.index(value, *args) if _is_tensor(value) else value.index(*args)


def _format(text: str, *values: Any) -> str:
    """Fill in the braces, one after the other; ``str.format`` would follow attributes that a text names."""
    parts = text.split("{}")
    filled = [f"{part}{value}" for part, value in zip(parts[:-1], values, strict=False)]
    return "".join([*filled, *parts[len(filled) :]])


def _percent(text: str, *values: Any) -> str:
    return text % (values[0] if len(values) == 1 and isinstance(values[0], tuple) else values)


def _copied(value: Any, *args: Any) -> Any:
    return value.copy() if isinstance(value, list | dict) else torch.ops.aten.copy(value, *args)


PLAIN: dict[str, Callable[..., Any]] = {
    **{name: _on_numbers(function, name) for name, function in _NUMBERS.items() if hasattr(torch.ops.aten, name)},
    "floordiv": _floordiv,
    "floor_divide": _floordiv,
    "__not__": operator.not_,
    "__is__": operator.is_,
    "__isnot__": operator.is_not,
    "__contains__": operator.contains,
    "__getitem__": operator.getitem,
    "__lshift__": operator.lshift,
    "__rshift__": operator.rshift,
    "__range_length": lambda low, high, step: len(range(low, high, step)),
    "__derive_index": lambda index, start, step: start + index * step,
    "_set_item": _set_item,
    "Delete": _delete,
    "append": _changing("append"),
    "extend": _changing("extend"),
    "insert": _changing("insert"),
    "pop": _changing("pop"),
    "clear": _changing("clear"),
    "reverse": _changing("reverse"),
    "update": _changing("update"),
    "setdefault": _changing("setdefault"),
    "remove": _remove,
    "add_": _add_,
    "sort": _sort,
    "sorted": sorted,
    "count": lambda value, *args: value.count(*args),
    "index": _index,
    "copy": _copied,
    "len": len,
    "list": list,
    "dict": dict,
    "keys": lambda table: list(table.keys()),
    "values": lambda table: list(table.values()),
    "items": lambda table: list(table.items()),
    "get": lambda table, *args: table.get(*args),
    "popitem": lambda table: table.popitem(),
    "slice": _slice,
    "all": _all,
    "any": _any,
    "format": _format,
    "percentFormat": _percent,
    "str": str,
    "ord": ord,
    "chr": chr,
    "join": lambda text, parts: text.join(parts),
    "split": lambda value, *args: torch.ops.aten.split(value, *args) if _is_tensor(value) else value.split(*args),
    "strip": lambda text, *args: text.strip(*args),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "replace": lambda text, *args: text.replace(*args),
    "startswith": lambda text, *args: text.startswith(*args),
    "endswith": lambda text, *args: text.endswith(*args),
    "find": lambda text, *args: text.find(*args),
    "Int": int,
    "Float": float,
    "Bool": bool,
    "Complex": complex,
    "IntImplicit": int,
    "FloatImplicit": float,
    "ComplexImplicit": complex,
}
