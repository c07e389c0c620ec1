"""The recorder of a witnessed run: it tells the witness where the run is, and lets it stand in for whole calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from dcsurgery.capture.graphs import Key
from dcsurgery.capture.places import Places
from dcsurgery.capture.recorded import Evaluation
from dcsurgery.capture.recording import Recorder

if TYPE_CHECKING:
    from dcsurgery.witness.witness import Witness

__all__ = ["WatchfulRecorder"]


class WatchfulRecorder(Recorder):
    """The recorder that tells the witness where the run is, and asks it before a function of several kernels runs."""

    def __init__(self, model: nn.Module, places: Places, witness: Witness) -> None:
        super().__init__(model, places, keep_inputs=False)
        self._witness = witness
        self.in_compound = False

    def _run(self, key: Key | None, func: Any, args: Any, kwargs: Any) -> Any:
        if not self.in_compound:
            stood_in, value = self._witness.whole(key, func, args, kwargs)
            if stood_in:
                return value
        return super()._run(key, func, args, kwargs)

    def _last_of(self, evaluation: Evaluation, func: Any, args: Any, kwargs: Any) -> Any:
        stood_in, value = self._witness.idiom(evaluation, func, args)
        return value if stood_in else super()._last_of(evaluation, func, args, kwargs)

    def _applied_call(self, *args: Any) -> Any:
        before, self.in_compound = self.in_compound, True
        try:
            return super()._applied_call(*args)
        finally:
            self.in_compound = before

    def _idiom_call(self, place: Any, evaluation: Evaluation, func: Any, args: Any, kwargs: Any) -> Any:
        before, self.in_compound = self.in_compound, True
        try:
            return super()._idiom_call(place, evaluation, func, args, kwargs)
        finally:
            self.in_compound = before

    def _compound_call(self, frame: Any, func: Any, args: Any, kwargs: Any) -> Any:
        before, self.in_compound = self.in_compound, True
        try:
            return super()._compound_call(frame, func, args, kwargs)
        finally:
            self.in_compound = before
