"""TorchScript's operators as Python functions: what ``torch.x`` and ``ops.namespace.x`` mean in an archive's code.

They are positional calls of ATen's schemas, where numbers, lists and tensors share names and types are numbers. Few
need more than torch's own function: arithmetic of plain numbers, and whatever changes a list or a table.
"""

from __future__ import annotations

import types
from typing import Any

import torch

from dcsurgery.catalog import match_function
from dcsurgery.errors import BadInput
from dcsurgery.torchscript.plain_operators import PLAIN
from dcsurgery.torchscript.tensor_operators import AUTOGRAD, PRIM, TENSORS

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

_FUNCTIONS = {**PLAIN, **TENSORS}


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
            space.autograd = AUTOGRAD  # type: ignore[attr-defined]
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
    if namespace == "prim" and name in PRIM:
        return PRIM[name]
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
