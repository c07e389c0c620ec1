"""Run a model on its example inputs, or say in what way they do not fit."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from dcsurgery.capture.recorded import Recording
from dcsurgery.copying import copied
from dcsurgery.example_inputs import call, preserved, unfit
from dcsurgery.oracle import Watched, watch
from dcsurgery.plans import Edit
from dcsurgery.seeding import seeded
from dcsurgery.witness import Witness

__all__ = ["run", "watched", "watched_with_new_values"]


def run(model: nn.Module, example_inputs: Any) -> Any:
    """Return what a model returns on its example inputs."""
    try:
        with preserved(model), seeded():
            return call(model, example_inputs)
    except Exception as error:
        raise unfit(model, example_inputs, error) from error


def watched(model: nn.Module, example_inputs: Any, opened: Collection[str] = ()) -> Watched:
    """Return what a model executes on its example inputs, see `watch`."""
    try:
        return watch(model, example_inputs, opened)
    except Exception as error:
        raise unfit(model, example_inputs, error) from error


def watched_with_new_values(
    original: nn.Module, edits: Collection[Edit], recording: Recording, example_inputs: Any
) -> Watched | None:
    """Return what the original executes with the kernels of the value witness; None where that cannot stand in everywhere."""
    model = copied(original)
    try:
        with Witness(model, edits, recording, example_inputs) as witness:
            found = watch(model, example_inputs)
    except Exception:  # noqa: BLE001 - a second opinion; the first one stands
        return None
    return None if witness.uncovered else found
