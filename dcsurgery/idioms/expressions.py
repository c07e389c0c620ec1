"""One expression as a function of one of the tensors in it."""

from __future__ import annotations

import ast
import builtins
import copy
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from dcsurgery.idioms.operations import (
    ARITHMETIC,
    COMPARISONS,
    is_elementwise_function,
    is_elementwise_method,
    is_seed,
)
from dcsurgery.idioms.surroundings import UNKNOWN, Surroundings
from dcsurgery.recognition import is_library_code, recognise

__all__ = ["ARGUMENT", "Reading", "substituted"]

ARGUMENT = "_dcs_source"
_CONVERSIONS = frozenset({"to", "float", "half", "bfloat16", "type", "type_as"})
_UNIVERSAL = frozenset({"dtype", "device"})


class Reading:
    """Reads expressions of one function.

    Parameters
    ----------
    surroundings
        What its names stand for.
    local
        The names that are assigned or are arguments in it.
    constants
        Local names that stand for the same number always, and its expression.
    """

    def __init__(self, surroundings: Surroundings, local: frozenset[str], constants: dict[str, ast.expr]) -> None:
        self.surroundings = surroundings
        self._local = local
        self.constants = constants

    # -- values ------------------------------------------------------------------------------------------------------

    def value(self, node: ast.expr) -> Any:
        """Return what a name or a dotted name stands for, `UNKNOWN` where only a run can tell."""
        if isinstance(node, ast.Name):
            is_self = node.id == self.surroundings.self_name
            return UNKNOWN if node.id in self._local and not is_self else self.surroundings.named(node.id)
        if isinstance(node, ast.Attribute):
            base = self.value(node.value)
            if base is UNKNOWN:
                return UNKNOWN
            if base is self.surroundings.module and base is not None:
                return self.surroundings.attribute(node.attr)
            known = not isinstance(base, nn.Module | torch.Tensor) and hasattr(base, "__name__")
            return getattr(base, node.attr, UNKNOWN) if known else UNKNOWN
        return UNKNOWN

    def is_parameter(self, node: ast.expr) -> bool:
        """Say whether an expression is a tensor that the module holds: no data goes in."""
        return isinstance(self.value(node), torch.Tensor)

    def is_pure_call(self, call: ast.Call) -> bool:
        """Say whether a call is an elementwise operation, or an activation or gate, on whatever its arguments are."""
        if any(isinstance(a, ast.Starred) for a in call.args):
            return False
        if any(k.arg in (None, "out", "inplace") for k in call.keywords):
            return False
        if is_method(call, self):
            return is_elementwise_method(call.func.attr)  # type: ignore[attr-defined]
        callee = self.value(call.func)
        if callee is UNKNOWN:
            return False
        if is_elementwise_function(callee) or _is_application(callee):
            return True
        match = None if isinstance(callee, type) else recognise(callee)
        return match is not None and match.operator.role in ("activation", "gate")

    def leaves(self, node: ast.AST) -> Iterator[ast.expr]:
        """Yield the parts of an expression that are data: what is neither a constant nor an operation on its parts."""
        match node:
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                return
            case ast.BinOp(left=left, op=op, right=right) if isinstance(op, ARITHMETIC):
                parts: list[ast.expr] = [left, right]
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                parts = [operand]
            case ast.Compare(left=left, ops=[op], comparators=[right]) if isinstance(op, COMPARISONS):
                parts = [left, right]
            case ast.Attribute(value=base, attr=attr) if attr in _UNIVERSAL and self.value(node) is UNKNOWN:
                parts = [base]
            case ast.Name() | ast.Attribute():
                if not self._is_number(node):
                    yield node
                return
            case ast.Call() if self.is_pure_call(node):
                receiver = [node.func.value] if is_method(node, self) else []  # type: ignore[attr-defined]
                parts = [*receiver, *node.args, *(keyword.value for keyword in node.keywords)]
            case ast.expr():
                yield node
                return
            case _:
                return
        for part in parts:
            yield from self.leaves(part)

    def _is_number(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name) and node.id in self.constants:
            return True
        value = self.value(node)
        return isinstance(value, int | float | torch.dtype) and not isinstance(value, bool)

    def is_constant(self, node: ast.expr) -> bool:
        """Say whether no data goes into an expression."""
        return next(self.leaves(node), None) is None

    def is_repeatable(self, node: ast.expr) -> bool:
        """Say whether evaluating an expression once or twice is the same: no call in it."""
        match node:
            case ast.Name() | ast.Constant():
                return True
            case ast.Attribute(value=base):
                return self.is_repeatable(base)
            case ast.Subscript(value=base, slice=index):
                return self.is_repeatable(base) and self.is_repeatable(index)
            case ast.BinOp(left=left, right=right):
                return self.is_repeatable(left) and self.is_repeatable(right)
            case ast.UnaryOp(operand=operand):
                return self.is_repeatable(operand)
            case ast.Tuple(elts=parts):
                return all(self.is_repeatable(part) for part in parts)
            case ast.Slice(lower=lower, upper=upper, step=step):
                return all(part is None or self.is_repeatable(part) for part in (lower, upper, step))
        return False

    # -- sources -----------------------------------------------------------------------------------------------------

    def sources(self, node: ast.expr) -> Iterator[tuple[list[ast.expr], ast.expr]]:
        """Yield every part of an expression that alone carries its data, largest first.

        With each part come all places where it stands, and the expression with `ARGUMENT` in its place.
        """
        groups: dict[str, list[ast.expr]] = {}
        for part in ast.walk(node):
            plain = isinstance(part, ast.expr) and not isinstance(part, ast.Constant | ast.Starred | ast.Slice)
            if plain and part is not node:
                groups.setdefault(ast.dump(part), []).append(part)  # type: ignore[arg-type]
        for _, places in sorted(groups.items(), key=lambda item: -len(item[0])):
            if len(places) > 1 and not self.is_repeatable(places[0]):
                continue
            if self.is_constant(places[0]):
                continue
            rest = substituted(node, {id(place): ast.Name(ARGUMENT, ast.Load()) for place in places})
            leaves = list(self.leaves(rest))
            if leaves and all(isinstance(leaf, ast.Name) and leaf.id == ARGUMENT for leaf in leaves):
                yield sorted(places, key=position), rest

    def bends(self, node: ast.expr) -> bool:
        """Say whether an expression has an operation that makes it more than a polynomial."""
        for part in ast.walk(node):
            if isinstance(part, ast.Compare):
                return True
            if isinstance(part, ast.Call):
                if is_method(part, self):
                    bends = is_seed(part.func.attr)  # type: ignore[attr-defined]
                else:
                    callee = self.value(part.func)
                    bends = not is_elementwise_function(callee) or is_seed(getattr(callee, "__name__", ""))
                if bends:
                    return True
        return False

    def function(self, node: ast.expr) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return an expression in `ARGUMENT` as a function of it; it raises where the expression changes its source."""
        body = _InDouble().visit(substituted(node, {}, self.constants))
        arguments = ast.arguments([], [ast.arg(ARGUMENT)], None, [], [], None, [])
        tree = ast.fix_missing_locations(ast.Expression(ast.Lambda(arguments, body)))
        names = {n.id for n in ast.walk(body) if isinstance(n, ast.Name)} - {ARGUMENT}
        known = {name: value for name in names if (value := self.surroundings.named(name)) is not UNKNOWN}
        # A syntax tree of names, numbers and elementwise calls: `leaves` lets nothing else through.
        code = next(c for c in compile(tree, "<expression>", "eval").co_consts if isinstance(c, types.CodeType))
        evaluate = types.FunctionType(code, {"__builtins__": builtins, **known})

        def function(x: torch.Tensor) -> torch.Tensor:
            before = x.clone()
            y: torch.Tensor = evaluate(x)
            if not torch.equal(x, before):
                raise ValueError("it changes its source, which others may use")
            return y

        return function


def _is_application(callee: Any) -> bool:
    """Say whether a callable is the ``apply`` of a user's `autograd.Function`: what that does is seen when it is tried."""
    cls = getattr(callee, "__self__", None)
    ours = isinstance(cls, type) and issubclass(cls, torch.autograd.Function) and not is_library_code(cls.__module__)
    return ours and getattr(callee, "__name__", "") == "apply"


def is_method(call: ast.Call, reading: Reading) -> bool:
    """Say whether a call is a method of something that is data."""
    return isinstance(call.func, ast.Attribute) and reading.value(call.func.value) is UNKNOWN


def position(node: ast.AST) -> tuple[int, int]:
    """Return where a node begins."""
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)


class _Substitution(ast.NodeTransformer):
    def __init__(self, nodes: dict[int, ast.expr], names: dict[str, ast.expr]) -> None:
        self._nodes = nodes
        self._names = names

    def visit(self, node: ast.AST) -> Any:
        if id(node) in self._nodes:
            return self._nodes[id(node)]
        if isinstance(node, ast.Name) and node.id in self._names:
            return substituted(self._names[node.id], self._nodes, self._names)
        return self.generic_visit(copy.copy(node))

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for name, old in ast.iter_fields(node):
            if isinstance(old, list):
                setattr(node, name, [self.visit(item) if isinstance(item, ast.AST) else item for item in old])
            elif isinstance(old, ast.AST):
                setattr(node, name, self.visit(old))
        return node


class _InDouble(ast.NodeTransformer):
    """Takes conversions to a smaller type out: they would blur the values."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _CONVERSIONS:
            return ast.Call(ast.Attribute(node.func.value, "double", ast.Load()), [], [])
        return node


def substituted(node: ast.expr, nodes: dict[int, ast.expr], names: dict[str, ast.expr] | None = None) -> ast.expr:
    """Return an expression with other ones in place of some of its nodes (by id) and names."""
    new: ast.expr = _Substitution(nodes, names or {}).visit(node)
    return new
