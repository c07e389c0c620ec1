"""One ``forward`` for what had one in Python: repeats of a trace, and the overload that is called.

A module that a trace has called twice has ``forward`` and ``forward1`` with one body; torch's recurrent layers have an
overload per type of input. Whoever replaces such a module replaces one method.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Mapping

from dcsurgery.torchscript.declared import BUILTINS, ROOTS, VALUES, Declared, Types

__all__ = ["merge_repeats", "name_overloads"]

_OVERLOAD = re.compile(r"forward__\d+")
_REPEAT = re.compile(r"forward\d+")


def merge_repeats(declared: Mapping[str, Declared]) -> None:
    """Merge the repeated methods of every class whose repeats are equal, and call the one that is left."""
    repeated = {name for name, entry in declared.items() if any(map(_REPEAT.fullmatch, entry.methods))}
    if not repeated:
        return
    equal = set(repeated)
    while True:  # a repeat calls its children's repeats: equal only if theirs are
        still = {name for name in equal if _are_equal(declared[name], declared, equal)}
        if still == equal:
            break
        equal = still
    for entry in declared.values():
        for function in entry.functions:
            _call_first(entry, function, declared, equal)
    for name in equal:
        entry = declared[name]
        for method in [m for m in entry.methods if _REPEAT.fullmatch(m)]:
            node = entry.methods.pop(method)
            entry.node.body.remove(node)


def name_overloads(declared: Mapping[str, Declared]) -> None:
    """Call an overload of ``forward`` simply ``forward`` where it is the only one that is used."""
    overloaded = {
        n for n, e in declared.items() if "forward" not in e.methods and any(map(_OVERLOAD.fullmatch, e.methods))
    }
    if not overloaded:
        return
    calls: dict[str, list[ast.Attribute]] = {name: [] for name in overloaded}
    for entry in declared.values():
        for function in entry.functions:
            types = Types(entry, function, declared)
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and _OVERLOAD.fullmatch(node.attr):
                    owner = types.of(node.value)
                    if owner is not None and owner.name in overloaded:
                        calls[owner.name].append(node)
    for name, nodes in calls.items():
        used = {node.attr for node in nodes}
        if len(used) != 1 or (overload := used.pop()) not in declared[name].methods:
            continue
        method = declared[name].methods.pop(overload)
        method.name = "forward"
        declared[name].methods["forward"] = method
        for node in nodes:
            node.attr = "forward"


def _are_equal(entry: Declared, declared: Mapping[str, Declared], equal: set[str]) -> bool:
    forms = set()
    for name, function in entry.methods.items():
        if name == "forward" or _REPEAT.fullmatch(name):
            duplicate = copy.deepcopy(function)
            _call_first(entry, duplicate, declared, equal)
            forms.add(_form(duplicate))
    return "forward" in entry.methods and len(forms) == 1


def _call_first(entry: Declared, function: ast.FunctionDef, declared: Mapping[str, Declared], equal: set[str]) -> None:
    types = Types(entry, function, declared)
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _REPEAT.fullmatch(node.func.attr):
            owner = types.of(node.func.value)
            if owner is not None and owner.name in equal:
                node.func.attr = "forward"


def _form(function: ast.FunctionDef) -> str:
    """Return a function's text with its variables numbered in the order in which they appear."""
    numbers: dict[str, str] = {}

    def numbered(name: str) -> str:
        return numbers.setdefault(name, f"v{len(numbers)}")

    for argument in function.args.args:
        argument.arg, argument.annotation = numbered(argument.arg), None
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id not in ROOTS | BUILTINS | VALUES:
            node.id = numbered(node.id)
    function.name = "forward"
    return ast.dump(function)
