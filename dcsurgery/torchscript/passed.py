"""Modules that an archive's code hands to other modules, and tensors that it reads off them.

A trace calls a child with another child as argument where Python had them share one. The argument has the type of what
is handed over, and changes with it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from torch import nn

from dcsurgery.subclass import original_class
from dcsurgery.torchscript.classes import ImportedModule
from dcsurgery.torchscript.declared import Declared, Types
from dcsurgery.torchscript.emission import Source

__all__ = ["passed_modules", "read_from_outside"]

Passed = dict[int, dict[tuple[str, str], nn.Module]]


def passed_modules(model: nn.Module) -> Passed:
    """Return what modules get as arguments: ``id`` of the module to (method, argument) to the module given."""
    found: Passed = {}
    for module in model.modules():  # callers before those that they call
        if isinstance(module, ImportedModule):
            entry: Declared = original_class(module)._declared  # type: ignore[attr-defined]
            for method in entry.methods.values():
                _follow(module, method, found)
    return found


def _follow(module: nn.Module, method: ast.FunctionDef, found: Passed) -> None:
    names: dict[str, nn.Module] = {method.args.args[0].arg: module}
    given = found.get(id(module), {})
    names.update({arg: value for (name, arg), value in given.items() if name == method.name})
    for node in ast.walk(method):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            value = _value(node.value, names)
            if value is not None:
                names[node.targets[0].id] = value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            callee = _value(node.func.value, names)
            if isinstance(callee, ImportedModule):
                _note(callee, node.func.attr, [_value(argument, names) for argument in node.args], found)


def _note(callee: nn.Module, name: str, arguments: list[nn.Module | None], found: Passed) -> None:
    entry: Declared = original_class(callee)._declared  # type: ignore[attr-defined]
    method = entry.methods.get(name)
    for argument, value in zip(method.args.args[1:] if method is not None else (), arguments, strict=False):
        if value is not None:
            found.setdefault(id(callee), {})[name, argument.arg] = value


def _value(node: ast.expr, names: Mapping[str, nn.Module]) -> nn.Module | None:
    match node:
        case ast.Name(id=name):
            return names.get(name)
        case (
            ast.Attribute(value=inner, attr=name)
            | ast.Call(func=ast.Name(id="getattr"), args=[inner, ast.Constant(value=str(name))])
        ):
            holder = _value(inner, names)
            return None if holder is None else holder._modules.get(name)
    return None


def read_from_outside(norm: Declared, source: Source) -> tuple[str, ...]:
    """Return which tensors of a norm the code of other classes reads."""
    tensors = {*norm.parameters, *norm.buffers}
    read = []
    for entry in source.declared.values():
        for function in entry.functions if entry is not norm else ():
            types: Types | None = None
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and node.attr in tensors and node.attr not in read:
                    types = types or Types(entry, function, source.declared)
                    if types.of(node.value) is norm:
                        read.append(node.attr)
    return tuple(read)
