"""The text of a module's class in the archive that is written: its fields' types, its calls, its rescale."""

from __future__ import annotations

import ast
from collections.abc import Hashable, Mapping
from typing import Any

from dcsurgery.rescale import LabelRescale
from dcsurgery.torchscript.additions import Additions
from dcsurgery.torchscript.call_edits import Edited
from dcsurgery.torchscript.declared import Declared
from dcsurgery.torchscript.emission import Names, Source, chain, written
from dcsurgery.torchscript.scaling import rescaled_methods

__all__ = ["declare_class"]


def declare_class(
    names: Names,
    additions: Additions,
    key: Hashable,
    source: Source,
    entry: Declared,
    edits: Edited,
    types: Mapping[str, str],
    handed: Mapping[tuple[str, str], str],
    gone: frozenset[str],
    rescale: LabelRescale | None,
    path: str,
) -> str:
    """Write the class of one kind of module."""
    name = names.choose(key, entry.name)
    referring = names.referring(source, {entry.name: name})
    changes = edits.changes(names, additions, source)
    body: list[ast.stmt] = []
    for statement in entry.node.body:
        field = _field_of(statement)
        if field is not None and field in entry.fields:
            if body and not isinstance(body[-1], ast.AnnAssign) and not field.isidentifier():
                body.append(ast.parse("__annotations__ = []").body[0])
            kind = chain(types[field]) if field in types else _kind(entry.fields[field], field in gone)
            body.append(_declaration(field, written(kind, source, referring) if field not in types else kind))
        elif isinstance(statement, ast.Assign) and _names_in(statement) is not None:
            body.append(_without(statement, gone))
        elif isinstance(statement, ast.FunctionDef):
            method = written(statement, source, referring, changes)
            for argument in method.args.args:
                if (method.name, argument.arg) in handed:
                    argument.annotation = chain(handed[method.name, argument.arg])
            if rescale is not None and method.name == "forward":
                body += rescaled_methods(names, method, rescale.outputs, _records(names, source), path)
            else:
                body.append(method)
        else:
            body.append(written(statement, source, referring))
    if rescale is not None:
        _add_scale(body)
    names.add(name, ast.ClassDef(name.rpartition(".")[2], [ast.Name("Module")], [], body, []))
    return name


def _records(names: Names, source: Source) -> Any:
    def record(kind: ast.expr) -> tuple[str, Declared] | None:
        # The type has been written: it bears its final name.
        for entry in source.declared.values():
            if entry.kind == "record" and names.of((id(source), entry.name)) == ast.unparse(kind):
                return ast.unparse(kind), entry
        return None

    return record


def _field_of(statement: ast.stmt) -> str | None:
    match statement:
        case ast.AnnAssign(target=ast.Name(id=name), value=None):
            return name
        case ast.Assign(targets=[ast.Subscript(value=ast.Name(id="__annotations__"), slice=ast.Constant(value=name))]):
            return str(name)
    return None


def _declaration(field: str, kind: ast.expr) -> ast.stmt:
    if field.isidentifier():
        return ast.AnnAssign(ast.Name(field, ast.Store()), kind, None, simple=1)
    target = ast.Subscript(ast.Name("__annotations__", ast.Load()), ast.Constant(field), ast.Store())
    return ast.Assign([target], kind)


def _kind(annotation: ast.expr, gone: bool) -> ast.expr:
    return ast.Name("NoneType", ast.Load()) if gone else annotation


def _names_in(statement: ast.Assign) -> list[str] | None:
    target = statement.targets[0]
    named = isinstance(target, ast.Name) and target.id in ("__parameters__", "__buffers__")
    return list(ast.literal_eval(statement.value)) if named else None


def _without(statement: ast.Assign, gone: frozenset[str]) -> ast.stmt:
    kept = [ast.Constant(name) for name in _names_in(statement) or () if name not in gone]
    return ast.Assign(statement.targets, ast.List(list(kept), ast.Load()))


def _add_scale(body: list[ast.stmt]) -> None:
    """Declare the buffer that holds C, behind the others."""
    for statement in body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__buffers__":
            assert isinstance(statement.value, ast.List)
            statement.value.elts.append(ast.Constant("label_scale"))
            break
    first = next((n for n, s in enumerate(body) if isinstance(s, ast.FunctionDef)), len(body))
    body.insert(first, _declaration("label_scale", ast.Name("Tensor", ast.Load())))
