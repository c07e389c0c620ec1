"""A pickled and restored model gives the same bits."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcsurgery.checks.failing import first_line
from dcsurgery.checks.outputs import equal, tensors_of
from dcsurgery.errors import BadInput
from dcsurgery.example_inputs import call, preserved
from dcsurgery.files.proof import compare, needs_this_process
from dcsurgery.fresh_process import FreshProcess
from dcsurgery.report import Check
from dcsurgery.subclass import original_class

__all__ = ["check_reload", "check_reload_elsewhere", "reader_for"]


def check_reload(edited: nn.Module, example_inputs: Any) -> Check:
    """Compare a pickled and restored model's outputs with the model's, bit for bit."""
    stream = io.BytesIO()
    try:
        torch.save(edited, stream)
        stream.seek(0)
        restored = torch.load(stream, weights_only=False)  # our own bytes of a moment ago
    except Exception as error:  # noqa: BLE001 - user classes pickle in any way
        return Check("reload", "skip", reason=f"the model's class cannot be pickled ({first_line(error)})")
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


def reader_for(edited: nn.Module) -> FreshProcess | None:
    """Start a process that will read a model, None where no other process can import its classes."""
    if needs_this_process(edited, None):
        return None
    process = FreshProcess().start()
    process.prepare({original_class(module).__module__ for module in edited.modules()})
    return process


def check_reload_elsewhere(edited: nn.Module, example_inputs: Any, process: FreshProcess | None) -> Check:
    """Save a model, load it in a process that knows nothing of this one, and compare tensors, classes and outputs."""
    if process is None:
        check = check_reload(edited, example_inputs)
        reason = "its classes belong to a script, so that no other process can import them; it was loaded in this one"
        return check if check.status == "fail" else Check("reload", "skip", reason=check.reason or reason)
    with tempfile.TemporaryDirectory(prefix="dcsurgery-") as folder:
        path = Path(folder) / "edited.pt"
        try:
            torch.save(edited, path)
        except Exception as error:  # noqa: BLE001 - user classes pickle in any way
            return Check("reload", "skip", reason=f"the model's class cannot be pickled ({first_line(error)})")
        try:
            compare(edited, path, path, "module", None, example_inputs, process)
        except BadInput as error:
            return Check("reload", "fail", 1, 0, error.message)
    return Check("reload", "pass", 0, 0, "a fresh process loads the same tensors, classes and outputs")
