"""Declarations of the archive that is written: each under a name of its own, references included.

TorchScript has one type for all modules of a class. Where only some of them are edited they get a type of their own,
named as TorchScript names a second type of one class (``___torch_mangle_7``).
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dcsurgery.torchscript.declared import Declared, chain_of, entity_in

__all__ = ["Names", "Source", "chain", "written"]

Change = Callable[[ast.Call, ast.Call], ast.expr]


@dataclass(eq=False)
class Source:
    """What declarations come from: one archive's code and constants.

    Attributes
    ----------
    declared
        Its declarations.
    constants
        The values that its code calls ``CONSTANTS.c0``, …
    first
        The number that its first constant gets in the archive that is written.
    """

    declared: Mapping[str, Declared]
    constants: tuple[Any, ...] = ()
    first: int = 0


@dataclass
class Names:
    """Chooses names, and collects the texts of what is declared under them."""

    files: dict[str, list[ast.stmt]] = field(default_factory=dict)
    _taken: dict[str, Hashable] = field(default_factory=dict)
    _chosen: dict[Hashable, str] = field(default_factory=dict)
    _number: int = 0

    def of(self, key: Hashable) -> str | None:
        """Return the name that was chosen for a declaration, None if there is none yet."""
        return self._chosen.get(key)

    def choose(self, key: Hashable, wanted: str) -> str:
        """Return a name for a new declaration: the wanted one, or one beside it."""
        prefix, _, last = wanted.rpartition(".")
        parts = [part for part in prefix.split(".") if not part.startswith("___torch_mangle_")]
        name = wanted
        while name in self._taken:
            name = ".".join([*parts, f"___torch_mangle_{self._number}", last])
            self._number += 1
        self._taken[name] = key
        self._chosen[key] = name
        return name

    def add(self, name: str, node: ast.stmt) -> None:
        """Note the text of a declaration."""
        file = name.rpartition(".")[0].replace(".", "/") + ".py"
        self.files.setdefault(file, []).append(node)

    def plain(self, source: Source, entry: Declared) -> str:
        """Return the name of a declaration that is written as it is, with all that it needs."""
        key = (id(source), entry.name)
        known = self.of(key)
        if known is not None:
            return known
        name = self.choose(key, entry.name)
        node = written(entry.node, source, self.referring(source, {entry.name: name}))
        node.name = name.rpartition(".")[2]
        self.add(name, node)
        return name

    def referring(self, source: Source, own: Mapping[str, str]) -> Callable[[Declared], str]:
        """Return the function that names what a text refers to; ``own`` are names already chosen."""

        def name(entry: Declared) -> str:
            return own.get(entry.name) or self.plain(source, entry)

        return name

    def texts(self) -> dict[str, str]:
        """Return the source text of every file."""
        return {
            file: "\n".join(ast.unparse(ast.fix_missing_locations(node)) for node in nodes) + "\n"
            for file, nodes in self.files.items()
        }


def chain(name: str) -> ast.expr:
    """Return the syntax of a dotted name."""
    return ast.parse(name, mode="eval").body


def written(
    node: Any, source: Source, name: Callable[[Declared], str], changes: Mapping[int, Change] | None = None
) -> Any:
    """Return a copy of a syntax tree with new names, constants and calls.

    Parameters
    ----------
    node
        The archive's syntax; it is not changed.
    source
        Where it is from.
    name
        Gives the name of what it refers to.
    changes
        ``id`` of a call in ``node`` to what makes its replacement, given the old call and its changed copy.
    """
    duplicate = copy.deepcopy(node)
    originals = {id(after): before for before, after in zip(ast.walk(node), ast.walk(duplicate), strict=True)}
    return _Renamer(source, name, changes or {}, originals).visit(duplicate)


class _Renamer(ast.NodeTransformer):
    def __init__(
        self,
        source: Source,
        name: Callable[[Declared], str],
        changes: Mapping[int, Change],
        originals: Mapping[int, ast.AST],
    ) -> None:
        self._source = source
        self._name = name
        self._changes = changes
        self._originals = originals

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Rename what the archive declares, and number its constants anew."""
        found = entity_in(node, self._source.declared)
        if found is not None:
            entry, rest = found
            return chain(".".join([self._name(entry), *rest]))
        parts = chain_of(node)
        if parts is not None and parts[0] == "CONSTANTS" and len(parts) == 2:
            node.attr = f"c{self._source.first + int(parts[1][1:])}"
            return node
        self.generic_visit(node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Change a call after what is inside it."""
        before = self._originals.get(id(node))
        self.generic_visit(node)
        change = None if before is None else self._changes.get(id(before))
        if change is None or not isinstance(before, ast.Call):
            return node
        return change(before, node)
