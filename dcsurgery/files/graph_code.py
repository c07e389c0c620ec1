"""Check the source code inside a pickled GraphModule before torch.fx executes it.

torch.fx saves a GraphModule as Python source and rebuilds it by executing that source, so a pickled GraphModule is a
program. Only what torch.fx itself writes passes: one ``forward``, straight-line code, calls of submodules, of tensor
methods, and of functions that are known to do no more than compute.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from dcsurgery.files.harmless import TENSOR_METHODS, is_harmless_function
from dcsurgery.files.installed import import_module, is_installed
from dcsurgery.files.safe_rules import Forbidden

__all__ = ["check_graph_code"]

_WHAT = "GraphModule code"
_BUILTINS = frozenset(
    {"abs", "bool", "dict", "float", "int", "len", "list", "max", "min", "range", "round", "slice", "sum", "tuple"}
)
_CONSTANTS = frozenset({"Ellipsis", "NotImplemented", "True", "False", "None"})
_FREE_MODULES = frozenset({"torch", "math", "operator", "_operator", "builtins", "typing", "collections"})
_EXPRESSIONS = (
    ast.BinOp,
    ast.BoolOp,
    ast.Compare,
    ast.Constant,
    ast.Dict,
    ast.List,
    ast.Set,
    ast.Slice,
    ast.Starred,
    ast.Subscript,
    ast.Tuple,
    ast.UnaryOp,
)
_MISSING: Any = object()


def check_graph_code(body: Mapping[str, Any], imports: str, allows_module: Callable[[str], bool]) -> None:
    """Refuse a pickled GraphModule whose code is not what torch.fx writes.

    Parameters
    ----------
    body
        The GraphModule's attributes, among them its source in ``_code``.
    imports
        The import statements that run before it.
    allows_module
        Whether the reader's policy allows classes of a module; code may import such modules.

    Raises
    ------
    Forbidden
        The message says which name or construct is not allowed.
    """
    source = body.get("_code", body.get("code"))
    if type(source) is not str:
        raise Forbidden(_WHAT, "no source")
    tracer = body.get("_tracer_cls")
    if tracer not in (None, torch.fx.Tracer) or body.get("_tracer_extras"):
        raise Forbidden(_WHAT, "a tracer of its own")
    if not str(body.get("_graphmodule_cls_name", "GraphModule")).isidentifier():
        raise Forbidden(_WHAT, "a class name that is not a name")
    try:
        head, tail = ast.parse(imports), ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise Forbidden(_WHAT, f"not Python: {error}") from None
    names = _Imports(allows_module)
    for statement in head.body:
        names.add(statement)
    if len(tail.body) != 1 or not isinstance(tail.body[0], ast.FunctionDef) or tail.body[0].name != "forward":
        raise Forbidden(_WHAT, "more than one forward function")
    _Forward(names, body).check(tail.body[0])


class _Imports:
    """What the import block binds: local name to the dotted name of a module or of an object in one."""

    def __init__(self, allows_module: Callable[[str], bool]) -> None:
        self._allows_module = allows_module
        self.bound: dict[str, str] = {}

    def add(self, statement: ast.stmt) -> None:
        if ast.unparse(statement) == "NoneType = type(None)":
            self.bound["NoneType"] = "types.NoneType"
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                self._check_module(alias.name)
                top = alias.name.partition(".")[0]
                self._bind(alias.asname or top, alias.name if alias.asname else top)
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            self._check_module(statement.module)
            for alias in statement.names:
                self._bind(alias.asname or alias.name, f"{statement.module}.{alias.name}")
        else:
            raise Forbidden(_WHAT, f"{ast.unparse(statement)!r} among its imports")

    def _check_module(self, module: str) -> None:
        free = module in _FREE_MODULES or (module.startswith("torch.") and module in sys.modules)
        if not free and (module.startswith("torch.") or not self._allows_module(module)):
            raise Forbidden(module, f"imported by {_WHAT}")
        import_module(module)

    def _bind(self, name: str, target: str) -> None:
        # The checks below read these names as Python's own.
        if name in _BUILTINS | _CONSTANTS | {"getattr"} and target != f"builtins.{name}":
            raise Forbidden(target, f"imported as {name} by {_WHAT}")
        self.bound[name] = target

    def resolve(self, dotted: list[str]) -> Any:
        """Return the object that an imported name and its attributes stand for."""
        path = [*self.bound[dotted[0]].split("."), *dotted[1:]]
        value: Any = _MISSING
        for position, part in enumerate(path):
            if part.startswith("__"):
                raise Forbidden(".".join(path), f"used by {_WHAT}")
            value = getattr(value, part, _MISSING) if position else importlib.import_module(part)
            if value is _MISSING:
                raise Forbidden(".".join(path), f"used by {_WHAT} and not there")
        return value

    def is_users(self, value: Any) -> bool:
        """Return whether a function is from one of the user's own files."""
        module = getattr(value, "__module__", None) or ""
        return isinstance(value, types.FunctionType) and self._allows_module(module) and not is_installed(module)


class _Forward:
    """The statements and expressions of ``forward``."""

    def __init__(self, names: _Imports, body: Mapping[str, Any]) -> None:
        self._names = names
        self._body = body
        self._locals: set[str] = set()
        self._self = "self"
        self._taken = names.bound.keys() | _BUILTINS | _CONSTANTS | {"getattr"}

    def check(self, function: ast.FunctionDef) -> None:
        arguments = function.args
        listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        if function.decorator_list or not listed:
            raise Forbidden(_WHAT, "a decorated function")
        extra = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
        self._self = listed[0].arg
        for default in [*arguments.defaults, *(d for d in arguments.kw_defaults if d)]:
            self._value(default)
        for annotation in [*(argument.annotation for argument in (*listed, *extra)), function.returns]:
            self._annotation(annotation)
        for argument in (*listed[1:], *extra):
            self._bind(ast.Name(argument.arg))
        if self._self in self._locals | self._names.bound.keys():
            raise self._bad(function)
        for statement in function.body:
            self._statement(statement)

    def _statement(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Return(value=value) if value is not None:
                self._value(value)
            case ast.Assign(targets=targets, value=value):
                self._value(value)
                for target in targets:
                    self._bind(target)
            case ast.AnnAssign(target=target, annotation=annotation, value=value) if value is not None:
                self._value(value)
                self._annotation(annotation)
                self._bind(target)
            case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.Return():
                pass
            case ast.Expr(value=ast.Call() as call):
                self._value(call)
            case _:
                raise self._bad(statement)

    def _bind(self, target: ast.expr) -> None:
        names = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
        for name in names:
            if not isinstance(name, ast.Name) or name.id in self._taken or name.id == self._self:
                raise self._bad(target)
            self._locals.add(name.id)

    def _annotation(self, annotation: ast.expr | None) -> None:
        """Annotations run too: only names of types, and their subscripts."""
        if annotation is None or (isinstance(annotation, ast.Constant) and annotation.value in (None, Ellipsis)):
            return
        if isinstance(annotation, ast.Subscript):
            self._annotation(annotation.value)
            self._annotation(annotation.slice)
        elif isinstance(annotation, ast.Tuple | ast.List):
            for item in annotation.elts:
                self._annotation(item)
        else:
            chain = _chain(annotation)
            if chain is None or (chain[0] not in self._names.bound and chain[0] not in _BUILTINS | {"str", "bytes"}):
                raise self._bad(annotation)
            value = self._names.resolve(chain) if chain[0] in self._names.bound else getattr(builtins, chain[0])
            if not (isinstance(value, type) or type(value).__module__ in ("typing", "types")):
                raise self._bad(annotation)

    def _value(self, node: ast.expr) -> None:
        chain = _chain(node)
        if chain is not None:
            self._chain_value(chain, node)
        elif isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.Attribute):
            self._public(node.attr, node)
            self._value(node.value)
        elif isinstance(node, _EXPRESSIONS):
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self._value(child)
        else:
            raise self._bad(node)

    def _chain_value(self, chain: list[str], node: ast.expr) -> None:
        """Check ``a.b.c`` as a value: of a local, of the model, or of an imported module."""
        root = chain[0]
        if root == self._self:
            if len(chain) == 1:
                raise self._bad(node)
            self._attribute(chain[1:], node)
        elif root in self._locals:
            for name in chain[1:]:
                self._public(name, node)
        elif root in self._names.bound:
            value = self._names.resolve(chain)
            constant = isinstance(value, torch.dtype | torch.layout | torch.memory_format | torch.device | int | float)
            if not (constant or value is type(None) or self._callable(value)):
                raise Forbidden(".".join(chain), f"used by {_WHAT}")
        elif len(chain) > 1 or root not in _CONSTANTS | _BUILTINS:
            raise self._bad(node)

    def _call(self, node: ast.Call) -> None:
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            self._value(argument)
        function = node.func
        if isinstance(function, ast.Name) and function.id == "getattr":  # getattr(x + y, "shape")
            if len(node.args) != 2 or node.keywords or _constant_name(node.args[1]) is None:
                raise self._bad(node)
            self._public(str(_constant_name(node.args[1])), node)
            return
        chain = _chain(function)
        if chain is not None and chain[0] == self._self:
            if not isinstance(self._attribute(chain[1:], node), nn.Module):
                raise self._bad(node)
        elif chain is not None and chain[0] in self._names.bound:
            if not self._callable(self._names.resolve(chain)):
                raise Forbidden(".".join(chain), f"called by {_WHAT}")
        elif isinstance(function, ast.Attribute):
            if function.attr not in TENSOR_METHODS:
                raise Forbidden(f".{function.attr}()", f"called by {_WHAT}")
            self._value(function.value)
        elif not (isinstance(function, ast.Name) and function.id in _BUILTINS and function.id not in self._locals):
            raise self._bad(node)

    def _callable(self, value: Any) -> bool:
        harmless = value is torch.device or value is torch.Size or is_harmless_function(value)
        builtin = any(value is getattr(builtins, name) for name in _BUILTINS)
        return harmless or builtin or self._names.is_users(value)

    def _attribute(self, path: list[str], node: ast.expr) -> Any:
        """Return the module, tensor or plain value at a path of the pickled model, without running anything."""
        value: Any = _MISSING
        attributes: Mapping[str, Any] = self._body
        cls: type = torch.fx.GraphModule
        for position, name in enumerate(path):
            if isinstance(value, torch.Tensor):
                for rest in path[position:]:
                    self._public(rest, node)
                return value
            if position:
                if not isinstance(value, nn.Module):
                    raise self._bad(node)
                attributes, cls = vars(value), type(value)
            # The class wins over submodules, parameters and buffers: a child called "to_folder" is GraphModule's.
            if inspect.getattr_static(cls, name, _MISSING) is not _MISSING:
                raise self._bad(node)
            tables = [attributes, *(attributes.get(table) for table in ("_modules", "_parameters", "_buffers"))]
            value = next((table[name] for table in tables if isinstance(table, dict) and name in table), _MISSING)
            if value is _MISSING:
                raise self._bad(node)
        return value

    def _public(self, name: str, node: ast.AST) -> None:
        if name.startswith("_") and not name.strip("_").isdigit():
            raise self._bad(node)

    def _bad(self, node: ast.AST) -> Forbidden:
        text = ast.unparse(node)
        return Forbidden(_WHAT, f"{text if len(text) < 80 else text[:77] + '...'!r}")


def _constant_name(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and type(node.value) is str else None


def _chain(node: ast.expr) -> list[str] | None:
    """Return ``["a", "b", "c"]`` for ``a.b.c`` and for ``getattr(a.b, "c")``, None for everything else."""
    if isinstance(node, ast.Name):
        return [node.id]
    owner: ast.expr | None = None
    name: str | None = None
    if isinstance(node, ast.Attribute):
        owner, name = node.value, node.attr
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "getattr"
        and len(node.args) == 2
        and not node.keywords
    ):
        owner, name = node.args[0], _constant_name(node.args[1])
    head = _chain(owner) if owner is not None and name is not None else None
    return [*head, str(name)] if head is not None else None
