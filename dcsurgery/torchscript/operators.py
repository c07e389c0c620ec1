"""TorchScript's operators as Python functions: what ``torch.x`` and ``ops.namespace.x`` mean in an archive's code.

They are positional calls of ATen's schemas, where numbers, lists and tensors share names and types are numbers. Few
need more than torch's own function: arithmetic of plain numbers, and whatever changes a list or a table.
"""

from __future__ import annotations

import math
import operator
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch

from dcsurgery.catalog import match_function
from dcsurgery.errors import BadInput

__all__ = ["namespaces"]

# Operators of these packages compute; those of others are called only for a live model, whose code has run already.
_KNOWN = frozenset({"torchvision", "torch_scatter", "torch_sparse", "torch_cluster", "torch_spline_conv", "pyg"})
_DENIED = frozenset({"save", "load", "from_file", "set_", "record_stream", "data_ptr", "manual_seed", "breakpoint"})
# torch's own function takes the schema's arguments in the schema's order, none of them a type or a layout.
_SAME = frozenset(
    {
        *("abs", "acos", "addcmul", "addmm", "asin", "atan", "atan2", "baddbmm", "bmm", "cat", "chunk", "clamp"),
        *("clamp_max", "clamp_min", "cos", "cosh", "cross", "det", "erf", "erfc", "exp", "expm1", "flatten", "flip"),
        *("gather", "index_add", "index_select", "lerp", "log", "log10", "log1p", "log2", "matmul", "mm", "mv"),
        *("outer", "reciprocal", "roll", "rsqrt", "sign", "sin", "sinh", "square", "squeeze", "stack", "t", "tan"),
        *("transpose", "tril", "triu", "unbind", "unsqueeze", "where"),
    }
)
_DTYPES = (
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64),
    *(torch.complex32, torch.complex64, torch.complex128, torch.bool, torch.qint8, torch.quint8, torch.qint32),
    torch.bfloat16,
)
_LAYOUTS = (torch.strided, torch.sparse_coo)


def namespaces(names: tuple[str, ...], *, trusted: bool, where: str) -> tuple[types.ModuleType, types.SimpleNamespace]:
    """Return ``torch`` and ``ops`` with exactly the operators that are named.

    Parameters
    ----------
    names
        ``torch.silu``, ``ops.prim.dtype``, …
    trusted
        Whether operators of any package may be called.
    where
        What error messages call the archive.

    Raises
    ------
    BadInput
        If an operator does not exist here; the message names it.
    """
    space = types.ModuleType("torch")
    ops = types.SimpleNamespace()
    for name in names:
        head, *rest = name.split(".")
        if name == "torch.autograd.grad":
            space.autograd = types.SimpleNamespace(grad=_grad)  # type: ignore[attr-defined]
        elif head == "torch" and len(rest) == 1:
            setattr(space, rest[0], _aten(rest[0], where))
        elif head == "ops" and len(rest) == 2:
            if not hasattr(ops, rest[0]):
                setattr(ops, rest[0], types.ModuleType(f"ops.{rest[0]}"))
            setattr(getattr(ops, rest[0]), rest[1], _other(rest[0], rest[1], trusted, where))
        else:
            raise _unknown(name, where)
    return space, ops


def _aten(name: str, where: str) -> Any:
    if name == "device":
        return torch.device
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    if name in _SAME:
        return getattr(torch, name)
    for holder in (torch._C._nn, torch):  # so that a site shows torch's function
        function = getattr(holder, name, None)
        if isinstance(function, types.BuiltinFunctionType) and match_function(function) is not None:
            return function
    packet = None if name in _DENIED else getattr(torch.ops.aten, name, None)
    if packet is None:
        raise _unknown(f"torch.{name}", where)
    return packet


def _other(namespace: str, name: str, trusted: bool, where: str) -> Any:
    if namespace == "prim" and name in _PRIM:
        return _PRIM[name]
    if namespace == "aten":
        return _aten(name, where)
    if namespace == "quantized":
        raise BadInput(
            f"is quantized (it uses quantized::{name}), and integers have no derivatives",
            where=where,
            fix="edit the floating-point model, then quantize the result",
        )
    if namespace == "prim" or not (trusted or namespace in _KNOWN):
        raise _unknown(f"{namespace}::{name}", where)
    try:
        return getattr(getattr(torch.ops, namespace), name)
    except AttributeError:
        raise BadInput(
            f"uses the operator {namespace}::{name}, which is not loaded here",
            where=where,
            fix="import the package that defines it first",
        ) from None


def _unknown(name: str, where: str) -> BadInput:
    return BadInput(
        f"uses the operator {name}, which PyTorch {torch.__version__.partition('+')[0]} does not have or this does not import",
        where=where,
        fix="read it with the PyTorch that wrote it, and export it without that operator",
    )


def _dtype(value: Any) -> Any:
    return _DTYPES[value] if isinstance(value, int) else value


def _number_of(dtype: torch.dtype) -> int:
    return _DTYPES.index(dtype)


# -- numbers ----------------------------------------------------------------------------------------------------------


def _on_numbers(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Compute with tensors as ATen does, with plain values (numbers, texts, lists) as Python does."""
    packet = getattr(torch.ops.aten, name)
    own = getattr(torch, name, None)
    tensors = own if isinstance(own, types.BuiltinFunctionType) else packet

    def compute(*args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) > 2:
            return packet(*args, **kwargs)
        for argument in args:
            if isinstance(argument, torch.Tensor):
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
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return torch.div(a, b, rounding_mode="floor")
    return a // b


# -- lists, tables and texts ------------------------------------------------------------------------------------------


def _slice(value: Any, *args: Any) -> Any:
    if isinstance(value, torch.Tensor):
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
    if isinstance(value, torch.Tensor):
        return torch.ops.aten.sort(value, *args, **kwargs)
    value.sort(reverse=bool(args and args[0]))
    return None


def _all(value: Any, *args: Any) -> Any:
    return torch.ops.aten.all(value, *args) if isinstance(value, torch.Tensor) else all(value)


def _any(value: Any, *args: Any) -> Any:
    return torch.ops.aten.any(value, *args) if isinstance(value, torch.Tensor) else any(value)


def _add_(value: Any, other: Any, **kwargs: Any) -> Any:
    if isinstance(value, list):
        value.extend(other)
        return value
    return torch.ops.aten.add_(value, other, **kwargs)


def _index(value: Any, *args: Any) -> Any:
    return torch.ops.aten.index(value, *args) if isinstance(value, torch.Tensor) else value.index(*args)


def _format(text: str, *values: Any) -> str:
    """Fill in the braces, one after the other; ``str.format`` would follow attributes that a text names."""
    parts = text.split("{}")
    filled = [f"{part}{value}" for part, value in zip(parts, values, strict=False)]
    return "".join([*filled, *parts[len(filled) :]])


def _percent(text: str, *values: Any) -> str:
    return text % (values[0] if len(values) == 1 and isinstance(values[0], tuple) else values)


def _copied(value: Any, *args: Any) -> Any:
    return value.copy() if isinstance(value, list | dict) else torch.ops.aten.copy(value, *args)


# -- tensors ----------------------------------------------------------------------------------------------------------


def _tensor(data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> torch.Tensor:
    return torch.tensor(data, dtype=_dtype(dtype), device=device, requires_grad=requires_grad)


def _grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: Any = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> list[Any]:
    found = torch.autograd.grad(outputs, inputs, grad_outputs, retain_graph, create_graph, allow_unused=allow_unused)
    return list(found)


def _backward(value: torch.Tensor, gradient: Any = None, retain_graph: Any = None, create_graph: bool = False) -> None:
    value.backward(gradient, retain_graph=retain_graph, create_graph=create_graph)


def _set_grad_enabled(flag: bool) -> None:
    torch.set_grad_enabled(flag)  # a class, which acts when it is made


def _size(value: torch.Tensor, *args: Any) -> Any:
    return value.size(*args) if args else list(value.size())


def _scalar_type(value: Any, *_: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value


def _warn(message: Any, *_: Any, **__: Any) -> None:
    warnings.warn(str(message), stacklevel=2)


def _to(value: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    moved: torch.Tensor = torch.ops.aten.to(value, *args, **kwargs)
    return moved


_FUNCTIONS: dict[str, Callable[..., Any]] = {
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
    "split": lambda value, *args: (
        torch.ops.aten.split(value, *args) if isinstance(value, torch.Tensor) else value.split(*args)
    ),
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
    "ScalarImplicit": _scalar_type,
    "item": _scalar_type,
    "tensor": _tensor,
    "as_tensor": lambda data, dtype=None, device=None: torch.as_tensor(data, dtype=_dtype(dtype), device=device),
    "size": _size,
    "dim": lambda value: value.dim(),
    "numel": lambda value: value.numel(),
    "is_floating_point": lambda value: value.is_floating_point(),
    "is_complex": lambda value: value.is_complex(),
    "is_contiguous": lambda value, **kwargs: value.is_contiguous(**kwargs),
    "requires_grad_": lambda value, flag=True: value.requires_grad_(flag),
    "is_grad_enabled": torch.is_grad_enabled,
    "set_grad_enabled": _set_grad_enabled,
    "is_autocast_enabled": lambda *_: torch.is_autocast_enabled("cuda"),
    "is_autocast_cpu_enabled": lambda *_: torch.is_autocast_enabled("cpu"),
    "grad": _grad,
    "backward": _backward,
    "warn": _warn,
    "device": torch.device,
    "to": _to,
    "get_device": lambda value: value.get_device(),
    "cpu": lambda value: value.cpu(),
    "wait": lambda value: value,
}


# -- prim ---------------------------------------------------------------------------------------------------------------


_ERRORS: dict[str, type[Exception]] = {
    error.__name__: error
    for error in (
        *(ArithmeticError, AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, OverflowError),
        *(RuntimeError, StopIteration, TypeError, ValueError, ZeroDivisionError),
    )
}


def _raise(message: Any, kind: str | None = None) -> None:
    raise _ERRORS.get((kind or "").rpartition(".")[2], RuntimeError)(message)


def _extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: function(*args)


def _type_of(device: Any) -> str:
    return str((device if isinstance(device, torch.device) else device.device).type)


_PRIM: dict[str, Callable[..., Any]] = {
    "RaiseException": _raise,
    "device": lambda value: value.device,
    "dtype": lambda value: _number_of(value.dtype),
    "layout": lambda value: _LAYOUTS.index(value.layout),
    "requires_grad": lambda value: value.requires_grad,
    "is_cuda": lambda value: value.is_cuda,
    "is_cpu": lambda value: value.is_cpu,
    "is_meta": lambda value: value.is_meta,
    "is_mps": lambda value: value.is_mps,
    "is_xla": lambda value: value.device.type == "xla",
    "is_xpu": lambda value: value.device.type == "xpu",
    "is_hpu": lambda value: value.device.type == "hpu",
    "is_ipu": lambda value: value.device.type == "ipu",
    "is_vulkan": lambda value: value.device.type == "vulkan",
    "is_maia": lambda value: value.device.type == "maia",
    "is_mtia": lambda value: value.device.type == "mtia",
    "is_mkldnn": lambda value: value.is_mkldnn,
    "is_quantized": lambda value: value.is_quantized,
    "is_sparse": lambda value: value.is_sparse,
    "is_sparse_csr": lambda value: value.is_sparse_csr,
    "is_nested": lambda value: value.is_nested,
    "shape": lambda value: list(value.shape),
    "ndim": lambda value: value.ndim,
    "data": lambda value: value.data,
    "grad": lambda value: value.grad,
    "itemsize": lambda value: value.itemsize,
    "nbytes": lambda value: value.nbytes,
    "T": lambda value: value.T,
    "mT": lambda value: value.mT,
    "H": lambda value: value.H,
    "mH": lambda value: value.mH,
    "name": lambda value: None if value is None else str(value),
    "type": _type_of,
    "index": lambda device: device.index,
    "min": _extreme(min),
    "max": _extreme(max),
    "abs": abs,
    "rangelist": lambda count: list(range(count)),
    "NumToTensor": torch.tensor,
    "TupleUnpack": tuple,
    "unchecked_cast": lambda value: value,
    "tolist": lambda value, *_: value.tolist(),
    "AutogradAnyNonZero": lambda *values: any(isinstance(value, torch.Tensor) for value in values),
    "is_none": lambda value: value is None,
}
