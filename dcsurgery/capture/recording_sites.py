"""Which site a call belongs to, while the model runs."""

from __future__ import annotations

import contextlib
import sys
import threading
import types
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from dcsurgery.capture.call_frames import outside_call, running_node
from dcsurgery.capture.graphs import Key, call_key
from dcsurgery.capture.nodes import Occurrence
from dcsurgery.capture.origin import Origin, origin_of
from dcsurgery.capture.places import Places
from dcsurgery.capture.recorded import Evaluation, Event, Frame, Recording
from dcsurgery.capture.tape import is_tensor_method
from dcsurgery.capture.written import RunningIdioms
from dcsurgery.catalog import Match
from dcsurgery.idioms import Idiom
from dcsurgery.recurrent import inner_operators, is_opened_kernel
from dcsurgery.tree import Slot

__all__ = ["SiteRecorder"]


class _OfThread(threading.local):
    """What a forward that starts threads must not mix: torch's global hooks see the modules of all of them."""

    def __init__(self) -> None:
        self.stack: list[Frame] = []
        self.busy = False


class SiteRecorder(TorchFunctionMode):
    """What a recorder knows of the run in progress, and which site each call is.

    Parameters
    ----------
    model, places
        The model that runs, and what is known about it.
    keep_inputs
        Keep what each module was given and gave back.
    """

    def __init__(self, model: nn.Module, places: Places, *, keep_inputs: bool = True) -> None:
        super().__init__()
        self.recording = Recording()
        self._model = model
        self._places = places
        self._keep_inputs = keep_inputs
        self._thread = _OfThread()
        self._alive: list[torch.Tensor] = []  # ids stay unique while the tensors live
        self._parameters: dict[int, str] = {}
        self._hooks: list[Any] = []
        self._current: list[Key | None] = []
        self._compounds: dict[types.FrameType, tuple[Key | None, fx.Node | None]] = {}
        self._idioms = RunningIdioms()
        self._evaluations: dict[tuple[types.FrameType, Idiom], Evaluation] = {}
        self._applied: dict[tuple[types.FrameType, Occurrence], fx.Node | None] = {}
        self._outputs: list[tuple[Key, torch.Tensor, int]] = []
        self._during = contextlib.ExitStack()

    @property
    def busy(self) -> bool:
        """Whether this thread is at our own bookkeeping, which calls torch, too."""
        return self._thread.busy

    @busy.setter
    def busy(self, value: bool) -> None:
        self._thread.busy = value

    @property
    def _stack(self) -> list[Frame]:
        """The module calls in progress in this thread, outermost first."""
        return self._thread.stack

    def _module_key(self, module: nn.Module, depth: int) -> Key | None:
        """Choose the slot through which a module was called: the nearest caller that holds it."""
        slots = self._places.slots_of(module)
        for caller in reversed(self._stack[:depth]):
            held = [slot for slot in slots if self._places.belongs_to(slot, caller.path)]
            if held:
                return self._places.slot_key(self._used(caller, module, held, outside_call(sys._getframe(2))))
        return self._places.slot_key(slots[0]) if slots else None

    def _used(self, caller: Frame, value: Any, slots: list[Slot], frame: types.FrameType | None) -> Slot:
        """Return which of a caller's slots, all with the same object, is meant: the one its source names, or the next."""
        if len(slots) == 1:
            return slots[0]
        named = self._places.named_slot(frame, slots)
        if named is not None:
            return named
        turn = caller.turns[id(value)]  # a container's items are called one after the other
        caller.turns[id(value)] += 1
        return slots[turn % len(slots)]

    def _module_event(self, module: nn.Module, match: Match) -> Key:
        key = self._module_key(module, len(self._stack))
        if key is not None:
            self._count(key, match, "module" if key[0] == "module" else "attribute")
            return key
        origin = origin_of(outside_call(sys._getframe(2)))  # made on the fly: nn.Softplus()(x)
        return self._call_event(origin, match, "module")

    def current_site(self, operator: str | None) -> Key | None:
        """Return the site whose code runs now; None if no catalogued call is on the way."""
        running = [key for key in self._current if key is not None]
        if running:
            return running[-1]
        top = self._stack[-1] if self._stack else None
        if top is None or top.key is not None:
            return top.key if top is not None else None
        inner = inner_operators(top.module)
        if inner:
            return ("fused", top.path, operator if operator in inner else inner[0])
        if isinstance(top.module, torch.jit.ScriptModule):
            return ("fused", top.path, "TorchScript")
        return None

    def current_path(self) -> str:
        """Return the path of the module whose code runs now."""
        return self._stack[-1].path if self._stack else ""

    def _count(self, key: Key, match: Match, how: str, origin: Origin | None = None, reason: str = "") -> Event:
        event = self.recording.events.get(key)
        if event is None:
            event = self.recording.events[key] = Event(key, match, how, reason=reason)
            if origin is not None:
                event.file, event.line = origin.file, origin.line
        event.runs += 1
        if origin is not None and origin.steps and key[0] == "call":
            event.chains.add(origin.steps)
        return event

    def _call_event(self, origin: Origin, match: Match, how: str) -> Key:
        key: Key
        top = self._stack[-1] if self._stack else None
        owner = self._places.tree.path_of(origin.owner) if origin.owner is not None else None
        node = None if top is None else running_node(top.module, origin.frames[0] if origin.frames else None)
        if top is not None and node is not None:
            key = ("node", top.path, node)
            self._count(key, match, "node", origin)
            return key
        if owner is None or not origin.steps:
            inside = f"{type(top.module).__name__ if top else 'the model'} ({match.operator.name})"
            key = ("fused", top.path if top else "", inside)
            self._count(key, match, "fused", origin, "it runs inside torch's own code, which is not edited")
            return key
        last = origin.steps[-1]
        key = call_key(owner, last)
        event = self._count(key, match, how, origin)
        event.line = last.end[0] if event.line is None else event.line
        return key

    def _site_of(self, func: Any, match: Match | None) -> Key | None:
        """Count a catalogued function that runs now and return its site, None inside a recognised module."""
        top = self._stack[-1] if self._stack else None
        if top is not None and top.site:
            return None
        if top is not None and match is not None and is_opened_kernel(sys._getframe(2)):
            return ("fused", top.path, match.operator.name)  # what is left of a kernel is no call of the author's
        origin = origin_of(sys._getframe(1))
        library = origin.library_module
        if library is not None and (top is None or library is not top.module):
            direct = self._places.match_of(library)  # self.act.forward(x)
            slots = self._places.slots_of(library)
            if direct is not None and slots:
                key = self._places.slot_key(slots[0])
                self._count(key, direct, "module")
                return key
        wrapped = self._places.recognised_frame(origin, self.running_paths())
        if wrapped is not None:
            through, wrapped_match, outer = wrapped
            if through is not None:
                self._count(through, wrapped_match, "attribute", origin)
                return through
            return self._call_event(outer, wrapped_match, "function")
        if match is None:
            return None
        if origin.in_autograd_function is not None:
            key = ("fused", top.path if top else "", f"autograd.Function {origin.in_autograd_function.__qualname__}")
            self._count(key, match, "fused", origin, "an autograd.Function's backward would stay as it is")
            return key
        held = self._places.held_callables(func, origin, self.running_paths())
        if held:
            caller = next((frame for frame in reversed(self._stack) if frame.path == held[0].owner), self._stack[-1])
            slot = self._used(caller, func, held, origin.frames[0] if origin.frames else None)
            key = self._places.slot_key(slot)
            self._count(key, self._places.match_of(slot.value) or match, "attribute", origin)
            return key
        return self._call_event(origin, match, "method" if is_tensor_method(func) else "function")

    def running_paths(self) -> list[str]:
        """Return the paths of the modules whose calls are in progress, the innermost first."""
        return [frame.path for frame in reversed(self._stack)]

    def key_of(self, module: nn.Module) -> Key | None:
        """Return the site at which a module is being called, None where its forward is called directly."""
        top = self._stack[-1] if self._stack else None
        return top.key if top is not None and top.module is module else None

    def _whole(self, func: Any) -> Key | None:
        """Return a key for a function of torch that no row lists: a kernel in it (``F.lp_pool2d``) is its own affair."""
        top = self._stack[-1] if self._stack else None
        if not isinstance(func, types.FunctionType) or func.__module__ != nn.functional.__name__ or (top and top.site):
            return None
        return ("fused", top.path if top else "", f"F.{func.__name__}")

    def _run(self, key: Key | None, func: Any, args: Any, kwargs: Any) -> Any:
        self._current.append(key)
        try:
            result = func(*args, **kwargs)
        finally:
            self._current.pop()
        if key is not None:
            self._keep_version(key, result)
        return result

    def _keep_version(self, key: Key, output: Any) -> None:
        event = self.recording.events.get(key)
        if event is None or event.match.operator.role != "normalization" or not isinstance(output, torch.Tensor):
            return
        if not output.is_inference():  # such tensors have no version
            self._outputs.append((key, output, output._version))
