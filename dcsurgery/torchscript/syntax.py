"""The code of a TorchScript archive as declarations: modules, classes, enumerations, records and functions.

TorchScript prints its code as Python text. It is parsed here and held to the few forms that the printer uses; nothing
else passes, so that a text which claims to be TorchScript cannot do what TorchScript cannot do.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from dcsurgery.errors import BadInput, UnsafeFile
from dcsurgery.files.harmless import TENSOR_METHODS
from dcsurgery.torchscript.declared import BUILTINS, ROOTS, VALUES, Declared, Kind, chain_of
from dcsurgery.torchscript.repeats import merge_repeats, name_overloads

__all__ = ["parse_code"]

_KINDS: dict[str, Kind] = {
    "Module": "module",
    "Enum": "enum",
    "NamedTuple": "record",
    "Interface": "interface",
    "ModuleInterface": "interface",
}
_LISTS = frozenset({"__parameters__", "__buffers__", "__forward_hooks__", "__forward_pre_hooks__", "__annotations__"})
_SPECIAL = frozenset(
    {
        *("__new__", "__init__", "__len__", "__contains__", "__getitem__", "__setitem__", "__enter__", "__exit__"),
        *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__add__", "__sub__", "__mul__", "__truediv__"),
        *("__floordiv__", "__mod__", "__pow__", "__neg__", "__iter__", "__str__", "__getstate__", "__setstate__"),
        *("__and__", "__or__", "__xor__", "__call__", "__delitem__", "__hash__", "__bool__", "__int__", "__float__"),
    }
)
# Attributes of nn.Module that TorchScript keeps itself, or that only say something.
_OWN = frozenset({"training", "_is_full_backward_hook", "forward", "dump_patches", "T_destination", "call_super_init"})
_MODULE_NAMES = frozenset(n for n in (*dir(nn.Module), *vars(nn.Module())) if n[:2] != "__")
_TENSOR_NAMES = (
    frozenset(n for n in dir(torch.Tensor) if n[:2] != "__" and callable(getattr(torch.Tensor, n, None)))
    - TENSOR_METHODS
)
_STATEMENTS = (
    *(ast.Assign, ast.AnnAssign, ast.Expr, ast.If, ast.While, ast.For, ast.With, ast.Return, ast.Pass, ast.Break),
    *(ast.Continue, ast.Delete, ast.Assert),
)
_EXPRESSIONS = (
    *(ast.Attribute, ast.BinOp, ast.BoolOp, ast.Call, ast.Compare, ast.Constant, ast.Dict, ast.IfExp, ast.List),
    *(ast.Name, ast.Subscript, ast.Tuple, ast.UnaryOp),
)


def parse_code(texts: Mapping[str, str], where: str = "TorchScript archive") -> dict[str, Declared]:
    """Return everything that an archive declares, by qualified name.

    Parameters
    ----------
    texts
        Source texts by their name below ``code/``.
    where
        What error messages call the archive.

    Raises
    ------
    BadInput
        If a text is not Python, or something that is not imported (``fork``).
    UnsafeFile
        If it does what TorchScript's own printer never writes.
    """
    found: dict[str, Declared] = {}
    for file, text in texts.items():
        prefix = file.removesuffix(".py").replace("/", ".")
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError) as error:
            raise BadInput(
                f"its code is damaged: {error}", where=f"{where}, code/{file}", fix="write it again with torch.jit.save"
            ) from None
        for node in tree.body:
            declared = _Checker(f"{where}, code/{file}").declaration(node, prefix)
            found[declared.name] = declared
    merge_repeats(found)
    name_overloads(found)
    return found


class _Checker:
    """Reads declarations and refuses what the printer does not write."""

    def __init__(self, where: str) -> None:
        self._where = where

    def declaration(self, node: ast.stmt, prefix: str) -> Declared:
        if isinstance(node, ast.FunctionDef):
            self._function(node)
            return Declared(f"{prefix}.{node.name}", "function", node)
        if not isinstance(node, ast.ClassDef) or node.decorator_list or node.keywords or len(node.bases) > 1:
            raise self._odd(node)
        base = node.bases[0].id if node.bases and isinstance(node.bases[0], ast.Name) else ""
        declared = Declared(f"{prefix}.{node.name}", _KINDS.get(base, "class"), node)
        for statement in node.body:
            self._member(declared, statement)
        return declared

    def _member(self, declared: Declared, node: ast.stmt) -> None:
        match node:
            case ast.FunctionDef(name=name):
                if _dunder(name) and name not in _SPECIAL:
                    raise self._odd(node)
                if not node.args.args:
                    raise self._odd(node)
                self._function(node, interface=declared.kind == "interface")
                declared.methods[name] = node
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in _LISTS:
                names = self._names(value)
                if name == "__parameters__":
                    declared.parameters = names
                elif name == "__buffers__":
                    declared.buffers = names
                elif name != "__annotations__":
                    declared.hooks += names
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if declared.kind == "enum":
                self._literal(value)
                declared.constants[self._public(name, node)] = value
            case ast.Assign(
                targets=[ast.Subscript(value=ast.Name(id="__annotations__"), slice=ast.Constant(value=str(name)))],
                value=annotation,
            ):
                declared.fields[self._public(name, node)] = annotation
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=None):
                declared.fields[self._public(name, node)] = annotation
            case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
                self._literal(value)
                declared.constants[self._public(name, node)] = value
            case ast.Pass():
                pass
            case _:
                raise self._odd(node)

    def _public(self, name: str, node: ast.AST) -> str:
        if _dunder(name):
            raise self._odd(node)
        if name in _MODULE_NAMES and name not in _OWN:
            raise self._taken(name, node)
        return name

    def _names(self, value: ast.expr) -> tuple[str, ...]:
        try:
            names = ast.literal_eval(value)
        except ValueError:
            names = None
        if not isinstance(names, list) or not all(type(name) is str for name in names):
            raise self._odd(value)
        return tuple(names)

    def _literal(self, value: ast.expr) -> None:
        for node in ast.walk(value):
            plain = isinstance(node, ast.Constant | ast.List | ast.Tuple | ast.Dict | ast.UnaryOp | ast.unaryop)
            named = isinstance(node, ast.Name) and node.id in VALUES | {"torch", "annotate", "List", "Tuple", "Dict"}
            device = isinstance(node, ast.Attribute) and chain_of(node) == ["torch", "device"]
            typed = isinstance(node, ast.Name | ast.Subscript | ast.Call | ast.expr_context)
            if not (plain or named or device or typed):
                raise self._odd(value)
            if isinstance(node, ast.Call) and chain_of(node.func) not in (["torch", "device"], ["annotate"]):
                raise self._odd(value)

    def _function(self, node: ast.FunctionDef, *, interface: bool = False) -> None:
        arguments = node.args
        if node.decorator_list or arguments.vararg or arguments.kwarg or arguments.posonlyargs:
            raise self._odd(node)
        for default in (*arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)):
            self._literal(default)
        bound = {argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)}
        bound |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        if bound & (ROOTS | BUILTINS | VALUES):
            raise self._odd(node)
        for statement in node.body if not interface else ():
            for inner in _statements(statement):
                self._statement(inner, bound)

    def _statement(self, node: ast.stmt, bound: set[str]) -> None:
        if isinstance(node, ast.FunctionDef):  # the only functions that TorchScript prints inside of others
            raise BadInput(
                "runs parts of itself asynchronously (torch.jit.fork)", where=self._where, fix="export it without fork"
            )
        if not isinstance(node, _STATEMENTS):
            raise self._odd(node)
        if isinstance(node, ast.With) and any(item.optional_vars is not None for item in node.items):
            raise self._odd(node)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.withitem):
                self._value(child.context_expr, bound)
            elif isinstance(child, ast.expr) and child is not getattr(node, "annotation", None):
                self._value(child, bound)

    def _value(self, node: ast.expr, bound: set[str]) -> None:
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if name in ("annotate", "unchecked_cast", "uninitialized"):
                for argument in node.args[1:]:
                    self._value(argument, bound)
                return
            if name == "isinstance" and len(node.args) == 2 and not node.keywords:
                self._value(node.args[0], bound)
                return
            if name == "getattr":
                plain = len(node.args) == 2 and isinstance(node.args[1], ast.Constant)
                if not plain or not isinstance(node.args[1].value, str):  # type: ignore[attr-defined]
                    raise self._odd(node)
                self._attribute(node.args[1].value, node)  # type: ignore[attr-defined]
        if not isinstance(node, _EXPRESSIONS):
            raise self._odd(node)
        if isinstance(node, ast.Constant) and not isinstance(node.value, int | float | complex | str | None):
            raise self._odd(node)
        if isinstance(node, ast.Name) and node.id not in bound | ROOTS | BUILTINS | VALUES:
            raise self._odd(node)
        if isinstance(node, ast.Attribute):
            chain = chain_of(node)
            if chain is not None and chain[0] in ROOTS:
                if chain[0] == "__torch__" and _dunder(chain[-1]) and chain[-1] not in ("__new__", "__init__"):
                    raise self._odd(node)
                return
            self._attribute(node.attr, node)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.keyword):
                if child.arg is None:
                    raise self._odd(node)
                self._value(child.value, bound)
            elif isinstance(child, ast.expr):
                self._value(child, bound)

    def _attribute(self, name: str, node: ast.AST) -> None:
        """Only what a class can declare, and nothing by which Python or a tensor reaches further."""
        if name in _TENSOR_NAMES or (_dunder(name) and name not in _SPECIAL):
            raise self._odd(node)
        if name in _MODULE_NAMES and name not in _OWN:
            raise self._taken(name, node)

    def _taken(self, name: str, node: ast.AST) -> BadInput:
        return BadInput(
            f"an attribute or method is called {name!r}, a name that nn.Module needs itself",
            where=f"{self._where}, line {getattr(node, 'lineno', 1)}",
            fix="rename it in the model and export it again",
        )

    def _odd(self, node: ast.AST) -> UnsafeFile:
        text = ast.unparse(node)
        return UnsafeFile(
            f"its code is not what TorchScript writes: {(text if len(text) < 80 else text[:77] + '...')!r}",
            where=f"{self._where}, line {getattr(node, 'lineno', 1)}",
            fix="write it again with torch.jit.save",
        )


def _dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _statements(node: ast.stmt) -> Iterator[ast.stmt]:
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from _statements(child)
