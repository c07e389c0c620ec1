"""A pickled and restored model gives the same bits."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import nn

from dcsurgery.checks.outputs import equal, tensors_of
from dcsurgery.example_inputs import call, preserved
from dcsurgery.report import Check

__all__ = ["check_reload"]


def check_reload(edited: nn.Module, example_inputs: Any) -> Check:
    """Compare a pickled and restored model's outputs with the model's, bit for bit."""
    stream = io.BytesIO()
    try:
        torch.save(edited, stream)
        stream.seek(0)
        restored = torch.load(stream, weights_only=False)  # our own bytes of a moment ago
    except Exception as error:  # noqa: BLE001 - user classes pickle in any way
        text = (str(error).splitlines() or [""])[0]
        return Check(
            "reload", "skip", reason=f"the model's class cannot be pickled ({type(error).__name__}: {text[:100]})"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        with preserved(edited):
            first = list(tensors_of(call(edited, example_inputs)))
        torch.default_generator.manual_seed(0)
        second = list(tensors_of(call(restored, example_inputs)))
    same = len(first) == len(second) and all(equal(a, b) for a, b in zip(first, second, strict=True))
    return Check(
        "reload", "pass" if same else "fail", 0 if same else 1, 0, "" if same else "outputs differ after reload"
    )
