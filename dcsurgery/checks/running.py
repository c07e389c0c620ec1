"""Run a model on its example inputs, or say in what way they do not fit."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from dcsurgery.capture.recording import seeded
from dcsurgery.example_inputs import call, preserved, unfit
from dcsurgery.oracle import Watched, watch

__all__ = ["run", "watched"]


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
