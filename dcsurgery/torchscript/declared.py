"""What an archive's code declares, and the types that it gives to names."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["BUILTINS", "ROOTS", "VALUES", "Declared", "Kind", "Types", "chain_of", "entity_in"]

Kind = Literal["module", "class", "enum", "record", "interface", "function"]

#: Names that the texts may use without binding them.
ROOTS = frozenset({"torch", "ops", "CONSTANTS", "__torch__"})
BUILTINS = frozenset(
    {"annotate", "unchecked_cast", "uninitialized", "getattr", "bool", "int", "float", "str", "range", "print"}
)
VALUES = frozenset({"inf", "nan", "infj", "nanj", "True", "False", "None"})


@dataclass(eq=False)
class Declared:
    """One declaration of an archive.

    Attributes
    ----------
    name
        ``__torch__.torch.nn.modules.linear.Linear``.
    kind
        ``module``, ``class`` (a scripted class), ``enum``, ``record`` (a NamedTuple), ``interface`` or ``function``.
    node
        Its syntax tree, positions as in the archive's file.
    fields
        Declared attributes and their types, in the order in which the archive keeps them.
    constants
        Attributes whose value is part of the type.
    parameters, buffers
        Which fields are parameters and buffers.
    methods
        Name to syntax tree.
    """

    name: str
    kind: Kind
    node: ast.ClassDef | ast.FunctionDef
    fields: dict[str, ast.expr] = field(default_factory=dict)
    constants: dict[str, ast.expr] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    methods: dict[str, ast.FunctionDef] = field(default_factory=dict)

    @property
    def last(self) -> str:
        """The name without its path."""
        return self.name.rpartition(".")[2]

    @property
    def source_name(self) -> str:
        """Where the user's Python had it: ``torch.nn.modules.linear.Linear``."""
        parts = self.name.split(".")[1:]
        return ".".join(part for part in parts if not part.startswith("___torch_mangle_"))

    @property
    def functions(self) -> list[ast.FunctionDef]:
        """The function itself, or the methods of the class."""
        return [self.node] if isinstance(self.node, ast.FunctionDef) else list(self.methods.values())


def chain_of(node: ast.expr) -> list[str] | None:
    """Return ``["a", "b", "c"]`` for ``a.b.c``, None for everything else."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        head = chain_of(node.value)
        return None if head is None else [*head, node.attr]
    return None


def entity_in(node: ast.expr, declared: Mapping[str, Declared]) -> tuple[Declared, list[str]] | None:
    """Return the declaration that ``__torch__.a.B.c`` begins with, and what follows; None if there is none."""
    chain = chain_of(node)
    if chain is None or chain[0] != "__torch__":
        return None
    for cut in range(len(chain), 0, -1):
        found = declared.get(".".join(chain[:cut]))
        if found is not None:
            return found, chain[cut:]
    return None


class Types:
    """Which declared classes a function's names and expressions have, as far as its text says."""

    def __init__(self, owner: Declared, function: ast.FunctionDef, declared: Mapping[str, Declared]) -> None:
        self._declared = declared
        self._names: dict[str, Declared] = {}
        for argument in function.args.args:
            self._note(argument.arg, self._named(argument.annotation))
        if owner.kind != "function" and function.args.args:
            self._names[function.args.args[0].arg] = owner
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                self._note(node.targets[0].id, self.of(node.value))

    def of(self, node: ast.expr) -> Declared | None:
        """Return the class of an expression's value, None where it is none of the archive's, or not known."""
        match node:
            case ast.Name(id=name):
                return self._names.get(name)
            case ast.Attribute(value=value, attr=name):
                return self._field(value, name)
            case ast.Call(func=ast.Name(id="getattr"), args=[value, ast.Constant(value=str(name))]):
                return self._field(value, name)
            case ast.Call(func=ast.Name(id="unchecked_cast" | "annotate"), args=[annotation, _]):
                return self._named(annotation)
        return None

    def _field(self, value: ast.expr, name: str) -> Declared | None:
        holder = self.of(value)
        return None if holder is None else self._named(holder.fields.get(name))

    def _named(self, annotation: ast.expr | None) -> Declared | None:
        found = None if annotation is None else entity_in(annotation, self._declared)
        return found[0] if found is not None and not found[1] else None

    def _note(self, name: str, found: Declared | None) -> None:
        if found is not None:
            self._names[name] = found
