"""Put a call in the place of an expression: ``x * torch.sigmoid(x)`` → ``helper(x, lambda source: …)``.

The helper applies the new activation to the source, which is evaluated once, as before. What is no tensor of floating
point numbers at run time goes through the original expression, which travels along.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dcsurgery.activations import irelu
from dcsurgery.calls import activation_function, apply_activation, replace_in_place
from dcsurgery.idioms.expressions import ARGUMENT, substituted
from dcsurgery.sites import Span
from dcsurgery.source import span_of

__all__ = ["Call", "WrittenOut"]


@dataclass(frozen=True)
class Call:
    """What takes an expression's place.

    Attributes
    ----------
    helper
        Takes the source's value and the original expression as a function.
    source
        The source's syntax.
    original
        The expression's, as a lambda.
    target
        For an augmented assignment: the name that is assigned.
    """

    helper: Callable[..., Any]
    source: ast.expr
    original: ast.Lambda
    target: ast.Name | None


class WrittenOut:
    """The expressions that are replaced in one function.

    Parameters
    ----------
    root
        The function's syntax tree, before anything in it is changed.
    edits
        For each expression the new activation, and the spans of an `Idiom`.
    """

    def __init__(self, root: ast.AST, edits: Iterable[tuple[str | nn.Module, tuple[Span, ...]]]) -> None:
        self._edits = {spans[0]: (replacement, spans) for replacement, spans in edits}
        self._used_up = {span for _, spans in self._edits.values() for span in spans[2:]}
        self._parts: dict[Span, ast.expr] = {}
        self._assignments: dict[Span, tuple[str, ast.expr]] = {}
        for node in ast.walk(root):
            if isinstance(node, ast.expr):
                self._parts[span_of(node)] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign) and span_of(node) in self._used_up:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                assert isinstance(target, ast.Name)
                assert node.value is not None
                self._assignments[span_of(node)] = (target.id, node.value)

    def is_used_up(self, node: ast.AST) -> bool:
        """Say whether a statement goes with an expression."""
        return isinstance(node, ast.stmt) and span_of(node) in self._used_up

    def at(self, node: ast.AST) -> Call | None:
        """Return what takes the place of an expression, or of an augmented assignment; None where it stays."""
        edit = self._edits.get(span_of(node)) if isinstance(node, ast.expr | ast.AugAssign) else None
        if edit is None:
            return None
        replacement, (_, where, *used) = edit
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            source: ast.expr = ast.copy_location(ast.Name(node.target.id, ast.Load()), node.target)
            whole: ast.expr = ast.BinOp(source, node.op, node.value)
            return Call(_in_place(replacement), source, _as_lambda(whole, source), node.target)
        assert isinstance(node, ast.expr)
        source = self._parts[where]
        whole = substituted(node, {}, dict(self._assignments[span] for span in used))
        return Call(_out_of_place(replacement), copy.deepcopy(source), _as_lambda(whole, source), None)


def _as_lambda(whole: ast.expr, source: ast.expr) -> ast.Lambda:
    same = ast.dump(source)
    places = [part for part in ast.walk(whole) if isinstance(part, ast.expr) and ast.dump(part) == same]
    body = substituted(whole, {id(place): ast.Name(ARGUMENT, ast.Load()) for place in places})
    return ast.Lambda(ast.arguments([], [ast.arg(ARGUMENT)], None, [], [], None, []), body)


def _is_tensor(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.is_floating_point()
    return hasattr(type(value), "__torch_function__")  # a torch.fx proxy


def _out_of_place(replacement: str | nn.Module) -> Callable[..., Any]:
    activation = activation_function(replacement)

    def helper(source: Any, original: Callable[[Any], Any], /) -> Any:
        if not _is_tensor(source):
            return original(source)
        return irelu(source) if activation is irelu else apply_activation(source, activation)

    return helper


def _in_place(replacement: str | nn.Module) -> Callable[..., Any]:
    activation = activation_function(replacement)

    def helper(source: Any, original: Callable[[Any], Any], /) -> Any:
        return replace_in_place(source, activation) if _is_tensor(source) else original(source)

    return helper
