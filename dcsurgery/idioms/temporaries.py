"""Local names that hold a part of an expression: ``s = torch.sigmoid(h)``, then ``h * s``.

Such a name stands for its expression where nothing can tell the difference: it is assigned once, in the same block,
used in that one expression only, and between the two no statement changes what it was made from.
"""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass

from dcsurgery.idioms.expressions import Reading

__all__ = ["Temporaries", "Temporary", "Usage"]

_LOOKS_AT_NAMES = frozenset({"locals", "vars", "eval", "exec", "dir"})


class Usage:
    """How often each name of a function is assigned and read."""

    def __init__(self, node: ast.AST) -> None:
        self.stores: Counter[str] = Counter()
        self.loads: Counter[str] = Counter()
        names: set[str] = set()
        self.hidden: set[str] = set()  # assigned in ways that are not looked at
        for part in ast.walk(node):
            match part:
                case ast.Name(id=name, ctx=ast.Load()):
                    self.loads[name] += 1
                case ast.Name(id=name):
                    self.stores[name] += 1
                case ast.arg(arg=name):
                    names.add(name)
                    self.hidden.add(name)
                case ast.Global(names=found) | ast.Nonlocal(names=found):
                    self.hidden.update(found)
                case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                    self.hidden.add(name)
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name) if part is not node:
                    self.hidden.add(name)
                case ast.alias(name=name, asname=asname):
                    names.add((asname or name).partition(".")[0])
        for part in ast.walk(node):
            if isinstance(part, ast.AugAssign) and isinstance(part.target, ast.Name):
                self.stores[part.target.id] += 1
        self.local = frozenset(names | set(self.stores) | self.hidden)
        self.is_watched = any(name in _LOOKS_AT_NAMES for name in self.loads)

    def is_single(self, name: str) -> bool:
        """Say whether a name is assigned in one place."""
        return self.stores[name] == 1 and name not in self.hidden


@dataclass(frozen=True)
class Temporary:
    """One name, its expression and the assignment."""

    name: str
    expression: ast.expr
    statement: ast.stmt


class Temporaries:
    """The names that stand for their expressions at one point of a block."""

    def __init__(self, reading: Reading, usage: Usage) -> None:
        self._reading = reading
        self._usage = usage
        self.current: dict[str, Temporary] = {}

    def used_by(self, node: ast.expr) -> list[Temporary]:
        """Return those that an expression needs, directly or through others; empty where one is needed elsewhere."""
        used: dict[str, Temporary] = {}
        loads: Counter[str] = Counter()
        pending: list[ast.AST] = [node]
        while pending:
            for part in ast.walk(pending.pop()):
                if isinstance(part, ast.Name) and part.id in self.current:
                    loads[part.id] += 1
                    if part.id not in used:
                        used[part.id] = self.current[part.id]
                        pending.append(self.current[part.id].expression)
        elsewhere = any(self._usage.loads[name] != count for name, count in loads.items())
        return [] if elsewhere else list(used.values())

    def pass_by(self, statement: ast.stmt) -> None:
        """Go behind a statement of the block."""
        if isinstance(statement, ast.Pass) or (
            isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        ):
            return
        target, value = _assigned(statement)
        if target is None or value is None:
            self.current.clear()
            return
        for name in [n for n, held in self.current.items() if n == target or _mentions(held.expression, target)]:
            del self.current[name]
        leaves = list(self._reading.leaves(value))
        if _writes(value) or not all(self._reading.is_repeatable(leaf) for leaf in leaves):
            self.current.clear()  # whatever is called may change their sources in place
        stands = self._usage.is_single(target) and not self._usage.is_watched and not _writes(value)
        if stands and leaves and leaves != [value]:
            self.current[target] = Temporary(target, value, statement)


def _assigned(statement: ast.stmt) -> tuple[str | None, ast.expr | None]:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, value
        case ast.AnnAssign(target=ast.Name(id=name), value=value):
            return name, value
    return None, None


def _mentions(node: ast.expr, name: str) -> bool:
    return any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(node))


def _writes(node: ast.expr) -> bool:
    """Say whether an expression has an in-place method or assigns a name."""
    for part in ast.walk(node):
        if isinstance(part, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
            return True
        if isinstance(part, ast.Attribute) and part.attr.endswith("_") and not part.attr.endswith("__"):
            return True
    return False
