"""Record one run: an fx graph per module, and every activation and normalization that ran, with its place.

A `TorchFunctionMode` sees each call a model makes as the user wrote it (``F.silu``, ``x.relu_()``, ``nn.SiLU()``),
whatever control flow led there. Children appear as leaves, as in a symbolic trace.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import fx, nn
from torch.nn.modules import module as nn_module

from dcsurgery.activations import irelu
from dcsurgery.calls import pass_on
from dcsurgery.capture.applied import application_around
from dcsurgery.capture.call_frames import code_of_graph, keywords, outside_call, running_node
from dcsurgery.capture.control_flow import again, unfold
from dcsurgery.capture.graphs import REPLACED
from dcsurgery.capture.nodes import Occurrence
from dcsurgery.capture.origin import is_below_transform, user_frame
from dcsurgery.capture.recorded import Frame, detached, tensors_in
from dcsurgery.capture.recording_idioms import IdiomRecorder
from dcsurgery.capture.tape import Tape
from dcsurgery.capture.written import is_part_of
from dcsurgery.catalog import Match, match_function
from dcsurgery.example_inputs import preserved
from dcsurgery.recognition import is_probing
from dcsurgery.torchscript.fragments import functions_open

__all__ = ["Recorder"]


class Recorder(IdiomRecorder):
    """Context manager: record the run of ``model`` inside it into ``recording``; parameters as of `SiteRecorder`."""

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
        frame = Frame(module, path if path is not None else "?", True, keywords(), site=bool(top and top.site))
        if frame.site and top is not None:
            frame.key = top.key
        if match is not None:
            place = self._idioms.of(outside_call(sys._getframe(1)))
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

    def _begin(self, frame: Frame, path: str, args: tuple[Any, ...]) -> None:
        frame.tape = Tape(path, self._parameters, self._alive)
        self.recording.graphs[path] = frame.tape.graph
        frame.tape.begin(args, frame.kwargs)
        # What vmap and grad hand down are layers around tensors: they mean nothing outside.
        if self._keep_inputs and not torch._C._are_functorch_transforms_active():
            self.recording.rng[path] = torch.random.get_rng_state()
            self.recording.inputs[path] = (detached(args), detached(frame.kwargs))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self._stack or self._stack[-1].module is not module:
            return
        frame = self._stack.pop()
        if frame.site and frame.key is not None:
            self._keep_version(frame.key, output)
        if frame.tape is not None:
            frame.tape.end(output)
            if frame.path in self.recording.inputs:
                self.recording.outputs[frame.path] = detached(output)
        if frame.evaluation is not None:
            frame.evaluation.made += tensors_in(output)
            return
        parent = self._stack[-1] if self._stack else None
        if parent is not None and parent.open_tape is not None:
            node = parent.open_tape.module(self._target(parent, frame), args, frame.kwargs, output)
            if frame.site and frame.key is not None:
                node.meta["dcs_key"] = frame.key
            elif frame.path != "?":
                node.meta["dcs_paths"] = tuple(self._places.tree.paths[id(frame.module)])

    def _target(self, parent: Frame, frame: Frame) -> str:
        if frame.path == "?":
            return type(frame.module).__name__
        for path in self._places.tree.paths[id(frame.module)]:
            if parent.path == "" or path.startswith((f"{parent.path}.", f"{parent.path}[")):
                return path[len(parent.path) :].lstrip(".")
        return frame.path

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

    def _running(self, top: Frame) -> tuple[types.FrameType, Occurrence, bool] | None:
        """Return the frame of a GraphModule's code, the occurrence that it is at, and whether it is at its books only."""
        frame = code_of_graph(top.module, sys._getframe(2))
        name = running_node(top.module, frame)
        if frame is None or name is None or top.path == "?":
            return None
        sites = self._places.graph(top.path)
        occurrence = sites.by_node.get(name)
        if occurrence is not None:
            return frame, occurrence, False
        return (frame, sites.sides[name], True) if name in sites.sides else None

    def _node_call(
        self,
        top: Frame,
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


def _match(func: Any) -> Match | None:
    if func is irelu:
        return None
    try:
        return match_function(func)
    except TypeError:
        return None
