"""Rewrite single calls, and idioms, in the methods that one module runs, on a dynamic subclass of its class.

``F.silu(x)`` becomes ``_dcs_0(F, 'silu', x)``: a helper that checks at run time that the callee still is the operator
the plan names, and then applies the replacement. Helpers that a method calls are rewritten as copies which only this
module uses; the user's functions, classes and globals stay as they are.
"""

from __future__ import annotations

import ast
import copy
import functools
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dcsurgery.call_helpers import site_helper
from dcsurgery.errors import Refused
from dcsurgery.idioms.replacing import WrittenOut
from dcsurgery.methods import HOLDS_CODE, methods_of
from dcsurgery.sites import CallStep, Span
from dcsurgery.source import (
    CodeKey,
    calls_in,
    code_key,
    compile_function,
    file_of,
    function_node,
    mangled,
    source_hash,
    span_of,
)

__all__ = ["CallEdit", "RewriteCalls"]

Chain = tuple[CallStep, ...]
_SCRIPTED = "torchscript_"  # modules of `dcsurgery.torchscript.programs`


@dataclass(frozen=True)
class CallEdit:
    """One call to change: ``replacement`` is an activation's name or a module without parameters; None deletes."""

    chains: tuple[Chain, ...]
    operator: str
    replacement: str | nn.Module | None
    copied: bool = False  # of a deleted norm: its result is written into, so it must not be its input


@dataclass(frozen=True)
class RewriteCalls:
    """Amendment: the class whose methods have the edited calls (see `dcsurgery.subclass`)."""

    edits: tuple[CallEdit, ...]
    hashes: tuple[tuple[str, int, str], ...] = ()

    @staticmethod
    def of(edits: list[CallEdit]) -> RewriteCalls:
        """Build the amendment and note the source it was made for.

        Raises
        ------
        Refused
            If a function's source is not available.
        """
        keys = {_key(step) for edit in edits for chain in edit.chains for step in chain}
        # A scripted function's module is named by a hash of its source, and made when the function is called.
        keys = {key for key in keys if not key.module.startswith(_SCRIPTED)}
        ordered = sorted(keys, key=lambda key: (key.function, key.first_line))
        hashes = tuple((key.function, key.first_line, source_hash(file_of(key), key)) for key in ordered)
        return RewriteCalls(tuple(edits), hashes)

    def rewritten(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function, method or partial with the edited calls."""
        self._check_source()
        edited: Callable[..., Any] = _Rewriter(_tables(self.edits)).value(function)
        return edited

    def _check_source(self) -> None:
        for function, line, expected in self.hashes:
            key = CodeKey(function, line)
            if source_hash(file_of(key), key) != expected:
                raise Refused(
                    "its source has changed since the model was edited",
                    where=str(key),
                    fix="install the version the model was edited with, or edit the original model again",
                )

    def members(self, cls: type[nn.Module]) -> dict[str, Any]:
        """Return the rewritten methods for a subclass of ``cls``."""
        self._check_source()
        rewriter = _Rewriter(_tables(self.edits))
        members = {}
        for name, raw in methods_of(cls).items():
            new = rewriter.member(raw)
            if new is not raw:
                members[name] = new
        reached = {CodeKey(f.function, f.first_line) for e in self.edits for c in e.chains for f in c[:1]}
        if reached and not members:
            raise Refused(
                f"class {cls.__qualname__} has no such method", where=str(min(reached, key=str)), fix="plan again"
            )
        return members


def _key(step: CallStep) -> CodeKey:
    return CodeKey(step.function, step.first_line)


@dataclass
class _Table:
    """What changes in one function: edits by where a call ends, and the idioms that are replaced."""

    calls: dict[tuple[int, int], CallEdit | None] = field(default_factory=dict)  # None: only pass through
    written: dict[Span, tuple[str | nn.Module, tuple[Span, ...]]] = field(default_factory=dict)


def _tables(edits: tuple[CallEdit, ...]) -> dict[CodeKey, _Table]:
    tables: dict[CodeKey, _Table] = {}
    for edit in edits:
        for chain in edit.chains:
            for step in chain[:-1]:
                tables.setdefault(_key(step), _Table()).calls.setdefault(step.end, None)
            last = tables.setdefault(_key(chain[-1]), _Table())
            if chain[-1].written and edit.replacement is not None:
                last.written[chain[-1].written[0]] = (edit.replacement, chain[-1].written)
            else:
                last.calls[chain[-1].end] = edit
    return tables


class _Rewriter:
    """Makes rewritten copies of live functions; a function with another closure gets a copy of its own."""

    def __init__(self, tables: dict[CodeKey, _Table]) -> None:
        self._tables = tables
        # By id, with the original code kept alive: equal codes may stand at different places.
        self._codes: dict[int, tuple[types.CodeType, types.CodeType, dict[str, Any]]] = {}
        self._compiled: set[int] = set()
        self._made: weakref.WeakKeyDictionary[types.FunctionType, types.FunctionType] = weakref.WeakKeyDictionary()

    def member(self, raw: Any) -> Any:
        """Rewrite a class attribute: a function, or what `methods_of` knows that holds one."""
        if isinstance(raw, staticmethod | classmethod):
            new = self.function(raw.__func__) if isinstance(raw.__func__, types.FunctionType) else raw.__func__
            return raw if new is raw.__func__ else type(raw)(new)
        if isinstance(raw, property):
            getter = self.function(raw.fget) if isinstance(raw.fget, types.FunctionType) else raw.fget
            return raw if getter is raw.fget else property(getter, raw.fset, raw.fdel, raw.__doc__)
        if isinstance(raw, functools.partialmethod):
            inner = self.member(raw.func) if isinstance(raw.func, HOLDS_CODE) else raw.func
            return raw if inner is raw.func else functools.partialmethod(inner, *raw.args, **raw.keywords)
        if isinstance(raw, functools.cached_property):
            inner = self.function(raw.func) if isinstance(raw.func, types.FunctionType) else raw.func
            return raw if inner is raw.func else functools.cached_property(inner)
        return self.function(raw)

    def function(self, function: types.FunctionType, within: tuple[types.FunctionType, ...] = ()) -> types.FunctionType:
        """Return the rewritten copy of a function, or the function itself where nothing in it changes.

        ``within`` are the functions that hold it in their closures and are being rewritten.
        """
        if function in self._made:
            return self._made[function]
        if function in within or id(function.__code__) in self._compiled:  # a recursive closure holds itself
            return function
        new = self._rewritten(function, (*within, function))
        if "<locals>" not in function.__qualname__:  # local functions are made anew in every call
            self._made[function] = new
        return new

    def _rewritten(self, function: types.FunctionType, within: tuple[types.FunctionType, ...]) -> types.FunctionType:
        key = code_key(function.__code__)
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        changed = {name: self._cell(cell, within) for name, cell in cells.items()}
        code: types.CodeType = function.__code__
        helpers: dict[str, Any] = {}
        if key in self._tables:
            code, helpers = self._code(key, function)
        if code is function.__code__ and all(changed[name] is cells[name] for name in cells):
            return function
        closure = tuple(
            types.CellType(helpers[name]) if name in helpers else changed[name] for name in code.co_freevars
        )
        new = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
        new.__kwdefaults__ = function.__kwdefaults__
        new.__dict__.update(function.__dict__)
        if isinstance(new.__dict__.get("__wrapped__"), types.FunctionType):
            new.__dict__["__wrapped__"] = self.function(new.__dict__["__wrapped__"])
        new.__qualname__, new.__module__, new.__doc__ = function.__qualname__, function.__module__, function.__doc__
        new.__annotations__ = function.__annotations__
        return new

    def _cell(self, cell: types.CellType, within: tuple[types.FunctionType, ...]) -> types.CellType:
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            return cell
        if not isinstance(value, types.FunctionType):
            return cell
        new = self.function(value, within)
        return cell if new is value else types.CellType(new)

    def _code(self, key: CodeKey, function: types.FunctionType) -> tuple[types.CodeType, dict[str, Any]]:
        before = function.__code__
        if id(before) not in self._codes:
            original, cls = function_node(before.co_filename, key, before)
            node = copy.deepcopy(original)
            table = self._tables[key]
            present = calls_in(node)
            missing = [end for end in table.calls if end not in present]
            spans = {span_of(part) for part in ast.walk(node)} if table.written else set()
            missing += [span[2:] for span in table.written if span not in spans]
            if isinstance(node, ast.Lambda) and len(missing) == len(table.calls) + len(table.written):
                return before, {}  # another lambda on the same line is meant
            changer = _Changer(table, cls, self.passing, node)
            if missing and not isinstance(node, ast.Lambda):
                line, column = missing[0]
                kind = "call" if missing[0] in table.calls else "expression"
                raise Refused(
                    f"there is no {kind} that ends at line {line}, column {column}",
                    where=str(key),
                    fix="plan again",
                )
            node.body = (
                changer.visit(node.body) if isinstance(node, ast.Lambda) else [changer.visit(s) for s in node.body]
            )
            code = compile_function(node, cls, before, tuple(changer.helpers))
            self._codes[id(before)] = (before, code, changer.helpers)
            self._compiled.add(id(code))
        _, code, helpers = self._codes[id(before)]
        return code, helpers

    def passing(self, target: Any, method: str | None, /, *args: Any, **kwargs: Any) -> Any:
        """Call what the source calls, with every rewritten function in place of its original."""
        callee = target if method is None else getattr(target, method)
        callee = self.value(callee)
        return callee(*(self.value(a) for a in args), **{k: self.value(v) for k, v in kwargs.items()})

    def value(self, value: Any) -> Any:
        """Return a callable with every rewritten function in place of its original."""
        if isinstance(value, torch.jit.ScriptFunction):
            return self._scripted(value)
        if isinstance(value, types.FunctionType):
            return self.function(value)
        if isinstance(value, types.MethodType):
            if not isinstance(value.__func__, types.FunctionType):
                return value
            new = self.function(value.__func__)
            return value if new is value.__func__ else types.MethodType(new, value.__self__)
        if isinstance(value, functools.partial):
            inner = self.value(value.func)
            return value if inner is value.func else functools.partial(inner, *value.args, **value.keywords)
        if isinstance(value, torch.Tensor | nn.Module | type) or not callable(value):
            return value
        call = getattr(type(value), "__call__", None)  # noqa: B004 - the class's own method is wanted
        if isinstance(call, types.FunctionType):
            new = self.function(call)
            return value if new is call else types.MethodType(new, value)
        return value

    def _scripted(self, value: Any) -> Any:
        """Return a scripted function as Python, if something in it is rewritten."""
        from dcsurgery.torchscript.functions import function_or_none

        if not any(key.module.startswith(_SCRIPTED) for key in self._tables):
            return value
        imported = function_or_none(value)
        if imported is None:
            return value
        new = self.function(imported)
        named = any(k.qualname == imported.__qualname__ and k.module.startswith(_SCRIPTED) for k in self._tables)
        if new is imported and named:
            raise Refused(
                "the scripted function has changed since the model was edited",
                where=imported.__qualname__,
                fix="edit the original model again",
            )
        return value if new is imported else new


class _Changer(ast.NodeTransformer):
    """Replace the chosen calls and expressions of one function by calls of helpers."""

    def __init__(self, table: _Table, cls: str | None, passing: Callable[..., Any], root: ast.AST) -> None:
        self._table = table
        self._cls = cls
        self._passing = passing
        self._written = WrittenOut(root, table.written.values()) if table.written else None
        self.helpers: dict[str, Any] = {}

    def visit(self, node: ast.AST) -> Any:
        """Replace an idiom, take out an assignment that goes with one, or look further inside."""
        if self._written is None:
            return super().visit(node)
        if self._written.is_used_up(node):
            return ast.copy_location(ast.Pass(), node)
        found = self._written.at(node)
        if found is None:
            return super().visit(node)
        name = ast.Name(self._named(found.helper), ast.Load())
        call = ast.copy_location(ast.Call(name, [self.visit(found.source), found.original], []), node)
        new = call if found.target is None else ast.copy_location(ast.Assign([found.target], call), node)
        return ast.fix_missing_locations(new)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        end = (node.end_lineno or 0, node.end_col_offset or 0)
        self.generic_visit(node)
        if end not in self._table.calls:
            return node
        edit = self._table.calls[end]
        name = self._named(
            self._passing
            if edit is None
            else site_helper(edit.operator, edit.replacement, self._passing, copied=edit.copied)
        )
        target: ast.expr
        if isinstance(node.func, ast.Attribute):
            target, method = node.func.value, ast.Constant(mangled(node.func.attr, self._cls))
        else:
            target, method = node.func, ast.Constant(None)
        call = ast.Call(ast.Name(name, ast.Load()), [target, method, *node.args], node.keywords)
        return ast.fix_missing_locations(ast.copy_location(call, node))

    def _named(self, helper: Callable[..., Any]) -> str:
        # A single leading underscore: two would be mangled inside a class.
        name = f"_dcs_{len(self.helpers)}"
        self.helpers[name] = helper
        return name
