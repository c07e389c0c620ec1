"""A scripted function as an ordinary Python function, with the archive's code as its source."""

from __future__ import annotations

import ast
import types
import weakref
from typing import Any

from dcsurgery.errors import BadInput, SurgeryError
from dcsurgery.torchscript.contents import read_contents
from dcsurgery.torchscript.importing import archive_of
from dcsurgery.torchscript.programs import program_of

__all__ = ["function_or_none", "imported_function"]

_Scripted = Any  # a torch.jit.ScriptFunction, which mypy takes for generic

_IMPORTED: weakref.WeakKeyDictionary[_Scripted, types.FunctionType | None] = weakref.WeakKeyDictionary()


def imported_function(function: _Scripted) -> types.FunctionType:
    """Return a Python function that computes what a scripted one does.

    Its name and its calls are those of TorchScript's code, so that a plan made on one import fits every other.

    Raises
    ------
    BadInput
        If it uses what is not imported.
    """
    known = _IMPORTED.get(function)
    if known is None:
        known = _IMPORTED[function] = _imported(function)
    return known


def function_or_none(function: _Scripted) -> types.FunctionType | None:
    """Return the import of a scripted function, None where there can be none: then it stays a black box."""
    if function not in _IMPORTED:
        try:
            _IMPORTED[function] = _imported(function)
        except SurgeryError:
            _IMPORTED[function] = None
    return _IMPORTED[function]


def _imported(function: _Scripted) -> types.FunctionType:
    name = str(function.name)
    contents = read_contents(archive_of(function), name)
    file = "/".join(contents.root.name.split(".")[:-1]) + ".py"
    tree = ast.parse(contents.code[file])
    holder = contents.root.name.rpartition(".")[2]  # torch saves a function as the forward of a class it makes for it
    found = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == holder), None)
    forward = next((n for n in found.body if isinstance(n, ast.FunctionDef)), None) if found is not None else None
    if found is None or forward is None:
        raise BadInput("has no code", where=name, fix="script it again")
    tree.body.remove(found)
    del forward.args.args[0]
    forward.name = name
    texts = {**contents.code, file: ast.unparse(tree) + "\n"}
    home = str(function.qualified_name).rpartition(".")[0]
    place = home.replace(".", "/") + ".py"
    texts[place] = texts.get(place, "") + "\n" + ast.unparse(ast.fix_missing_locations(forward)) + "\n"
    program = program_of(texts, contents.constants, (f"{home}.{name}",), trusted=True, where=name)
    made: types.FunctionType = program.find(f"{home}.{name}")
    return made
