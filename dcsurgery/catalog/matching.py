"""Look modules, functions, methods and kernels up in the catalog."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import re
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from dcsurgery.catalog.activations import ACTIVATIONS
from dcsurgery.catalog.bases import BASES
from dcsurgery.catalog.compounds import COMPOUNDS
from dcsurgery.catalog.gates import GATES
from dcsurgery.catalog.normalizations import NORMALIZATIONS
from dcsurgery.catalog.rows import Match, Operator
from dcsurgery.errors import BadInput
from dcsurgery.sites import Role
from dcsurgery.subclass import original_class

__all__ = [
    "OPERATORS",
    "is_norm_fusion",
    "match_basis",
    "match_class",
    "match_function",
    "match_kernel",
    "match_method",
    "match_module",
    "operator_named",
]

OPERATORS: tuple[Operator, ...] = (*ACTIVATIONS, *GATES, *COMPOUNDS, *NORMALIZATIONS, *BASES)

_BY_NAME = {row.name: row for row in OPERATORS}
_BY_METHOD = {name: row for row in OPERATORS for name in row.methods}
# Reversed, so that of several rows the first one, the most general, stays.
_BY_KERNEL = {kernel: row for row in reversed(OPERATORS) for kernel in row.kernels}
_BY_PATH = {path: row for row in OPERATORS for path in row.functions}


def operator_named(name: str) -> Operator:
    """Return the row called ``name``.

    Raises
    ------
    BadInput
        If there is none; the message names the rows with the most similar names.
    """
    row = _BY_NAME.get(name)
    if row is None:
        near = difflib.get_close_matches(str(name).lower(), _BY_NAME, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else "docs/catalog.md lists all operators"
        raise BadInput(f"no operator is called {name!r}", where="catalog", fix=hint)
    return row


def match_module(module: nn.Module) -> Match | None:
    """Find a module whose class is listed, or inherits the ``forward`` of a listed class.

    A subclass with a ``forward`` of its own does something else (a fusion, for instance), and so does an instance whose
    ``forward`` was replaced: both are not matched, their bodies are to be looked into. Bases are found by
    `match_basis`.
    """
    cls = type(module)
    row, listed = _listed(original_class(cls), "activation", "gate", "normalization")
    if row is None or listed is None or "forward" in vars(module):
        return None
    if cls.forward is not listed.forward:
        return None
    return Match(row, _settings(row, {name: getattr(module, name, None) for name in row.parameters}))


def is_norm_fusion(module: nn.Module) -> bool:
    """Say whether a module's class extends a listed normalization and has a ``forward`` of its own.

    Such classes, for instance timm's ``BatchNormAct2d``, do more than to normalize.
    """
    cls = original_class(module)
    row, listed = _listed(cls, "normalization")
    return row is not None and listed is not None and cls.forward is not listed.forward


def match_basis(module: nn.Module) -> Operator | None:
    """Find a radial or angular basis, an envelope or a cutoff by the names of the module's classes."""
    return _listed(original_class(module), "basis")[0]


def match_class(cls: type | str, *roles: Role) -> Operator | None:
    """Find a class, or the import path of one, of which nothing but that is known.

    A class that is not imported is found by its own path only, not by its bases'.
    """
    found = _resolve(cls) if isinstance(cls, str) else cls
    if not isinstance(found, type):
        row = _row_of_class(str(cls))
        return row if row is not None and row.role in roles else None
    row, listed = _listed(original_class(found), *roles)
    if row is None or listed is None or "basis" in roles:
        return row
    return row if getattr(found, "forward", None) is getattr(listed, "forward", None) else None


def match_function(fn: object) -> Match | None:
    """Find a callable by identity.

    Python functions, builtins, methods of `torch.Tensor` taken from the class, ATen overloads and packets, and
    `functools.partial` of these as long as it binds no positional argument (its keywords become the parameters).
    """
    keywords: dict[str, Any] = {}
    while isinstance(fn, functools.partial):
        if fn.args:
            return None
        keywords = {**fn.keywords, **keywords}
        fn = fn.func
    row = _row_of(fn)
    return None if row is None else Match(row, _settings(row, keywords))


def match_method(name: str) -> Operator | None:
    """Find a method of `torch.Tensor` by its name, in-place ones included."""
    return _BY_METHOD.get(name)


def match_kernel(name: str) -> Operator | None:
    """Find an ATen operator by its name; of several rows with that kernel, the most general is returned.

    Namespace, overload and the underscore of in-place operators are ignored: ``aten::silu_.default`` is ``silu``.
    """
    return _BY_KERNEL.get(name.removeprefix("aten::").split(".")[0].rstrip("_"))


def _row_of(fn: object) -> Operator | None:
    if isinstance(fn, torch._ops.OpOverload):
        return match_kernel(fn._schema.name) if fn.namespace == "aten" else None
    if isinstance(fn, torch._ops.OpOverloadPacket):
        name: str = fn._qualified_op_name
        return match_kernel(name) if name.startswith("aten::") else None
    fn = getattr(fn, "__torchscript_original__", None) or fn  # of a function that was imported from TorchScript
    try:
        row = _torch_functions().get(fn)
    except TypeError:  # unhashable
        return None
    if row is not None:
        return row
    # Of an optional package, what bears a listed name and is the object that its module holds under that name.
    path = f"{getattr(fn, '__module__', None)}.{getattr(fn, '__qualname__', None)}"
    row = _BY_PATH.get(path)
    return row if row is not None and _resolve(path) is fn else None


@functools.cache
def _torch_functions() -> dict[object, Operator]:
    table: dict[object, Operator] = {}
    for row in OPERATORS:
        for path in row.functions:
            if path.startswith("torch."):
                # One that this torch lacks cannot be called by a model either.
                table.setdefault(_resolve(path), row)
        for name in row.methods:
            table.setdefault(getattr(torch.Tensor, name), row)
    table.pop(None, None)
    return table


def _resolve(path: str) -> object:
    """Return the object at an import path without importing anything; None where there is none."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        found: object = sys.modules.get(".".join(parts[:cut]))
        if found is not None:
            for name in parts[cut:]:
                found = getattr(found, name, None)
            return found
    return None


def _listed(cls: type[nn.Module], *roles: str) -> tuple[Operator | None, type[nn.Module] | None]:
    """Return the first class in the method resolution order that has a row of one of these roles, and the row."""
    for base in cls.__mro__:
        # What was imported from TorchScript says which class it was exported from.
        row = _row_of_class(vars(base).get("__torchscript_name__") or f"{base.__module__}.{base.__qualname__}")
        if row is not None and row.role in roles:
            return row, base
    return None, None


@functools.cache
def _class_patterns() -> tuple[dict[str, Operator], tuple[tuple[re.Pattern[str], Operator], ...]]:
    paths = [(path, row) for row in OPERATORS for path in row.modules]
    exact = {path: row for path, row in paths if "*" not in path}
    globs = tuple((re.compile(fnmatch.translate(path)), row) for path, row in paths if "*" in path)
    return exact, globs


@functools.lru_cache(maxsize=4096)
def _row_of_class(path: str) -> Operator | None:
    exact, globs = _class_patterns()
    return exact.get(path) or next((row for pattern, row in globs if pattern.match(path)), None)


def _settings(row: Operator, values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that the row wants reported, as plain JSON types; unknown ones (None) are left out."""
    return {name: _plain(values[name]) for name in row.parameters if values.get(name) is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return str(value)
