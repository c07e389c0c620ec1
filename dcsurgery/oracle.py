"""Watch the operators that really execute, below autograd, and tell which site each belongs to.

A dispatch mode sees every kernel, also those called from C++, TorchScript and inside an ``autograd.Function``. Together
with the recorder it attributes each activation and normalization kernel to a site of the census; what it cannot
attribute was missed by capture.
"""

from __future__ import annotations

import contextlib
import copy
import os
import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dcsurgery.capture.graphs import Key
from dcsurgery.capture.origin import is_library_file, short_file
from dcsurgery.capture.places import Places
from dcsurgery.capture.recorded import Recording
from dcsurgery.capture.recording import Recorder
from dcsurgery.catalog import FUSED_KERNELS, Match, match_kernel
from dcsurgery.example_inputs import call, preserved
from dcsurgery.seeding import seeded

__all__ = ["Kernel", "Watched", "fused_kernels", "kernels_of", "watch"]

_ACTIVATIONS = str(Path(__file__).parent / "activations") + os.sep


@dataclass(frozen=True)
class Kernel:
    """One kind of kernel at one place."""

    name: str
    path: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.name} in {self.path or 'the model'} at {self.file}:{self.line}"


@dataclass
class Watched:
    """What one run executed.

    Attributes
    ----------
    by_site
        Kernels of each site.
    unknown
        Activation, gate and norm kernels that belong to no site of the census.
    output
        What the model returned.
    recording
        The recorded graphs of the same run.
    kernels
        Every kernel of the forward run, catalogued or not.
    """

    by_site: dict[Key, Counter[str]] = field(default_factory=dict)
    unknown: Counter[Kernel] = field(default_factory=Counter)
    output: Any = None
    recording: Recording = field(default_factory=Recording)
    kernels: Counter[str] = field(default_factory=Counter)


class _KernelWatch(TorchDispatchMode):
    def __init__(self, recorder: Recorder, watched: Watched) -> None:
        super().__init__()
        self._recorder = recorder
        self._watched = watched

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch._C._current_autograd_node() is None:
            name = func._schema.name.partition("::")[2]
            self._watched.kernels[name] += 1
            operator = None if self._recorder.busy else match_kernel(name)
            fused = not self._recorder.busy and name.rstrip("_") in FUSED_KERNELS
            if operator is not None or fused:
                self._see(name, None if operator is None else operator.name)
        return func(*args, **(kwargs or {}))

    def _see(self, name: str, operator: str | None) -> None:
        key = self._recorder.current_site(operator)
        if key is not None:
            self._watched.by_site.setdefault(key, Counter())[name] += 1
            return
        file, line, replaced = _place(sys._getframe(2))
        if not replaced:
            self._watched.unknown[Kernel(name, self._recorder.current_path(), file, line)] += 1


def _place(frame: Any) -> tuple[str, int, bool]:
    """Return file and line of the nearest user code, and whether one of our own activations runs."""
    place: tuple[str, int] | None = None
    while frame is not None:
        filename = frame.f_code.co_filename
        if filename.startswith(_ACTIVATIONS):
            return "", 0, True
        if place is None and not is_library_file(filename):
            place = (short_file(filename), frame.f_lineno)
        if frame.f_code is nn.Module._call_impl.__code__ and place is not None:
            break
        frame = frame.f_back
    return (*(place or ("?", 0)), False)


class _OpenedPlaces(Places):
    """Places of an edited model: what was opened in the original is opened again.

    A ``BatchNormAct2d`` without its norm behaves like its activation, and would pass for one as a whole.
    """

    def __init__(self, model: nn.Module, opened: Collection[str]) -> None:
        self._opened = opened
        super().__init__(model)

    def match_of(self, value: Any) -> Match | None:
        if isinstance(value, nn.Module) and self.tree.path_of(value) in self._opened:
            return None
        return super().match_of(value)


def watch(model: nn.Module, example_inputs: Any, opened: Collection[str] = ()) -> Watched:
    """Run a model once and report every activation and norm kernel; buffers are put back.

    Parameters
    ----------
    model
        The model, in the mode to be watched.
    example_inputs
        See `take_census`.
    opened
        Paths of modules that are no sites as a whole, whatever they behave like.
    """
    watched = Watched()
    recorder = Recorder(model, _OpenedPlaces(model, opened), keep_inputs=False)
    with seeded(), recorder, _KernelWatch(recorder, watched):
        watched.output = call(model, example_inputs)
    watched.recording = recorder.recording
    return watched


def kernels_of(activation: Any) -> frozenset[str]:
    """Return the kernels that a user's own activation runs: at the sites where it was put, these are no residue."""
    if not isinstance(activation, nn.Module):
        return frozenset()
    module = copy.deepcopy(activation)
    tensor = next(module.parameters(), torch.ones(()))
    found: set[str] = set()

    class Collect(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            found.add(func._schema.name.partition("::")[2])
            return func(*args, **(kwargs or {}))

    # One with a parameter per channel (PReLU) wants that many.
    for width in sorted({2, *(p.numel() for p in module.parameters())}):
        with seeded(), torch.no_grad(), Collect(), contextlib.suppress(Exception):
            module(torch.ones(2, width, dtype=tensor.dtype, device=tensor.device))
    return frozenset(found)


def fused_kernels(model: nn.Module, example_inputs: Any) -> Counter[str]:
    """Run a model without gradients and without any function mode; count the fused kernels that hide activations.

    Fast paths are taken in such runs only: a function mode or a gradient switches them off.
    """
    found: Counter[str] = Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            name = func._schema.name.partition("::")[2].rstrip("_")
            if name in FUSED_KERNELS:
                found[name] += 1
            return func(*args, **(kwargs or {}))

    with preserved(model), seeded(), torch.no_grad(), Count():
        call(model, example_inputs)
    return found
