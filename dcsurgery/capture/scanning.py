"""Find catalogued calls in source code, on every branch, without running anything.

Used where there are no example inputs, and for branches that the example inputs did not reach. What a name stands for
is looked up in the live function's globals and closure; a method of an unknown object (``x.relu()``) is taken for a
tensor's, and the rewritten call checks that at run time.
"""

from __future__ import annotations

import ast
import builtins
import types
from collections.abc import Iterator
from typing import Any

from torch import nn

from dcsurgery.capture.graphs import Key
from dcsurgery.capture.origin import short_file
from dcsurgery.capture.places import Places
from dcsurgery.capture.recording import Event
from dcsurgery.catalog import Match, match_method, match_module
from dcsurgery.errors import Refused
from dcsurgery.recognition import is_library_code, recognise
from dcsurgery.rewriting import methods_of
from dcsurgery.sites import CallStep
from dcsurgery.source import CodeKey, call_end, code_key, function_node
from dcsurgery.subclass import original_class

__all__ = ["scan"]

# What MessagePassing.propagate calls by name, from code that it generates.
_MESSAGE_PASSING = ("message", "aggregate", "update", "edge_update", "message_and_aggregate")
_DEPTH = 6
_UNKNOWN = object()


def scan(module: nn.Module, path: str, places: Places) -> dict[Key, Event]:
    """Return the call sites in the code that one module runs."""
    scanner = _Scanner(module, path, places)
    cls = original_class(module)
    methods = methods_of(cls)
    start = ["forward", *(_MESSAGE_PASSING if "propagate" in methods or hasattr(cls, "propagate") else ())]
    for name in start:
        scanner.method(methods.get(name), 0)
    return scanner.events


class _Scanner:
    def __init__(self, module: nn.Module, path: str, places: Places) -> None:
        self._module = module
        self._path = path
        self._places = places
        self._methods = methods_of(original_class(module))
        self._seen: set[tuple[CodeKey, CodeKey | None]] = set()
        self.events: dict[Key, Event] = {}

    def method(self, raw: Any, depth: int) -> None:
        """Scan a class attribute, decorators looked through."""
        function = raw.fget if isinstance(raw, property) else getattr(raw, "__func__", raw)
        for candidate in _unwrapped(function):
            if not is_library_code(candidate.__module__):
                self._function(candidate, (), depth)

    def _function(self, function: types.FunctionType, chain: tuple[CallStep, ...], depth: int) -> None:
        key = code_key(function.__code__)
        above = CodeKey(chain[-1].function, chain[-1].first_line) if chain else None
        if (key, above) in self._seen or depth > _DEPTH:
            return
        self._seen.add((key, above))
        try:
            node, cls = function_node(function.__code__.co_filename, key, function.__code__)
        except Refused:
            return  # no source: only a run can tell
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        for statement in body:
            for call in _calls(statement):
                step = CallStep(key.function, key.first_line, call_end(call))
                self._call(call, function, cls, (*chain, step), depth)

    def _call(
        self, call: ast.Call, function: types.FunctionType, cls: str | None, chain: tuple[CallStep, ...], depth: int
    ) -> None:
        target = call.func
        if _is_super(target):
            assert isinstance(target, ast.Attribute)
            self._super_call(target.attr, function, chain, depth)
            return
        if isinstance(target, ast.Attribute) and _is_name(target.value, function.__code__.co_varnames[:1]):
            held = self._methods.get(target.attr)
            if held is not None and target.attr not in vars(self._module):
                self.method(held, depth + 1)
            return  # an attribute: a slot of its own
        value = self._value(target, function)
        if value is _UNKNOWN:
            if isinstance(target, ast.Attribute):
                operator = match_method(target.attr)
                if operator is not None:
                    self._add(chain, Match(operator, {}, "listed"), "method", function)
            return
        match = recognise(value) if not isinstance(value, type) else None
        if match is not None:
            self._add(chain, match, "module" if isinstance(value, nn.Module) else "function", function)
        elif isinstance(value, types.FunctionType) and not is_library_code(value.__module__):
            self._function(value, chain, depth + 1)

    def _super_call(self, name: str, function: types.FunctionType, chain: tuple[CallStep, ...], depth: int) -> None:
        mro = original_class(self._module).__mro__
        own = next((i for i, c in enumerate(mro) if vars(c).get(function.__name__) is function), None)
        parent = None if own is None else next((c for c in mro[own + 1 :] if name in vars(c)), None)
        if parent is None:
            return
        inherited = vars(parent)[name]
        if is_library_code(parent.__module__):
            probe = _probe(parent) if name == "forward" else _UNKNOWN
            match = match_module(probe) if isinstance(probe, nn.Module) else None
            if match is not None:
                self._add(chain, match, "method", function)
        elif isinstance(inherited, types.FunctionType):
            self._function(inherited, chain, depth + 1)

    def _value(self, node: ast.expr, function: types.FunctionType) -> Any:
        if isinstance(node, ast.Name):
            return _lookup(node.id, function)
        if isinstance(node, ast.Attribute):
            base = self._value(node.value, function)
            known = isinstance(base, types.ModuleType | type)
            return getattr(base, node.attr, _UNKNOWN) if known else _UNKNOWN
        if isinstance(node, ast.Call):
            maker = self._value(node.func, function)
            constants = [a.value for a in node.args if isinstance(a, ast.Constant)]
            if maker is getattr and len(node.args) >= 2 and len(constants) >= 1:
                base = self._value(node.args[0], function)
                known = isinstance(base, types.ModuleType | type) and isinstance(constants[0], str)
                return getattr(base, constants[0], _UNKNOWN) if known else _UNKNOWN
            if isinstance(maker, type) and issubclass(maker, nn.Module):
                return _probe(maker)
        return _UNKNOWN

    def _add(self, chain: tuple[CallStep, ...], match: Match, how: str, function: types.FunctionType) -> None:
        last = chain[-1]
        key = ("call", self._path, last.function, last.first_line, last.end)
        event = self.events.get(key)
        if event is None:
            file = short_file(function.__code__.co_filename)
            event = self.events[key] = Event(key, match, how, file=file, line=last.end[0])
        event.chains.add(chain)


def _calls(statement: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(statement) if isinstance(node, ast.Call))


def _is_name(node: ast.expr, names: tuple[str, ...]) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def _is_super(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "super"
    )


def _lookup(name: str, function: types.FunctionType) -> Any:
    if name in function.__code__.co_freevars:
        cell = (function.__closure__ or ())[function.__code__.co_freevars.index(name)]
        try:
            return cell.cell_contents
        except ValueError:
            return _UNKNOWN
    if name in function.__code__.co_varnames or name in function.__code__.co_cellvars:
        return _UNKNOWN
    return function.__globals__.get(name, getattr(builtins, name, _UNKNOWN))


def _probe(cls: type[nn.Module]) -> Any:
    """Return an instance to be looked at, without running the user's constructor."""
    probe = cls.__new__(cls)
    nn.Module.__init__(probe)
    try:
        return probe if match_module(probe) is not None else _UNKNOWN
    except (AttributeError, TypeError):
        return _UNKNOWN


def _unwrapped(function: Any) -> Iterator[types.FunctionType]:
    if not isinstance(function, types.FunctionType):
        return
    yield function
    for cell in function.__closure__ or ():
        try:
            inner = cell.cell_contents
        except ValueError:
            continue
        if isinstance(inner, types.FunctionType) and inner.__name__ == function.__name__:
            yield from _unwrapped(inner)
