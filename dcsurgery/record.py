"""The plans that a model was edited by, kept on the model itself: a check needs to know what should be there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from dcsurgery.errors import BadInput
from dcsurgery.plans import Edit, Plan

__all__ = ["Record", "note", "recorded"]

_NAME = "_dcsurgery_record"


class Record:
    """The plans, in the order in which they were applied; pickled and copied with the model.

    It has slots and no ``__dict__``, so that nobody who looks for modules in a model's attributes looks into it. In a file
    it is a text, which is read in no time, also by a reader that looks at every object, and taken apart when somebody asks.
    """

    __slots__ = ("_plans", "_text")

    def __init__(self, plans: tuple[Plan, ...] = ()) -> None:
        self._plans: tuple[Plan, ...] | None = plans
        self._text: str | None = None

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans."""
        if self._plans is None:
            try:
                found = json.loads(self._text or "")
            except ValueError:
                found = None
            if type(found) is not list:
                raise _damaged()
            self._plans = tuple(Plan.from_dict(raw, source="the model's record") for raw in found)
        return self._plans

    def __getstate__(self) -> dict[str, Any]:
        if self._text is None and self._plans is not None and all(map(_is_text, self._plans)):
            self._text = json.dumps([plan.to_dict() for plan in self._plans])
        return {"plans": self._plans} if self._text is None else {"text": self._text}

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple):  # as dcsurgery wrote it at first: (None, {"plans": …})
            state = state[1]
        self._plans, self._text = state.get("plans"), state.get("text")
        if self._plans is None and not isinstance(self._text, str):
            raise _damaged()


def _damaged() -> BadInput:
    return BadInput("its record of edits is damaged", fix="copy or save the file again")


def _is_text(plan: Plan) -> bool:
    """Say whether JSON gives a plan back as it is."""
    return _is_plain(plan.options) and all(_is_plain(edit.settings) for edit in plan.edits)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


def note(model: nn.Module, plan: Plan) -> Callable[[], None]:
    """Add a plan to a model's record; return the function that takes it off again.

    A user's own activation module is not kept: the model has it where it was put.
    """
    before = vars(model).get(_NAME)
    edits = tuple(_light(edit) for edit in plan.edits)
    vars(model)[_NAME] = Record((*recorded(model), replace(plan, edits=edits)))

    def undo() -> None:
        if before is None:
            vars(model).pop(_NAME, None)
        else:
            vars(model)[_NAME] = before

    return undo


def recorded(model: nn.Module) -> tuple[Plan, ...]:
    """Return the plans that a model was edited by, as far as it knows."""
    record = vars(model).get(_NAME)
    return record.plans if isinstance(record, Record) else ()


def _light(edit: Edit) -> Edit:
    if "module" not in edit.settings:
        return edit
    return replace(edit, settings={name: value for name, value in edit.settings.items() if name != "module"})
