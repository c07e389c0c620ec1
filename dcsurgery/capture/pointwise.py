"""Which nodes of a graph compute elementwise, and what a piece of a graph computes on given numbers.

A node's function is compared with ATen: what PyTorch tags as pointwise there is pointwise however it is written, as an
overload in a program, as ``torch.exp`` or ``operator.mul`` in a symbolic trace, as a tensor's method.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg

from dcsurgery.tree import get_path

__all__ = ["constant_of", "is_constant", "is_pointwise", "name_of", "run_nodes"]

#: Functions that give each element what it was, possibly in another dtype, but are not tagged as pointwise.
_NEUTRAL = frozenset({"clone", "_to_copy", "to", "alias", "contiguous", "float", "double", "where"})
#: Functions that make a tensor of one number, wherever its shape comes from.
_FILLED = {"full": 1, "full_like": 1, "scalar_tensor": 0, "zeros_like": None, "ones_like": None}
_VALUES = {"zeros_like": 0.0, "ones_like": 1.0}
_OPERATORS = {
    operator.truediv: "div",
    operator.pow: "pow",
    operator.neg: "neg",
    operator.pos: "positive",
    **{getattr(operator, name): name for name in ("add", "sub", "mul", "gt", "ge", "lt", "le", "eq", "ne")},
    operator.iadd: "add_",
    operator.isub: "sub_",
    operator.imul: "mul_",
    operator.itruediv: "div_",
}
#: Methods that return the tensor itself in another dtype.
_CASTS = frozenset({"_to_copy", "to", "float", "double", "type_as"})
_PLACES = ("dtype", "layout", "device", "pin_memory", "memory_format")


@functools.lru_cache(maxsize=4096)
def _function_name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.partition("::")[2] if target.namespace == "aten" else ""
    if isinstance(target, torch._ops.OpOverloadPacket):
        return str(target.__name__)
    if target in _OPERATORS:
        return _OPERATORS[target]
    module = getattr(target, "__module__", None) or ""
    if module.startswith("torch") or isinstance(getattr(target, "__self__", None), type(torch)):
        return str(getattr(target, "__name__", ""))
    return ""


def name_of(node: fx.Node) -> str:
    """Return the name that ATen has for what a node calls, in-place ones with their underscore; ``""`` if none."""
    if node.op == "call_method":
        return str(node.target)
    try:
        return _function_name(node.target) if node.op == "call_function" else ""
    except TypeError:  # unhashable
        return ""


@functools.lru_cache(maxsize=4096)
def _is_pointwise_name(name: str) -> bool:
    if name in _NEUTRAL:
        return True
    packet = getattr(torch.ops.aten, name, None) if name.isidentifier() and not name.endswith("_") else None
    if packet is None:
        return False
    return any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads())


def is_pointwise(node: fx.Node) -> bool:
    """Say whether each element of a node's result depends on the same element of its inputs only.

    In-place functions do not count: what else reads their input is changed, too.
    """
    name = name_of(node)
    return bool(name) and _is_pointwise_name(name)


def is_constant(node: fx.Node) -> bool:
    """Say whether a node makes a tensor of one known number (`constant_of`)."""
    if node.op == "get_attr":
        return _attribute(node) is not None
    name = name_of(node)
    return name in _FILLED and all(not isinstance(a, fx.Node) for a in node.args[1:])


def constant_of(node: fx.Node) -> float | None:
    """Return the number of a node of `is_constant`, None where it is none."""
    if node.op == "get_attr":
        return _attribute(node)
    name = name_of(node)
    position = _FILLED[name]
    if position is None:
        return _VALUES[name]
    value: Any = node.kwargs.get("fill_value", node.args[position] if len(node.args) > position else None)
    return float(value) if isinstance(value, bool | int | float) else None


def _attribute(node: fx.Node) -> float | None:
    """Return the number in an attribute: a plain one, or a tensor of one element that is not trained."""
    owner = node.graph.owning_module
    if owner is None:
        return None
    try:
        value = get_path(owner, str(node.target))
    except Exception:  # noqa: BLE001 - whatever a user's module does when asked for an attribute
        return None
    if isinstance(value, bool | int | float):
        return float(value)
    if not isinstance(value, torch.Tensor) or isinstance(value, nn.Parameter) or value.numel() != 1 or value.is_meta:
        return None
    number = float(value.detach().reshape(())) if not value.is_complex() else math.nan
    return number if math.isfinite(number) else None


def run_nodes(nodes: Iterable[fx.Node], source: fx.Node, result: fx.Node) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what pointwise and constant nodes, in their order, make of their one source."""
    steps = list(nodes)

    def function(x: torch.Tensor) -> torch.Tensor:
        values: dict[fx.Node, Any] = {source: x}
        for node in steps:
            values[node] = _value(node, values, x)
        found: torch.Tensor = values[result]
        return found

    return function


def _value(node: fx.Node, values: dict[fx.Node, Any], x: torch.Tensor) -> Any:
    if is_constant(node):
        return torch.tensor(constant_of(node), dtype=x.dtype)
    name = name_of(node)
    args: tuple[Any, ...] = map_arg(node.args, values.__getitem__)
    if name in _CASTS:
        return args[0]
    kwargs = map_arg({k: v for k, v in node.kwargs.items() if k not in _PLACES}, values.__getitem__)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    target: Any = node.target
    return target(*args, **kwargs)
