"""Record one run: an fx graph per module, and every activation and normalization that ran, with its place.

A `TorchFunctionMode` sees each call a model makes as the user wrote it (``F.silu``, ``x.relu_()``, ``nn.SiLU()``),
whatever control flow led there. Children appear as leaves, as in a symbolic trace.
"""

from __future__ import annotations

import contextlib
import linecache
import re
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import fx, nn
from torch.nn.modules import module as nn_module
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from dcsurgery.activations import irelu
from dcsurgery.calls import pass_on
from dcsurgery.capture.applied import application_around
from dcsurgery.capture.control_flow import again, unfold
from dcsurgery.capture.graphs import REPLACED, Key, call_key
from dcsurgery.capture.nodes import Occurrence
from dcsurgery.capture.origin import BOUNDARIES, Origin, is_below_transform, origin_of, short_file, user_frame
from dcsurgery.capture.places import Places
from dcsurgery.capture.tape import Tape, is_tensor_method
from dcsurgery.capture.written import Position, RunningIdioms, is_part_of
from dcsurgery.catalog import Match, match_function
from dcsurgery.example_inputs import preserved
from dcsurgery.idioms import Idiom
from dcsurgery.recognition import is_probing
from dcsurgery.recurrent import inner_operators, is_opened_kernel
from dcsurgery.sites import CallStep
from dcsurgery.torchscript.fragments import functions_open
from dcsurgery.tree import Slot

__all__ = ["Evaluation", "Event", "Recorder", "Recording"]

_ASSIGNMENT = re.compile(r"\s*(\w+)\s*(?::[^=]*)?=")


@dataclass
class Event:
    """One place where a catalogued operator ran."""

    key: Key
    match: Match
    how: str
    chains: set[tuple[CallStep, ...]] = field(default_factory=set)
    file: str | None = None
    line: int | None = None
    runs: int = 0
    reason: str = ""
    overwritten: bool = False  # its output was changed in place afterwards


@dataclass
class Recording:
    """What a run left behind."""

    graphs: dict[str, fx.Graph] = field(default_factory=dict)
    events: dict[Key, Event] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)  # opened modules
    fused_calls: Counter[str] = field(default_factory=Counter)  # torch's own leaves
    inputs: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    rng: dict[str, torch.Tensor] = field(default_factory=dict)
    functions: dict[Key, Any] = field(default_factory=dict)  # what was called at calls of recognised functions


@dataclass
class _Frame:
    """One module call in progress."""

    module: nn.Module
    path: str
    leaf: bool
    kwargs: dict[str, Any]
    site: bool = False
    key: Key | None = None
    tape: Tape | None = None
    turns: Counter[int] = field(default_factory=Counter)  # id(shared callable) -> calls so far
    evaluation: Evaluation | None = None  # of the idiom that it is called in
    task: int = field(default_factory=torch._C._current_graph_task_id)  # the backward pass that it is called in, or -1

    @property
    def open_tape(self) -> Tape | None:
        """The tape, except inside vmap, grad and a backward pass.

        What vmap and grad hand down are layers around tensors that no node made; what a backward pass calls, the second
        run of a checkpoint above all, makes nothing that the module hands on.
        """
        if torch._C._are_functorch_transforms_active() or torch._C._current_graph_task_id() != self.task:
            return None
        return self.tape


@dataclass
class Evaluation:
    """One evaluation of an idiom in progress: its key, and the tensors that it began with and has made."""

    key: Key
    steps: tuple[CallStep, ...]
    source: list[torch.Tensor] = field(default_factory=list)
    made: list[torch.Tensor] = field(default_factory=list)


class _OfThread(threading.local):
    """What a forward that starts threads must not mix: torch's global hooks see the modules of all of them."""

    def __init__(self) -> None:
        self.stack: list[_Frame] = []
        self.busy = False


class Recorder(TorchFunctionMode):
    """Context manager: record the run of ``model`` inside it into ``recording``."""

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
    def _stack(self) -> list[_Frame]:
        """The module calls in progress in this thread, outermost first."""
        return self._thread.stack

    def __enter__(self) -> Self:
        for path, module in self._places.tree.modules.items():
            if isinstance(module, fx.GraphModule):
                self._places.graph(path)  # now, since it runs pieces of the graph
        self._hooks = [
            nn_module.register_module_forward_pre_hook(self._quietly(self._enter)),
            nn_module.register_module_forward_hook(self._quietly(self._leave), always_call=True),
        ]
        self._during.enter_context(preserved(self._model))
        self._during.enter_context(functions_open(self._model))
        tensors = [*self._model.named_parameters(), *self._model.named_buffers()]
        self._parameters = {id(tensor): name for name, tensor in tensors}
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._during.close()
        for hook in self._hooks:
            hook.remove()
        for key, tensor, version in self._outputs:
            if tensor._version != version and key in self.recording.events:
                self.recording.events[key].overwritten = True
        self._outputs.clear()
        self._stack.clear()
        self._alive.clear()
        self._compounds.clear()
        self._evaluations.clear()
        self._applied.clear()

    def _quietly(self, hook: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any) -> None:
            if self.busy or is_probing():
                return
            self.busy = True
            try:
                hook(*args)
            finally:
                self.busy = False

        return run

    # -- module calls ------------------------------------------------------------------------------------------------

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        path = self._places.tree.path_of(module)
        top = self._stack[-1] if self._stack else None
        inside_site = top is not None and (top.site or top.leaf)
        match = None if inside_site else self._places.match_of(module)
        frame = _Frame(module, path if path is not None else "?", True, _keywords(), site=bool(top and top.site))
        if frame.site and top is not None:
            frame.key = top.key
        if match is not None:
            place = self._idioms.of(_outside_call(sys._getframe(1)))
            if place is not None and place[1].idiom is not None:
                frame.evaluation = self._evaluation(place[0], place[1].idiom)
        if frame.evaluation is not None:
            frame.site, frame.key = True, frame.evaluation.key
            self._begins(frame.evaluation, args)
        elif match is not None:
            frame.key = self._module_event(module, match)
            frame.site = True
        elif path is not None and not inside_site:
            frame.leaf = self._places.is_leaf(module)
            if frame.leaf:
                self.recording.fused_calls[path] += 1
            else:
                self.recording.calls[path] += 1
                if path not in self.recording.graphs:
                    self._begin(frame, path, args)
        self._stack.append(frame)

    def _begin(self, frame: _Frame, path: str, args: tuple[Any, ...]) -> None:
        frame.tape = Tape(path, self._parameters, self._alive)
        self.recording.graphs[path] = frame.tape.graph
        frame.tape.begin(args, frame.kwargs)
        # What vmap and grad hand down are layers around tensors: they mean nothing outside.
        if self._keep_inputs and not torch._C._are_functorch_transforms_active():
            self.recording.rng[path] = torch.random.get_rng_state()
            self.recording.inputs[path] = (_detached(args), _detached(frame.kwargs))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self._stack or self._stack[-1].module is not module:
            return
        frame = self._stack.pop()
        if frame.site and frame.key is not None:
            self._keep_version(frame.key, output)
        if frame.tape is not None:
            frame.tape.end(output)
            if frame.path in self.recording.inputs:
                self.recording.outputs[frame.path] = _detached(output)
        if frame.evaluation is not None:
            frame.evaluation.made += _tensors_in(output)
            return
        parent = self._stack[-1] if self._stack else None
        if parent is not None and parent.open_tape is not None:
            node = parent.open_tape.module(self._target(parent, frame), args, frame.kwargs, output)
            if frame.site and frame.key is not None:
                node.meta["dcs_key"] = frame.key
            elif frame.path != "?":
                node.meta["dcs_paths"] = tuple(self._places.tree.paths[id(frame.module)])

    def _target(self, parent: _Frame, frame: _Frame) -> str:
        if frame.path == "?":
            return type(frame.module).__name__
        for path in self._places.tree.paths[id(frame.module)]:
            if parent.path == "" or path.startswith((f"{parent.path}.", f"{parent.path}[")):
                return path[len(parent.path) :].lstrip(".")
        return frame.path

    # -- sites -------------------------------------------------------------------------------------------------------

    def _module_key(self, module: nn.Module, depth: int) -> Key | None:
        """Choose the slot through which a module was called: the nearest caller that holds it."""
        slots = self._places.slots_of(module)
        for caller in reversed(self._stack[:depth]):
            held = [slot for slot in slots if self._places.belongs_to(slot, caller.path)]
            if held:
                return self._places.slot_key(self._used(caller, module, held, _outside_call(sys._getframe(2))))
        return self._places.slot_key(slots[0]) if slots else None

    def _used(self, caller: _Frame, value: Any, slots: list[Slot], frame: types.FrameType | None) -> Slot:
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
        origin = origin_of(_outside_call(sys._getframe(2)))  # made on the fly: nn.Softplus()(x)
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
        node = None if top is None else _running_node(top.module, origin.frames[0] if origin.frames else None)
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

    # -- torch functions -------------------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Any, types_: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.busy:
            return func(*args, **kwargs)
        top = self._stack[-1] if self._stack else None
        if isinstance(func, torch._ops.HigherOrderOperator):
            unfolded = unfold(func, args)
            if unfolded is not None:
                with again(self):
                    return unfolded()
        compound = place = evaluation = None
        if top is not None and not top.site:
            if isinstance(top.module, fx.GraphModule):
                running = self._running(top)
                if running is not None:
                    return self._node_call(top, *running, func, args, kwargs)
            compound = self._places.compound_frame(sys._getframe(1))
            if compound is not None and self._idioms.are_in(compound, self._places):
                compound = None
            place = self._idioms.of(sys._getframe(1)) if func not in _OURS else None
        if place is not None and is_part_of(compound, place[0]):
            place = None
        if place is not None and place[1].idiom is not None:
            evaluation = self._evaluation(place[0], place[1].idiom)
        if place is not None and evaluation is not None:
            applied = application_around(sys._getframe(1), place[0]) if place[1].is_whole else None
            if applied is not None:
                return self._applied_call(applied, place, evaluation, func, args, kwargs)
            result = self._idiom_call(place, evaluation, func, args, kwargs)
            self._note_source(place, result)
            return result
        if compound is not None:
            return self._compound_call(compound, func, args, kwargs)
        match = _match(func)
        key = self._site_of(func, match) if match is not None else None
        self.busy = func in REPLACED  # what a new activation does inside is not the model's doing
        try:
            result = self._run(key or self._whole(func), func, args, kwargs)
        finally:
            self.busy = False
        if top is not None and top.open_tape is not None:
            top.open_tape.call(func, args, kwargs, result, key, sys._getframe(1))
        if place is not None and user_frame(sys._getframe(1)) is place[0]:
            self._note_source(place, result)
        return result

    # -- idioms ------------------------------------------------------------------------------------------------------

    def _evaluation(self, frame: types.FrameType, idiom: Idiom) -> Evaluation | None:
        """Return the evaluation of an idiom that is in progress; None where no module's method is on the way to it."""
        known = self._evaluations.get((frame, idiom))
        if known is None:
            origin = origin_of(frame)
            owner = None if origin.owner is None else self._places.tree.path_of(origin.owner)
            if owner is None or not origin.steps:
                return None
            last = replace(origin.steps[-1], end=idiom.spans[0][2:], written=idiom.spans)
            known = Evaluation(call_key(owner, last), (*origin.steps[:-1], last))
            self._evaluations[frame, idiom] = known
        return known

    def idiom_key(self, frame: types.FrameType) -> Key | None:
        """Return the key of the idiom that is a call in progress, with all that it does."""
        place = self._idioms.of(frame)
        if place is None or place[1].idiom is None or not place[1].is_whole:
            return None
        evaluation = self._evaluation(place[0], place[1].idiom)
        return None if evaluation is None else evaluation.key

    def _note_source(self, place: tuple[types.FrameType, Position], result: Any) -> None:
        """Keep the value of an operation that makes an idiom's source."""
        frame, position = place
        evaluation = None if position.source_of is None else self._evaluation(frame, position.source_of)
        if evaluation is not None:
            evaluation.source = _tensors_in(result)

    def _begins(self, evaluation: Evaluation, args: Any) -> None:
        if not evaluation.source:
            evaluation.source = [t for t in _tensors_in(args) if all(t is not made for made in evaluation.made)]

    def _last_of(self, evaluation: Evaluation, func: Any, args: Any, kwargs: Any) -> Any:
        """Run the operation that makes an idiom's value."""
        return self._run(evaluation.key, func, args, kwargs)

    def _idiom_call(
        self, place: tuple[types.FrameType, Position], evaluation: Evaluation, func: Any, args: Any, kwargs: Any
    ) -> Any:
        """Run one operation of an idiom; with the last one the idiom has run, and is one node."""
        frame, position = place
        idiom = position.idiom
        assert idiom is not None
        if position.is_whole:
            self._begins(evaluation, (args, kwargs))
            result = self._last_of(evaluation, func, args, kwargs)
        else:
            result = self._run(evaluation.key, func, args, kwargs)
        made = _tensors_in(result)
        if made:  # not so for x.dtype
            self._begins(evaluation, (args, kwargs))
            evaluation.made += made
        if not evaluation.made:
            del self._evaluations[frame, idiom]
        if position.is_whole and made:
            self._ran(place, evaluation)
            tape = self._stack[-1].open_tape
            if tape is not None:
                node = tape.compound(idiom.match.operator.name, evaluation.source)
                node.meta["dcs_key"] = evaluation.key
                tape.own_all(result, node)
        return result

    def _applied_call(self, applied: Any, place: Any, evaluation: Evaluation, func: Any, args: Any, kwargs: Any) -> Any:
        """Run one operation of an autograd.Function that is an idiom with the other arguments that it is given."""
        frame, cls, given = applied
        top = self._stack[-1]
        if frame not in self._compounds:
            self._ran(place, evaluation)
            self.recording.functions[evaluation.key] = cls.apply
            node = None if top.open_tape is None else top.open_tape.compound(cls.__name__, given)
            if node is not None:
                node.meta["dcs_key"] = evaluation.key
            self._compounds[frame] = (evaluation.key, node)
        key, node = self._compounds[frame]
        result = self._run(key, func, args, kwargs)
        if node is not None and top.open_tape is not None:
            top.open_tape.own_all(result, node)
        return result

    def _ran(self, place: tuple[types.FrameType, Position], evaluation: Evaluation) -> None:
        """Count an idiom that has run."""
        frame, position = place
        assert position.idiom is not None
        self._evaluations.pop((frame, position.idiom), None)
        event = self._count(evaluation.key, position.idiom.match, "idiom")
        event.chains.add(evaluation.steps)
        event.file, event.line = short_file(frame.f_code.co_filename), position.idiom.spans[0][2]

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

    def _running(self, top: _Frame) -> tuple[types.FrameType, Occurrence, bool] | None:
        """Return the frame of a GraphModule's code, the occurrence that it is at, and whether it is at its books only."""
        frame = _code_of_graph(top.module, sys._getframe(2))
        name = _running_node(top.module, frame)
        if frame is None or name is None or top.path == "?":
            return None
        sites = self._places.graph(top.path)
        occurrence = sites.by_node.get(name)
        if occurrence is not None:
            return frame, occurrence, False
        return (frame, sites.sides[name], True) if name in sites.sides else None

    def _node_call(
        self,
        top: _Frame,
        frame: types.FrameType,
        occurrence: Occurrence,
        aside: bool,
        func: Any,
        args: Any,
        kwargs: Any,
    ) -> Any:
        """Show all nodes of an occurrence as one; what a new activation does inside is not the model's doing."""
        self.busy = occurrence.new
        try:
            if aside:
                return self._run(occurrence.key, func, args, kwargs)
            token = (frame, occurrence)
            if token not in self._applied:
                node = None
                if top.open_tape is not None:
                    given = frame.f_locals.get(occurrence.source.name)
                    node = top.open_tape.compound(occurrence.result.name, (given, args, kwargs))
                    node.meta["dcs_new" if occurrence.new else "dcs_key"] = occurrence.key or True
                if not occurrence.new and occurrence.match is not None and occurrence.key is not None:
                    self._count(occurrence.key, occurrence.match, "node")
                self._applied[token] = node
            result = self._run(None if occurrence.new else occurrence.key, func, args, kwargs)
            shown = self._applied[token]
            if shown is not None and top.open_tape is not None:
                top.open_tape.own_all(result, shown)
                if isinstance(result, tuple):  # a kernel with statistics: what is used is its first value
                    top.open_tape.own_all(result[0], shown)
            return result
        finally:
            self.busy = False

    def _compound_call(self, frame: types.FrameType, func: Any, args: Any, kwargs: Any) -> Any:
        """Show everything that one call of a recognised function does as one node."""
        top = self._stack[-1]
        if frame not in self._compounds:
            key = self._site_of(func, None)
            if key is not None and key[0] == "call":
                self.recording.functions[key] = self._places.function_of(frame)
            node = None
            # Where the call is replaced, what counts is where the call is written: vmap(f)(x) is outside of vmap.
            place = user_frame(frame.f_back) if key is not None and key[0] == "call" else frame
            if top.tape is not None and not is_below_transform(place):
                applied = application_around(sys._getframe(1), frame)  # below vmap, forward gets other tensors
                node = top.tape.compound(frame.f_code.co_name, args if applied is None else applied[2])
                if key is not None:
                    node.meta["dcs_key"] = key
            self._compounds[frame] = (key, node)
        key, node = self._compounds[frame]
        result = self._run(key, func, args, kwargs)
        if node is not None and top.open_tape is not None:
            top.open_tape.own_all(result, node)
        return result


# What takes an idiom's place in an edited model stands where the idiom stood.
_OURS = REPLACED | {irelu, pass_on}


def _tensors_in(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _match(func: Any) -> Match | None:
    if func is irelu:
        return None
    try:
        return match_function(func)
    except TypeError:
        return None


def _keywords() -> dict[str, Any]:
    """Return the keyword arguments of the module call whose pre-hook runs: a global hook is not given them."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name not in ("_call_impl", "_wrapped_call_impl"):
        frame = frame.f_back
    return dict(frame.f_locals.get("kwargs", {})) if frame is not None else {}


def _outside_call(frame: types.FrameType | None) -> types.FrameType | None:
    """Return the frame that called the module whose pre-hook runs now."""
    while frame is not None and frame.f_code.co_name not in ("_call_impl", "_wrapped_call_impl"):
        frame = frame.f_back
    while frame is not None and frame.f_code.co_name in ("_call_impl", "_wrapped_call_impl"):
        frame = frame.f_back
    return frame


def _code_of_graph(module: nn.Module, frame: types.FrameType | None) -> types.FrameType | None:
    """Return the frame of a GraphModule's generated code, from which something was called."""
    while frame is not None and frame.f_code not in BOUNDARIES:
        if frame.f_code.co_name == "forward" and frame.f_locals.get("self") is module:
            return frame
        frame = frame.f_back
    return None


def _running_node(module: nn.Module, frame: types.FrameType | None) -> str | None:
    """Return the name of the node that a GraphModule's generated code, one line a node, is at."""
    if not isinstance(module, fx.GraphModule) or frame is None:
        return None
    if frame.f_code.co_name != "forward" or frame.f_locals.get("self") is not module:
        return None
    line = _ASSIGNMENT.match(linecache.getline(frame.f_code.co_filename, frame.f_lineno))
    return None if line is None else line[1]


def _detached(value: Any) -> Any:
    """Copy the tensors of a value: the model may go on to change them in place."""
    return pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone().requires_grad_(t.requires_grad), value)


@contextlib.contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Run with a fixed random state and leave the caller's as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change the generators of other devices, too
        yield
