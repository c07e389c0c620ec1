"""Activations that are written out, followed from their first operation to the last while the model runs."""

from __future__ import annotations

import types
from dataclasses import replace
from typing import Any

from dcsurgery.capture.graphs import Key, call_key
from dcsurgery.capture.origin import origin_of, short_file
from dcsurgery.capture.recorded import Evaluation, tensors_in
from dcsurgery.capture.recording_sites import SiteRecorder
from dcsurgery.capture.written import Position
from dcsurgery.idioms import Idiom

__all__ = ["IdiomRecorder"]


class IdiomRecorder(SiteRecorder):
    """A recorder that knows which evaluation of an idiom an operation is a part of."""

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
            evaluation.source = tensors_in(result)

    def _begins(self, evaluation: Evaluation, args: Any) -> None:
        if not evaluation.source:
            evaluation.source = [t for t in tensors_in(args) if all(t is not made for made in evaluation.made)]

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
        made = tensors_in(result)
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
