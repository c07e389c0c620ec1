"""The plans that a model was edited by, kept on the model itself: a check needs to know what should be there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from dcsurgery.plans import Edit, Plan

__all__ = ["Record", "note", "recorded"]

_NAME = "_dcsurgery_record"


@dataclass(slots=True)
class Record:
    """The plans, in the order in which they were applied; pickled and copied with the model.

    It has slots and no ``__dict__``, so that nobody who looks for modules in a model's attributes looks into it.
    """

    plans: tuple[Plan, ...] = ()


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
