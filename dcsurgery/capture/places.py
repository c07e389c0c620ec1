"""What is known about a model before it runs: which slots hold recognised modules and callables."""

from __future__ import annotations

import ast
import functools
import gc
import inspect
import types
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from dcsurgery.capture.applied import applied_class
from dcsurgery.capture.graphs import Key
from dcsurgery.capture.node_sites import GraphSites, graph_sites
from dcsurgery.capture.nodes import NEW
from dcsurgery.capture.origin import BOUNDARIES, Origin, chain_of, is_library_file, short_file
from dcsurgery.catalog import Match
from dcsurgery.methods import methods_of
from dcsurgery.paths import PathSet
from dcsurgery.recognition import is_library_code, recognise
from dcsurgery.recurrent import runs_recurrent_kernel
from dcsurgery.source import running_call
from dcsurgery.subclass import original_class
from dcsurgery.tree import Slot, Tree, join

__all__ = ["Places"]

_OPENED_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Places:
    """Slots of a model with what they hold in the catalog's terms."""

    def __init__(self, model: nn.Module) -> None:
        self.tree = Tree.of(model)
        # The model itself stands in no slot: whatever it behaves like, it is looked into.
        self._matches: dict[int, tuple[Any, Match | None]] = {id(model): (model, None)}
        self._by_object: dict[int, list[Slot]] = {}
        self._by_owner: dict[str, list[Slot]] = {}
        self._function_matches: dict[types.CodeType, tuple[Any, Match | None]] = {}
        self.called_methods: defaultdict[str, set[str]] = defaultdict(set)  # path to methods that others call
        self._callers: dict[str, str] = {}  # method to the first module that calls it on another
        self._graphs: dict[str, GraphSites] = {}
        self.slots: list[Slot] = []
        self.closed = PathSet()  # paths of recognised modules: nothing below is a site of its own
        self._slot_codes: set[types.CodeType] = set()
        inside: set[str] = set()  # modules below a recognised one belong to it
        whole = ""  # the last recognised object that is no module: what it holds follows it, and belongs to it
        for slot in self.tree.slots:
            if slot.owner in inside or (whole and slot.path.startswith((f"{whole}.", f"{whole}["))):
                if isinstance(slot.value, nn.Module):
                    inside.add(slot.path)
                continue
            self.slots.append(slot)
            self._by_object.setdefault(id(slot.value), []).append(slot)
            self._by_owner.setdefault(slot.owner, []).append(slot)
            if isinstance(slot.value, nn.Module) and self.match_of(slot.value) is not None:
                inside.add(slot.path)
                self.closed.add(slot.path)
            if not isinstance(slot.value, nn.Module) and self.match_of(slot.value) is not None:
                whole = slot.path
                code = _code_of(slot.value)
                if code is not None:
                    self._slot_codes.add(code)

    def match_of(self, value: Any) -> Match | None:
        """Return what a module or callable of this model is."""
        if id(value) not in self._matches:
            self._matches[id(value)] = (value, recognise(value))  # held, so that its id stays its own
        return self._matches[id(value)][1]

    def note_call(self, name: str, caller: str) -> None:
        """Note that the module at ``caller`` calls a method of some other object: of any module that has it."""
        first = self._callers.get(name)
        if first is None:
            self._callers[name] = caller
            called = [path for path in self._with_method.get(name, ()) if path != caller]
        else:  # the first call was noted for all modules but that caller itself
            called = [first] if first != caller and first in self._with_method.get(name, ()) else []
        for path in called:
            self.called_methods[path].add(name)

    @functools.cached_property
    def _with_method(self) -> dict[str, dict[str, None]]:
        """The paths of the modules whose class has a method, by its name; in the order of the tree."""
        methods: dict[type, tuple[str, ...]] = {}
        found: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for path, module in self.tree.modules.items():
            cls = original_class(module)
            if cls not in methods:
                methods[cls] = tuple(methods_of(cls))
            for name in methods[cls]:
                found[name][path] = None
        return dict(found)

    def graph(self, path: str) -> GraphSites:
        """Return the sites of the GraphModule at a path."""
        if path not in self._graphs:
            module = self.tree.modules[path]
            assert isinstance(module, fx.GraphModule)
            self._graphs[path] = graph_sites(module, path, self._origin_of_graph(path))
            self._mark_slots(module, path)
        return self._graphs[path]

    def _origin_of_graph(self, path: str) -> str:
        """Return the path of the GraphModule of whose control flow the one at a path is a branch, itself otherwise."""
        owner, _, name = path.rpartition(".")
        parent = self.tree.modules.get(owner) if path else None
        if isinstance(parent, fx.GraphModule) and any(
            n.op == "get_attr" and n.target == name for n in parent.graph.nodes
        ):
            return self._origin_of_graph(owner)
        return path

    def _mark_slots(self, module: fx.GraphModule, path: str) -> None:
        """Leave the keys of slots on the nodes that call them."""
        for node in module.graph.nodes:
            if node.op == "call_module" and NEW not in node.meta:
                node.meta.pop("dcs_key", None)
                child = self._child(module, str(node.target))
                slots = self.slots_of(child) if child is not None and self.match_of(child) is not None else []
                named = [slot for slot in slots if slot.path == join(path, str(node.target))] or slots
                if named:
                    node.meta["dcs_key"] = self.slot_key(named[0])

    @staticmethod
    def _child(module: nn.Module, target: str) -> nn.Module | None:
        try:
            return module.get_submodule(target)
        except AttributeError:
            return None

    def slots_of(self, value: Any) -> list[Slot]:
        """Return every slot that holds an object."""
        return self._by_object.get(id(value), [])

    def is_held(self, code: types.CodeType) -> bool:
        """Say whether a slot holds a recognised function with this code."""
        return code in self._slot_codes

    @staticmethod
    def slot_key(slot: Slot) -> Key:
        """Return the site key of a slot."""
        return ("module" if slot.registered else "attribute", slot.owner, slot.name)

    def belongs_to(self, slot: Slot, caller: str) -> bool:
        """Say whether the module at ``caller`` holds a slot, itself or in a container that is never called."""
        if slot.owner == caller:
            return True
        if caller and not slot.owner.startswith((f"{caller}.", f"{caller}[")):
            return False
        owner = self.tree.modules.get(slot.owner)
        return isinstance(owner, nn.ModuleList | nn.ModuleDict)

    @staticmethod
    def is_leaf(module: nn.Module) -> bool:
        """Say whether a module is torch's own and has nothing to open inside."""
        if isinstance(module, torch.jit.ScriptModule):
            return True
        if isinstance(module, _OPENED_CONTAINERS):
            return False
        if runs_recurrent_kernel(module):  # torch's own, or imported from TorchScript
            return True
        own = original_class(module).__module__.startswith("torch.nn.")
        return own and not any(True for _ in module.children())

    def callable_slots(self, owner: str) -> list[Slot]:
        """Return the slots of one module that hold plain callables."""
        return [s for s in self._by_owner.get(owner, []) if not s.registered and not isinstance(s.value, nn.Module)]

    def held_callables(self, func: Any, origin: Origin, callers: list[str]) -> list[Slot]:
        """Return the nearest caller's attributes that hold a running function; none if the source names it itself.

        ``self.act(x)`` and ``for act in self.acts`` come from a slot; ``F.silu(x)`` and ``x.relu()`` do not.
        """
        if origin.frames and _names_function_itself(origin.frames[0]):
            return []
        name = getattr(func, "__name__", "")

        def holds(slot: Slot) -> bool:
            inner = slot.value.func if isinstance(slot.value, functools.partial) else slot.value
            return inner is func or (self.match_of(slot.value) is not None and getattr(inner, "__name__", "") == name)

        held = ([slot for slot in self.callable_slots(caller) if holds(slot)] for caller in callers)
        return next((slots for slots in held if slots), [])

    @staticmethod
    def named_slot(frame: types.FrameType | None, slots: list[Slot]) -> Slot | None:
        """Return the slot that the call in progress names, like ``self.acts[1](x)``."""
        name = None if frame is None else _attribute_called(frame)
        return next((slot for slot in slots if slot.name == name), None)

    def recognised_frame(self, origin: Origin, callers: list[str]) -> tuple[Key | None, Match, Origin] | None:
        """Return the outermost user function around a call that is an activation as a whole.

        The key is that of the slot which holds the function, None where its call has to be edited; then the returned
        origin ends at that call.
        """
        for position in range(len(origin.frames) - 1, -1, -1):
            frame = origin.frames[position]
            code = frame.f_code
            applied = _applied(frame)
            for caller in callers:
                for slot in self.callable_slots(caller):
                    held = _code_of(slot.value) is code or (applied is not None and slot.value == applied)
                    if held and (match := self.match_of(slot.value)) is not None:
                        return self.slot_key(slot), match, origin
            if position + 1 >= len(origin.frames):
                continue
            match = self._match_of_code(frame)
            if match is not None and not _is_called_by_c(frame):
                rest = origin.frames[position + 1 :]
                owner, steps = chain_of(rest)
                file = short_file(rest[0].f_code.co_filename)
                return None, match, Origin(owner, steps, rest, None, None, file, rest[0].f_lineno)
        return None

    def compound_frame(self, frame: types.FrameType | None) -> types.FrameType | None:
        """Return the outermost frame, up to the module call, of a function that is an activation as a whole."""
        found = None
        while frame is not None and frame.f_code not in BOUNDARIES:
            code = frame.f_code
            if not is_library_file(code.co_filename) and (
                code in self._slot_codes or (self._match_of_code(frame) and not _is_called_by_c(frame))
            ):
                found = frame
            frame = frame.f_back
        return found

    def function_of(self, frame: types.FrameType) -> Any:
        """Return the recognised function that a frame runs, ``Function.apply`` for an `autograd.Function`."""
        self._match_of_code(frame)
        return self._function_matches[frame.f_code][0]

    def _match_of_code(self, frame: types.FrameType) -> Match | None:
        code = frame.f_code
        if code not in self._function_matches:
            found = None if self._is_opened(frame) else _function_of(frame)
            self._function_matches[code] = (found, None if found is None else recognise(found))
        return self._function_matches[code][1]

    @staticmethod
    def _is_opened(frame: types.FrameType) -> bool:
        """Say whether a frame runs code that is looked into: methods of modules, comprehensions, module level."""
        code = frame.f_code
        takes_any = bool(code.co_flags & inspect.CO_VARARGS) and not code.co_kwonlyargcount
        if (code.co_argcount < 1 and not takes_any) or (code.co_name.startswith("<") and code.co_name != "<lambda>"):
            return True
        first = frame.f_locals.get(code.co_varnames[0])
        if code.co_argcount < 1 and isinstance(first, tuple) and first:
            first = first[0]
        return isinstance(first, nn.Module)


def _function_of(frame: types.FrameType) -> Any:
    """Return the function that a frame runs."""
    code = frame.f_code
    if is_library_code(frame.f_globals.get("__name__")):
        return None
    applied = _applied(frame)
    if applied is not None:
        return applied
    named = _named(code, frame.f_globals)
    if isinstance(named, types.FunctionType) and named.__code__ is code:
        return named
    # Local functions have no name to look up; whatever holds the code is the function. That search takes long.
    return next((f for f in gc.get_referrers(code) if isinstance(f, types.FunctionType) and f.__code__ is code), None)


def _named(code: types.CodeType, names: Mapping[str, Any]) -> Any:
    """Return the function that a code's qualified name leads to, None if it leads nowhere."""
    first, *rest = code.co_qualname.split(".")
    value = names.get(first)
    for part in rest:
        value = inspect.getattr_static(value, part, None)
    return getattr(value, "__func__", value)


def _applied(frame: types.FrameType) -> Any:
    """Return ``Function.apply`` where a frame runs the ``forward`` of an `autograd.Function`."""
    function_class = applied_class(frame)
    return None if function_class is None else function_class.apply


def _is_called_by_c(frame: types.FrameType) -> bool:
    """Say whether a function was handed to ``map``, ``sum`` or the like: no call of its own could be edited, so its body is."""
    outer = frame.f_back
    call = None if outer is None or is_library_file(outer.f_code.co_filename) else running_call(outer)
    if outer is None or call is None:
        return False
    callee = _value_of(call.func, outer)
    return isinstance(callee, types.BuiltinFunctionType) or (isinstance(callee, type) and callee.__module__ in _IN_C)


_IN_C = frozenset({"builtins", "itertools"})


def _value_of(node: ast.expr, frame: types.FrameType) -> Any:
    """Return what a name, or a name in a Python module, stands for in a frame."""
    if isinstance(node, ast.Name):
        for names in (frame.f_locals, frame.f_globals, frame.f_builtins):
            if node.id in names:
                return names[node.id]
    if isinstance(node, ast.Attribute):
        base = _value_of(node.value, frame)
        return getattr(base, node.attr, None) if isinstance(base, types.ModuleType) else None
    return None


def _code_of(value: Any) -> types.CodeType | None:
    value = value.func if isinstance(value, functools.partial) else value
    value = getattr(value, "__func__", value)
    if isinstance(value, types.FunctionType):
        return value.__code__
    call = getattr(type(value), "__call__", None)  # noqa: B004 - the class's own method is wanted
    return call.__code__ if isinstance(call, types.FunctionType) else None


def _names_function_itself(frame: types.FrameType) -> bool:
    """Say whether the call in progress is written as ``namespace.name(…)``, ``tensor.method(…)`` or a global's name."""
    call = running_call(frame)
    if call is None:
        return False
    root: ast.expr = call.func
    if isinstance(root, ast.Name):
        return root.id not in frame.f_locals and root.id in frame.f_globals
    dotted = isinstance(root, ast.Attribute)
    while isinstance(root, ast.Attribute | ast.Subscript):
        root = root.value
    if not isinstance(root, ast.Name):
        return dotted  # (a + b).relu()
    local = frame.f_locals.get(root.id)
    if isinstance(local, torch.Tensor | torch.fx.Proxy):
        return dotted
    return root.id not in frame.f_locals and isinstance(frame.f_globals.get(root.id), types.ModuleType)


def _attribute_called(frame: types.FrameType) -> str | None:
    """Return ``acts[1]`` where the call in progress is written as ``module.acts[1](…)``."""
    call = running_call(frame)
    text, node = "", None if call is None else call.func
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Attribute):
            text = f".{node.attr}{text}"
        elif isinstance(node.slice, ast.Constant):
            text = f"[{node.slice.value!r}]{text}"
        elif isinstance(node.slice, ast.Name):
            text = f"[{frame.f_locals.get(node.slice.id)!r}]{text}"
        else:
            return None
        node = node.value
    module = isinstance(node, ast.Name) and isinstance(frame.f_locals.get(node.id), nn.Module)
    return text.removeprefix(".") if module else None
