"""Find catalogued calls in source code, on every branch, without running anything.

Used where there are no example inputs, and for branches that the example inputs did not reach. What a name stands for
is looked up in the live function's globals and closure; a method of an unknown object (``x.relu()``) is taken for a
tensor's, and the rewritten call checks that at run time.
"""

from __future__ import annotations

import ast
import builtins
import types
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dcsurgery.capture.graphs import Key, call_key
from dcsurgery.capture.origin import short_file
from dcsurgery.capture.places import Places
from dcsurgery.capture.recorded import Event
from dcsurgery.capture.written import idioms_of_node
from dcsurgery.catalog import Match, match_method, match_module
from dcsurgery.errors import Refused
from dcsurgery.idioms import Idiom, Surroundings
from dcsurgery.instance_functions import instance_roots
from dcsurgery.methods import function_in, methods_of
from dcsurgery.recognition import is_library_code, recognise
from dcsurgery.sites import CallStep
from dcsurgery.source import CodeKey, FunctionNode, call_end, code_key, function_node, mangled, span_of
from dcsurgery.subclass import original_class

__all__ = ["scan", "unwrapped"]

# What MessagePassing.propagate calls by name, from code that it generates.
_MESSAGE_PASSING = ("message", "aggregate", "update", "edge_update", "message_and_aggregate")
_DEPTH = 6  # of expressions in expressions
_MANY = 512  # functions behind one module, or callables in one table


def scan(module: nn.Module, path: str, places: Places, *, only_hooks: bool = False) -> dict[Key, Event]:
    """Return the call sites in the code that one module runs, or only in what was put onto it as hooks."""
    scanner = _Scanner(module, path, places)
    methods = {} if only_hooks else scanner.methods
    propagates = "propagate" in methods or (not only_hooks and hasattr(original_class(module), "propagate"))
    for name in ("forward", *(_MESSAGE_PASSING if propagates else ()), *sorted(places.called_methods[path])):
        scanner.method(methods.get(name))
    for function in instance_roots(module):
        scanner.method(function)
    return scanner.events()


@dataclass
class _Function:
    """What one function applies and calls: `sites` and `calls` by the call expression."""

    live: types.FunctionType
    sites: list[tuple[CallStep, Match, str]] = field(default_factory=list)
    calls: list[tuple[CallStep, types.FunctionType]] = field(default_factory=list)


class _Scanner:
    def __init__(self, module: nn.Module, path: str, places: Places) -> None:
        self.methods = methods_of(original_class(module))
        self.module = module
        self._path = path
        self._places = places
        self._roots: list[types.FunctionType] = []
        self._functions: dict[types.FunctionType, _Function] = {}

    def method(self, raw: Any) -> None:
        """Scan a class attribute, decorators looked through."""
        for candidate in unwrapped(function_in(raw)):
            if not is_library_code(candidate.__module__) and candidate not in self._roots:
                self._roots.append(candidate)
                self.function(candidate)

    def function(self, function: types.FunctionType) -> None:
        """Scan a function and everything that it calls, once."""
        if function in self._functions or len(self._functions) > _MANY:
            return
        found = self._functions[function] = _Function(function)
        key = code_key(function.__code__)
        try:
            node, cls = function_node(function.__code__.co_filename, key, function.__code__)
        except Refused:
            return  # no source: only a run can tell
        _Reader(self, found, key, cls, node).read()

    def called(self, caller: _Function, step: CallStep, function: types.FunctionType) -> None:
        """Note that a function calls, or hands on, another one."""
        if is_library_code(function.__module__):
            return
        caller.calls.append((step, function))
        self.function(function)

    def own_attribute(self, name: str, caller: _Function, step: CallStep | None) -> bool:
        """Scan what ``self.name`` stands for, if that is a method or a property; a slot is a site of its own."""
        own = vars(self.module).get(name)
        if step is not None and isinstance(own, types.FunctionType) and self._places.match_of(own) is None:
            self.called(caller, step, own)  # a closure that __init__ made: no site as a whole, but it may have some
        held = None if name in vars(self.module) else self.methods.get(name)
        if isinstance(held, staticmethod | classmethod):
            if step is not None and isinstance(held.__func__, types.FunctionType):
                self.called(caller, step, held.__func__)
        elif held is not None:
            self.method(held)
        return held is not None

    def method_elsewhere(self, name: str) -> None:
        """Remember that some object's method is called: of the modules below, those that have it are scanned for it."""
        self._places.note_call(name, self._path)

    def parents_member(self, name: str, function: types.FunctionType) -> Any:
        """Return what ``super().name`` is in a method, and the class that has it."""
        mro = original_class(self.module).__mro__
        own = next(
            (i for i, c in enumerate(mro) if function in unwrapped(function_in(vars(c).get(function.__name__)))), None
        )
        parent = None if own is None else next((c for c in mro[own + 1 :] if name in vars(c)), None)
        return None if parent is None else (vars(parent)[name], parent)

    def is_method(self, function: types.FunctionType) -> bool:
        """Say whether a function's first argument is the module."""
        held = (vars(cls).get(function.__name__) for cls in original_class(self.module).__mro__)
        return any(not isinstance(raw, staticmethod) and function in unwrapped(function_in(raw)) for raw in held)

    # -- chains ------------------------------------------------------------------------------------------------------

    def events(self) -> dict[Key, Event]:
        """Return an event per site, with chains that use every way down to it."""
        events: dict[Key, Event] = {}
        for root in self._roots:
            ways = self._ways_from(root)
            for function, way in ways.items():
                for step, other in self._functions[function].calls:
                    if other in ways and ways[other] != (*way, step):  # not the way by which it was found first
                        self._add_all(events, (*way, step), self._ways_from(other))
            self._add_all(events, (), ways)
        return events

    def _ways_from(self, start: types.FunctionType) -> dict[types.FunctionType, tuple[CallStep, ...]]:
        ways: dict[types.FunctionType, tuple[CallStep, ...]] = {start: ()}
        for function in (pending := [start]):
            for step, other in self._functions[function].calls:
                if other not in ways and other in self._functions:
                    ways[other] = (*ways[function], step)
                    pending.append(other)
        return ways

    def _add_all(
        self,
        events: dict[Key, Event],
        before: tuple[CallStep, ...],
        ways: dict[types.FunctionType, tuple[CallStep, ...]],
    ) -> None:
        for function, way in ways.items():
            for step, match, how in self._functions[function].sites:
                key = call_key(self._path, step)
                if key not in events:
                    file = short_file(function.__code__.co_filename)
                    events[key] = Event(key, match, how, file=file, line=step.end[0])
                events[key].chains.add((*before, *way, step))


class _Reader:
    """Reads the source of one function."""

    def __init__(self, scanner: _Scanner, found: _Function, key: CodeKey, cls: str | None, node: FunctionNode) -> None:
        self._scanner = scanner
        self._found = found
        self._key = key
        self._cls = cls
        self._body = [node.body] if isinstance(node, ast.Lambda) else node.body
        self._self = found.live.__code__.co_varnames[:1] if scanner.is_method(found.live) else ()
        self._assigned = _assignments(self._body)
        surroundings = Surroundings.of_function(found.live, scanner.module if self._self else None)
        self._written = idioms_of_node(found.live.__code__, node, surroundings)

    def read(self) -> None:
        """Note every call of the function."""
        for statement in self._body:
            self._visit(statement, ())

    def _visit(self, node: ast.AST, calls: tuple[CallStep, ...]) -> None:
        if isinstance(node, ast.expr | ast.Assign | ast.AnnAssign | ast.AugAssign):
            span = span_of(node)
            for idiom in self._written:
                if span in (idiom.spans[0], *idiom.spans[2:]):
                    self._idiom(node, idiom, calls)
                    return
        if isinstance(node, ast.Call):
            step = CallStep(self._key.function, self._key.first_line, call_end(node))
            self._call(node, step)
            for child in ast.iter_child_nodes(node.func):
                self._visit(child, calls)
            for child in (*node.args, *(keyword.value for keyword in node.keywords)):
                self._visit(child, (*calls, step))
            return
        if isinstance(node, ast.Name | ast.Attribute):
            self._mention(node, calls)
        for child in ast.iter_child_nodes(node):
            self._visit(child, calls)

    def _idiom(self, node: ast.expr | ast.stmt, idiom: Idiom, calls: tuple[CallStep, ...]) -> None:
        """Note what is written out as one site; of the rest, only its source has sites of its own."""
        whole, source = idiom.spans[:2]
        if span_of(node) == whole:
            step = CallStep(self._key.function, self._key.first_line, whole[2:], idiom.spans)
            self._found.sites.append((step, idiom.match, "idiom"))
        part = next((p for p in ast.walk(node) if isinstance(p, ast.expr) and span_of(p) == source), None)
        if part is not None:
            self._visit(part, calls)

    def _mention(self, node: ast.Name | ast.Attribute, calls: tuple[CallStep, ...]) -> None:
        """A property that is read, or a function that is handed to a call and may be called in there."""
        if isinstance(node, ast.Attribute) and self._is_self(node.value):
            self._scanner.own_attribute(self._mangled(node.attr), self._found, calls[-1] if calls else None)
            return
        for value in self._values(node) if calls else ():
            if isinstance(value, types.FunctionType) and not is_library_code(value.__module__):
                for step in calls:  # any of them may be the one that calls it: map() is lazy
                    self._scanner.called(self._found, step, value)

    def _call(self, call: ast.Call, step: CallStep) -> None:
        target = call.func
        if isinstance(target, ast.Attribute) and _is_super(target):
            self._super_call(target.attr, step)
            return
        if isinstance(target, ast.Attribute) and self._is_self(target.value):
            self._scanner.own_attribute(self._mangled(target.attr), self._found, step)
            return
        values = self._values(target)
        if not values and isinstance(target, ast.Attribute):
            operator = match_method(target.attr)
            if operator is not None:
                self._found.sites.append((step, Match(operator, {}, "listed"), "method"))
            else:
                self._scanner.method_elsewhere(target.attr)
        matches = [(m, v) for v in values if not isinstance(v, type) and (m := recognise(v)) is not None]
        if matches:
            match, value = matches[0]
            self._found.sites.append((step, match, "module" if isinstance(value, nn.Module) else "function"))
        for value in values:
            if isinstance(value, types.FunctionType) and all(value is not v for _, v in matches):
                self._scanner.called(self._found, step, value)

    def _super_call(self, name: str, step: CallStep) -> None:
        member = self._scanner.parents_member(name, self._found.live)
        if member is None:
            return
        inherited, parent = member
        if is_library_code(parent.__module__):
            probe = _probe(parent) if name == "forward" else None
            match = match_module(probe) if isinstance(probe, nn.Module) else None
            if match is not None:
                self._found.sites.append((step, match, "function"))
        elif isinstance(inherited, types.FunctionType):
            self._scanner.called(self._found, step, inherited)

    def _is_self(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id in self._self

    def _mangled(self, name: str) -> str:
        return mangled(name, self._cls)

    def _values(self, node: ast.expr, depth: int = 0) -> list[Any]:
        """Return what an expression may stand for, as far as that is known before it runs."""
        if depth > _DEPTH:
            return []
        inner = depth + 1
        match node:
            case ast.Name(id=name):
                return [_opened(value) for value in _lookup(name, self._found.live)] or [
                    value for expr in self._assigned.get(name, ()) for value in self._values(expr, inner)
                ]
            case ast.IfExp(body=body, orelse=orelse):
                return self._values(body, inner) + self._values(orelse, inner)
            case ast.BoolOp(values=parts) | ast.Dict(values=parts) | ast.List(elts=parts) | ast.Tuple(elts=parts):
                return [value for part in parts for value in self._values(part, inner)]
            case ast.Attribute(value=base, attr=name):
                return [_opened(v) for b in self._values(base, inner) for v in _members(b, name)]
            case ast.Subscript(value=base):
                return [v for b in self._values(base, inner) for v in _items(b)] or (
                    self._values(base, inner) if isinstance(base, ast.Dict | ast.List | ast.Tuple) else []
                )
            case ast.Call(func=func, args=args):
                return self._made(self._values(func, inner), args, inner)
        return []

    def _made(self, makers: list[Any], args: list[ast.expr], depth: int) -> list[Any]:
        if getattr in makers and len(args) >= 2 and isinstance(args[1], ast.Constant):
            return [v for base in self._values(args[0], depth) for v in _members(base, args[1].value)]
        made = [_probe(maker) for maker in makers if isinstance(maker, type) and issubclass(maker, nn.Module)]
        return [value for value in made if value is not None]


def _assignments(body: list[Any]) -> dict[str, list[ast.expr]]:
    """Return what is assigned to each simple name."""
    found: dict[str, list[ast.expr]] = {}
    for node in (n for statement in body for n in ast.walk(statement)):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and isinstance(value, ast.expr):
            for target in targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(value)
    return found


def _members(base: Any, name: Any) -> list[Any]:
    known = isinstance(base, types.ModuleType | type) and isinstance(name, str) and hasattr(base, name)
    return [getattr(base, name)] if known else []


def _opened(value: Any) -> Any:
    """Return a scripted function as Python with a source, unless it is an activation as a whole."""
    if not isinstance(value, torch.jit.ScriptFunction) or recognise(value) is not None:
        return value
    from dcsurgery.torchscript.functions import function_or_none

    return function_or_none(value) or value


def _items(base: Any) -> list[Any]:
    if isinstance(base, dict) and len(base) <= _MANY:
        return list(base.values())
    return list(base) if isinstance(base, list | tuple) and len(base) <= _MANY else []


def _is_super(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "super"
    )


def _lookup(name: str, function: types.FunctionType) -> list[Any]:
    """Return what a global, a closure's name or a parameter's default stands for."""
    code = function.__code__
    if name in code.co_freevars:
        cell = (function.__closure__ or ())[code.co_freevars.index(name)]
        try:
            return [cell.cell_contents]
        except ValueError:
            return []
    if name in code.co_varnames or name in code.co_cellvars:
        defaults = function.__defaults__ or ()
        positional = code.co_varnames[: code.co_argcount][-len(defaults) :] if defaults else ()
        given = {**dict(zip(positional, defaults, strict=True)), **(function.__kwdefaults__ or {})}
        return [given[name]] if given.get(name) is not None else []
    found = function.__globals__.get(name, getattr(builtins, name, None))
    return [] if found is None else [found]


def _probe(cls: type[nn.Module]) -> nn.Module | None:
    """Return an instance to be looked at, without running the user's constructor."""
    probe = cls.__new__(cls)
    nn.Module.__init__(probe)
    try:
        return probe if match_module(probe) is not None else None
    except (AttributeError, TypeError):
        return None


def unwrapped(function: Any) -> list[types.FunctionType]:
    """Return a function and those of the same name that decorators wrapped into it."""
    found: list[types.FunctionType] = []
    below = [function] if isinstance(function, types.FunctionType) else []
    while below:
        wrapper = below.pop(0)
        if any(wrapper is f for f in found):  # a wrapper may hold itself
            continue
        found.append(wrapper)
        for cell in wrapper.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:
                continue
            if isinstance(value, types.FunctionType) and value.__name__ == function.__name__:
                below.append(value)
    return found
