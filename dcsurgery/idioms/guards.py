"""Tell a ReLU from a guard: ``h.clamp(min=0)`` between layers, and ``d2.clamp(min=0).sqrt()`` against rounding.

Both have the same values. A guard is told by what it is applied to (a distance, a cosine, one minus something) and by
what its result goes into (a root, a logarithm, a denominator, an index).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping

import torch

__all__ = ["Uses", "is_guard", "is_zero_below"]

_CONSUMERS = frozenset(
    [
        "sqrt",
        "rsqrt",
        "log",
        "log2",
        "log10",
        "acos",
        "acosh",
        "arccos",
        "asin",
        "arcsin",
        "atanh",
        "arctanh",
        "reciprocal",
        "long",
        "int",
        "div",
        "divide",
        "true_divide",
        "pow",
        "float_power",
        "item",
        "index_select",
        "gather",
        "scatter",
        "scatter_add",
        "embedding",
        "searchsorted",
        "range",
        "arange",
    ]
)
_GEOMETRIC = frozenset(
    [
        "norm",
        "vector_norm",
        "cdist",
        "pairwise_distance",
        "pdist",
        "square",
        "sqrt",
        "cos",
        "sin",
        "acos",
        "arccos",
        "cosine_similarity",
        "dist",
        "hypot",
        "long",
        "int",
        "argmax",
        "argmin",
        "size",
        "numel",
        "det",
    ]
)


class Uses:
    """Where the values of a function go: the parent of every node, the assignments and uses of every name."""

    def __init__(self, node: ast.AST) -> None:
        self.parents: dict[int, ast.AST] = {}
        self.assigned: dict[str, list[ast.expr]] = {}
        self.loads: dict[str, list[ast.Name]] = {}
        for parent in ast.walk(node):
            for child in ast.iter_child_nodes(parent):
                self.parents[id(child)] = parent
            if isinstance(parent, ast.Name) and isinstance(parent.ctx, ast.Load):
                self.loads.setdefault(parent.id, []).append(parent)
            value = getattr(parent, "value", None)
            if isinstance(parent, ast.Assign | ast.AnnAssign | ast.AugAssign) and isinstance(value, ast.expr):
                for target in parent.targets if isinstance(parent, ast.Assign) else [parent.target]:
                    if isinstance(target, ast.Name):  # breadth first: within one block in the order of the source
                        self.assigned.setdefault(target.id, []).append(value)


def is_guard(node: ast.expr, source: ast.expr, uses: Uses) -> bool:
    """Say whether an expression with the values of a ReLU keeps something in range instead."""
    return any(map(_is_geometric, _origins(source, uses.assigned))) or _goes_into_one(node, uses)


def is_zero_below(function: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Say whether a function is exactly 0 at -1: ``clamp(min=1e-8)`` is not, however near it is to a ReLU."""
    return not bool(function(torch.tensor([-1.0], dtype=torch.float64)).any())


def _origins(source: ast.expr, assigned: Mapping[str, list[ast.expr]]) -> Iterator[ast.expr]:
    yield source
    for name in [n for n in ast.walk(source) if isinstance(n, ast.Name)]:
        before = [value for value in assigned.get(name.id, ()) if _is_before(value, name)]
        yield from before[-1:]


def _is_geometric(node: ast.expr) -> bool:
    while isinstance(node, ast.UnaryOp):
        node = node.operand
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and isinstance(node.left, ast.Constant):
        return True  # 1 - d / cutoff
    for part in ast.walk(node):
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Pow):
            return True
        if isinstance(part, ast.Call) and _name(part.func) in _GEOMETRIC:
            return True
    return False


def _goes_into_one(node: ast.AST, uses: Uses) -> bool:
    parent = uses.parents.get(id(node))
    match parent:
        case ast.Call():
            # As the receiver of a method it is below the method's Attribute.
            return _name(parent.func) in _CONSUMERS
        case ast.Attribute(attr=attr):
            return attr in _CONSUMERS
        case ast.BinOp(op=ast.Div(), right=right) if right is node:
            return True
        case ast.BinOp(op=ast.Pow(), left=left, right=exponent) if left is node:
            return not (isinstance(exponent, ast.Constant) and isinstance(exponent.value, int))
        case ast.BinOp() | ast.UnaryOp():
            return _goes_into_one(parent, uses)
        case ast.Subscript(slice=index):
            return index is node
        case ast.Assign(targets=[ast.Name(id=name)]):
            return any(_goes_into_one(load, uses) for load in uses.loads.get(name, ()) if _is_before(parent, load))
    return False


def _is_before(node: ast.expr | ast.stmt, load: ast.expr) -> bool:
    return (node.end_lineno or 0, node.end_col_offset or 0) < (load.lineno, load.col_offset)


def _name(func: ast.expr) -> str:
    return func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
