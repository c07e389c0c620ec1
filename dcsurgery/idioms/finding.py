"""Find the idioms in one function's syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dcsurgery.catalog import Match, match_method
from dcsurgery.idioms.expressions import Reading, is_method, position, substituted
from dcsurgery.idioms.guards import Uses, is_guard, is_zero_below
from dcsurgery.idioms.operations import ARITHMETIC
from dcsurgery.idioms.rules import constants_of, is_meant
from dcsurgery.idioms.surroundings import UNKNOWN, Surroundings, told
from dcsurgery.idioms.temporaries import Temporaries, Usage
from dcsurgery.recognition import identified, recognise
from dcsurgery.sites import Span
from dcsurgery.source import FunctionNode, span_of

__all__ = ["Idiom", "idioms_in"]

# What runs later, or perhaps not at all: a name from outside is not looked through in there.
_LATER = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.IfExp, ast.BoolOp)


@dataclass(frozen=True)
class Idiom:
    """One activation that is written out.

    Attributes
    ----------
    spans
        Where the expression stands, where its source does (the first time), and each assignment that it uses up.
    match
        What it behaves like.
    """

    spans: tuple[Span, ...]
    match: Match = field(hash=False)

    def covers(self, span: Span) -> bool:
        """Say whether a part of the source belongs to the idiom, its source left out."""
        whole, source, *used = self.spans
        return any(_within(span, held) for held in (whole, *used)) and not _within(span, source)


def idioms_in(node: FunctionNode, surroundings: Surroundings) -> list[Idiom]:
    """Return the idioms of a function, in the order of the source; those in its local functions are among them."""
    finder = _Finder(node, surroundings)
    if isinstance(node, ast.Lambda):
        finder.expression(node.body)
    else:
        finder.block(node.body)
    return finder.idioms()


@dataclass(frozen=True)
class _Found:
    """An activation or gate: written out, or a call."""

    node: ast.expr
    match: Match
    idiom: Idiom | None = None


class _Finder:
    def __init__(self, node: FunctionNode, surroundings: Surroundings) -> None:
        self._usage = Usage(node)
        self._uses = Uses(node)
        self._reading = Reading(surroundings, self._usage.local, {})
        self._found: list[_Found] = []

    def idioms(self) -> list[Idiom]:
        """Return what was found."""
        return sorted((f.idiom for f in self._found if f.idiom is not None), key=lambda idiom: idiom.spans[0])

    # -- statements --------------------------------------------------------------------------------------------------

    def block(self, statements: Sequence[ast.stmt]) -> None:
        """Read one block of statements."""
        temporaries = Temporaries(self._reading, self._usage)
        for statement in statements:
            if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return | ast.Expr):
                value = statement.value
                if value is not None:
                    self._found += self._visit(value, temporaries, value)
                if isinstance(statement, ast.AugAssign):
                    self._augmented(statement)
            else:
                self._compound(statement)
            self._note_constant(statement)
            temporaries.pass_by(statement)

    def expression(self, node: ast.expr) -> None:
        """Read one expression."""
        self._found += self._visit(node, Temporaries(self._reading, self._usage), node)

    def _compound(self, statement: ast.AST) -> None:
        for _, value in ast.iter_fields(statement):
            items = value if isinstance(value, list) else [value]
            blocks = [item for item in items if isinstance(item, ast.stmt)]
            if blocks:
                self.block(blocks)
            for item in items:
                if isinstance(item, ast.expr):
                    self.expression(item)
                elif isinstance(item, ast.ExceptHandler | ast.match_case | ast.withitem):
                    self._compound(item)

    def _note_constant(self, statement: ast.stmt) -> None:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                if self._usage.is_single(name) and self._reading.is_constant(value):
                    self._reading.constants[name] = value

    def _augmented(self, statement: ast.AugAssign) -> None:
        """``h *= torch.sigmoid(h)``: as an expression of the name that it changes."""
        if not isinstance(statement.target, ast.Name):
            return
        before = ast.copy_location(ast.Name(statement.target.id, ast.Load()), statement.target)
        whole = ast.copy_location(ast.BinOp(before, statement.op, statement.value), statement)
        temporaries = Temporaries(self._reading, self._usage)
        inner = [f for f in self._found if _inside(f.node, statement)]
        found = self._written(whole, inner, temporaries, whole)
        if found is not None and found.idiom is not None and found.idiom.spans[1] == span_of(statement.target):
            self._take(found, inner)
            self._found.append(found)

    # -- expressions -------------------------------------------------------------------------------------------------

    def _visit(self, node: ast.AST, temporaries: Temporaries, root: ast.expr) -> list[_Found]:
        """Return what is found in an expression; of two, one in the other, the outer where it counts as a whole."""
        if isinstance(node, _LATER):
            temporaries = Temporaries(self._reading, self._usage)
        inner = [f for child in ast.iter_child_nodes(node) for f in self._visit(child, temporaries, root)]
        if isinstance(node, ast.Call):
            match = self._called(node)
            if match is not None:
                return [*inner, _Found(node, match)]
        if not isinstance(node, ast.BinOp | ast.UnaryOp | ast.Call):
            return inner
        found = self._written(node, inner, temporaries, root)
        if found is None or found.idiom is None:
            return inner
        self._take(found, inner)
        return [*inner, found]

    def _take(self, found: _Found, inner: list[_Found]) -> None:
        """Remove what an idiom has inside from the sites."""
        assert found.idiom is not None
        covers = found.idiom.covers
        inner[:] = [f for f in inner if not covers(span_of(f.node))]
        self._found[:] = [f for f in self._found if not covers(span_of(f.node))]

    def _called(self, call: ast.Call) -> Match | None:
        if is_method(call, self._reading):
            operator = match_method(call.func.attr)  # type: ignore[attr-defined]
            return None if operator is None else Match(operator)
        callee = self._reading.value(call.func)
        return None if callee is UNKNOWN or isinstance(callee, type) else recognise(callee)

    def _written(self, node: ast.expr, inner: list[_Found], temporaries: Temporaries, root: ast.expr) -> _Found | None:
        """Return an expression as an idiom: as it stands, or with the names in it looked through."""
        if not self._is_operation(node):
            return None
        found = self._as_it_stands(node, node, inner, ())
        if found is not None:
            return found
        used = temporaries.used_by(node)
        if not used or self._calls_before(root, node):
            return None
        expanded = substituted(node, {}, {held.name: held.expression for held in used})
        statements = tuple(span_of(held.statement) for held in used)
        before = [f for f in self._found if any(_within(span_of(f.node), span) for span in statements)]
        return self._as_it_stands(node, expanded, [*inner, *before], tuple(sorted(statements)))

    def _is_operation(self, node: ast.expr) -> bool:
        match node:
            case ast.BinOp(op=op):
                return isinstance(op, ARITHMETIC)
            case ast.UnaryOp(op=op):
                return isinstance(op, ast.USub)
            case ast.Call():
                return self._reading.is_pure_call(node)
        return False

    def _as_it_stands(
        self, node: ast.expr, expanded: ast.expr, inner: list[_Found], used: tuple[Span, ...]
    ) -> _Found | None:
        sources = list(self._reading.sources(expanded))
        carriers = {ast.dump(places[0]) for places, _ in sources}
        found = []
        for places, rest in sources:
            source = places[0]
            if self._reading.is_parameter(self._origin(source)) or not self._reading.bends(rest):
                continue
            match = self._matched(rest)
            if match is None or match.operator.role not in ("activation", "gate"):
                continue
            outside = [f for f in inner if not _within(span_of(f.node), span_of(source))]
            around = next((f for f in outside if ast.dump(f.node) in carriers), None)
            wrapped = None if around is None else around.match
            written = around is not None and around.idiom is not None
            if not is_meant(match, [f.match for f in outside], wrapped, written=written):
                continue
            if match.operator.name == "relu" and (
                is_guard(node, source, self._uses) or not is_zero_below(self._reading.function(rest))
            ):
                continue
            found.append(_Found(node, match, Idiom((span_of(node), span_of(source), *used), match)))
        # 2h * sigmoid(2h) is a function of 2h, and 1 / (1 + exp(-h)) one of h.
        return min(found, key=lambda f: constants_of(f.match), default=None)

    def _origin(self, source: ast.expr) -> ast.expr:
        """Return what a local name stands for, if it is assigned once."""
        while isinstance(source, ast.Name) and self._usage.is_single(source.id):
            assigned = self._uses.assigned.get(source.id, [])
            if len(assigned) != 1 or assigned[0] is source:
                break
            source = assigned[0]
        return source

    def _calls_before(self, root: ast.expr, node: ast.expr) -> bool:
        """Say whether a statement calls anything before it comes to an expression: it may change what that reads."""
        return any(
            isinstance(part, ast.Await | ast.Yield | ast.YieldFrom | ast.NamedExpr)
            or (isinstance(part, ast.Call) and span_of(part)[2:] <= position(node) and not self._is_quiet(part))
            for part in ast.walk(root)
        )

    def _is_quiet(self, call: ast.Call) -> bool:
        return self._reading.is_pure_call(call) and not getattr(call.func, "attr", "").endswith("_")

    def _matched(self, rest: ast.expr) -> Match | None:
        key = (ast.dump(rest), *sorted(self._named_in(rest), key=str))
        if key not in _MATCHES:
            if len(_MATCHES) > _MANY:
                _MATCHES.clear()
            _MATCHES[key] = identified(self._reading.function(rest))
        return _MATCHES[key]

    def _named_in(self, rest: ast.expr) -> Iterator[tuple[str, Any]]:
        """Yield what the names in an expression stand for: on it depends what the expression is."""
        for part in ast.walk(rest):
            if isinstance(part, ast.Name | ast.Attribute):
                constant = self._reading.constants.get(part.id) if isinstance(part, ast.Name) else None
                if constant is not None:
                    yield from ((f"{part.id}.{name}", value) for name, value in self._named_in(constant))  # type: ignore[union-attr]
                    yield part.id, ast.dump(constant)  # type: ignore[union-attr]
                else:
                    yield ast.dump(part), told(self._reading.value(part))


_MATCHES: dict[tuple[Any, ...], Match | None] = {}
_MANY = 4096


def _within(inner: Span, outer: Span) -> bool:
    return outer[:2] <= inner[:2] and inner[2:] <= outer[2:]


def _inside(node: ast.AST, outer: ast.AST) -> bool:
    return _within(span_of(node), span_of(outer))
