"""TorchScript's code as ordinary Python: one module for an archive, whose classes are plain modules.

``(self.act).forward(x, )`` becomes ``self.act(x)``, so that hooks run and a replaced child is called like any other;
type annotations and casts go. Everything else stays as the archive has it, and every call of the Python text keeps the
link to the archive's own, which is what an edit is written back to.
"""

from __future__ import annotations

import ast
import builtins
import copy
import keyword
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dcsurgery.errors import BadInput
from dcsurgery.torchscript.declared import BUILTINS, ROOTS, VALUES, Declared, chain_of, entity_in

__all__ = ["Link", "Translation", "translate"]

# What the Python text calls what it takes from `dcsurgery.torchscript.programs`.
HELPERS = frozenset({"bases", "record", "Enum", "has_type"})


@dataclass(frozen=True)
class Link:
    """A call in the Python text: whose code it is in, and the archive's own call."""

    owner: Declared
    function: ast.FunctionDef
    call: ast.Call


@dataclass
class Translation:
    """The Python text of an archive.

    Attributes
    ----------
    source
        The text.
    names
        Qualified name in the archive to name in the text.
    links
        Behind a call's closing parenthesis, ``(line, column)``, to the archive's call.
    operators
        Every ``torch.x``, ``ops.namespace.x`` that is used, without repetition.
    """

    source: str = ""
    names: dict[str, str] = field(default_factory=dict)
    links: dict[tuple[int, int], Link] = field(default_factory=dict)
    operators: tuple[str, ...] = ()


def translate(
    declared: Mapping[str, Declared], roots: tuple[str, ...], where: str = "TorchScript archive"
) -> Translation:
    """Return what an archive declares, as far as ``roots`` need it, as Python.

    Names do not depend on how TorchScript numbered equal ones (``___torch_mangle_7``), which changes from one export
    to the next.
    """
    for root in roots:
        if root not in declared:
            raise BadInput(f"its code does not have {root}", where=where, fix="write it again with torch.jit.save")
    reached = list(_reached(declared, roots, where))
    names = _names(reached, declared)
    changer = _Changer(declared, names)
    body = [statement for entry in reached for statement in changer.declaration(entry)]
    tree = ast.fix_missing_locations(ast.Module(body, []))
    source = ast.unparse(tree) + "\n"
    again = ast.parse(source)
    links = {}
    for made, read in zip(_calls(tree), _calls(again), strict=True):
        link = getattr(made, "link", None)
        if link is not None:
            links[read.end_lineno or 0, read.end_col_offset or 0] = link
    return Translation(source, names, links, tuple(dict.fromkeys(changer.operators)))


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _reached(declared: Mapping[str, Declared], roots: tuple[str, ...], where: str) -> Iterator[Declared]:
    """Yield the declarations that some need, themselves included."""
    waiting, seen = [declared[root] for root in roots], set(roots)
    while waiting:
        entry = waiting.pop(0)
        yield entry
        for node in _in_order(entry.node):
            if not isinstance(node, ast.Attribute) or getattr(node, "inner", False):
                continue
            found = entity_in(node, declared)
            for below in ast.walk(node.value):
                below.inner = True  # type: ignore[attr-defined]
            if found is not None and found[0].name not in seen:
                seen.add(found[0].name)
                waiting.append(found[0])
            elif found is None and _is_missing(node):
                raise BadInput(
                    f"its code does not have {ast.unparse(node)}", where=where, fix="write it again with torch.jit.save"
                )


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _in_order(child)


def _is_missing(node: ast.Attribute) -> bool:
    value: ast.expr = node
    while isinstance(value, ast.Attribute):
        value = value.value
    return isinstance(value, ast.Name) and value.id == "__torch__"


def _names(reached: list[Declared], declared: Mapping[str, Declared]) -> dict[str, str]:
    """Choose a name of its own for each, which no function uses for a variable."""
    used = set(dir(builtins)) | set(keyword.kwlist) | ROOTS | BUILTINS | VALUES | HELPERS
    for entry in declared.values():
        for function in entry.functions:
            used |= {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
            used |= {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
    names = {}
    for entry in reached:
        name, number = entry.last, 2
        while name in used:
            name, number = f"{entry.last}_{number}", number + 1
        used.add(name)
        names[entry.name] = name
    return names


class _Changer(ast.NodeTransformer):
    """Turns declarations into Python statements."""

    def __init__(self, declared: Mapping[str, Declared], names: Mapping[str, str]) -> None:
        self._declared = declared
        self._names = names
        self._owner: Declared | None = None
        self._function: ast.FunctionDef | None = None
        self.operators: list[str] = []

    def declaration(self, entry: Declared) -> list[ast.stmt]:
        """Return the statements for one declaration; none for an interface."""
        name = self._names[entry.name]
        self._owner, self._function = entry, None
        if entry.kind == "interface":
            return []
        if isinstance(entry.node, ast.FunctionDef):
            return [self._method(entry.node, name)]
        if entry.kind == "record":
            fields = ast.Constant(" ".join(entry.fields))
            return [ast.Assign([ast.Name(name, ast.Store())], _call("record", ast.Constant(name), fields))]
        body: list[ast.stmt] = [
            ast.Assign([ast.Name(constant, ast.Store())], self._plain(value))
            for constant, value in entry.constants.items()
        ]
        body += [self._method(method, _public(method.name)) for method in entry.methods.values()]
        base: list[ast.expr] = [ast.Name("Enum", ast.Load())] if entry.kind == "enum" else []
        if entry.kind in ("module", "class"):
            base = [ast.Starred(_call("bases", ast.Constant(entry.name)), ast.Load())]
        return [ast.ClassDef(name=name, bases=base, keywords=[], body=body or [ast.Pass()], decorator_list=[])]

    def _method(self, node: ast.FunctionDef, name: str) -> ast.FunctionDef:
        self._function = node
        arguments = copy.deepcopy(node.args)
        for argument in (*arguments.args, *arguments.kwonlyargs):
            argument.annotation = None
        arguments.defaults = [self._plain(value) for value in arguments.defaults]
        arguments.kw_defaults = [None if value is None else self._plain(value) for value in arguments.kw_defaults]
        body = [self._changed(statement) for statement in node.body] or [ast.Pass()]
        return ast.FunctionDef(name=name, args=arguments, body=body, decorator_list=[], returns=None)

    def _plain(self, value: ast.expr) -> ast.expr:
        changed: ast.expr = self._changed(value)
        return changed

    def _changed(self, node: Any) -> Any:
        """Change a copy; the archive's own tree stays as it is."""
        duplicate = copy.deepcopy(node)
        for before, after in zip(ast.walk(node), ast.walk(duplicate), strict=True):
            if isinstance(after, ast.Call):
                after.archived = before  # type: ignore[attr-defined]
        return self.visit(duplicate)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Drop the type of a variable."""
        if node.value is None:
            return ast.Pass()
        value: ast.expr = self.visit(node.value)
        return ast.Assign([node.target], value)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Take casts off, call children instead of their ``forward``, and keep the link."""
        archived: ast.Call = node.archived  # type: ignore[attr-defined]
        if isinstance(node.func, ast.Name) and node.func.id in ("annotate", "unchecked_cast"):
            return self.visit(node.args[1])
        if isinstance(node.func, ast.Name) and node.func.id == "uninitialized":
            return ast.Constant(None)
        if isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            return _call("has_type", self.visit(node.args[0]), ast.Constant(ast.unparse(node.args[1])))
        node.args = [self.visit(argument) for argument in node.args]
        for entry in node.keywords:
            entry.value = self.visit(entry.value)
        if (
            isinstance(node.func, ast.Attribute)
            and node.func.attr == "forward"
            and entity_in(node.func, self._declared) is None
        ):
            node.func = self.visit(node.func.value)
        else:
            node.func = self.visit(node.func)
        assert self._owner is not None
        if self._function is not None:
            node.link = Link(self._owner, self._function, archived)  # type: ignore[attr-defined]
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Name what the archive declares by its name in the text, and note the operators."""
        found = entity_in(node, self._declared)
        if found is not None:
            entry, rest = found
            value: ast.expr = ast.Name(self._names[entry.name], ast.Load())
            for part in rest:
                value = ast.Attribute(value, part, node.ctx)
            return value
        chain = chain_of(node)
        if chain is not None and chain[0] in ("torch", "ops"):
            self.operators.append(".".join(chain))
            return node
        self.generic_visit(node)
        node.attr = _public(node.attr)
        return node


def _public(name: str) -> str:
    """Return a method's name without what Python would mangle: property getters are called ``__size_getter``."""
    return f"private{name}" if name.startswith("__") and not name.endswith("__") else name


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])
