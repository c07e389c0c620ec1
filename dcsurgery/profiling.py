"""A second counter of kernels: torch's profiler, which sees what runs without any mode that could change it.

Modes switch fast paths off and make compiled parts run as plain Python; the profiler does neither. It tells no source
line, but the module path, since every module call is marked while it looks.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd import profiler_legacy
from torch.nn.modules import module as nn_module

from dcsurgery.catalog import FUSED_KERNELS, match_kernel
from dcsurgery.example_inputs import call, preserved
from dcsurgery.recognition import PROBING
from dcsurgery.seeding import seeded
from dcsurgery.tree import Tree

__all__ = ["profiled"]

_MARK = "dcsurgery module "
_BACKWARD = "autograd::engine"


def profiled(model: nn.Module, example_inputs: Any) -> Counter[tuple[str, str]]:
    """Run a model once, without gradients, and count catalogued and fused kernels of the forward run.

    Returns
    -------
    Counter
        ``(kernel, path of the module)``; of kernels inside each other, the innermost is counted.
    """
    with preserved(model), seeded(), torch.no_grad(), _marked(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The profiler before kineto: that one takes seconds to start and writes to stderr, and adds nothing here.
        with profiler_legacy.profile() as watcher:
            call(model, example_inputs)
    counted: Counter[tuple[str, str]] = Counter()
    for event in watcher.function_events:
        name = _catalogued(event.name)
        if name and (name in FUSED_KERNELS or not _contains_catalogued(event)):
            path = _path_of(event)
            if path is not None:
                counted[name, path] += 1
    return counted


@contextlib.contextmanager
def _marked(model: nn.Module) -> Iterator[None]:
    """Let the profiler see in which module it is."""
    tree = Tree.of(model)
    running: list[tuple[nn.Module, Any]] = []

    def enter(module: nn.Module, args: Any) -> None:
        del args
        path = tree.path_of(module)
        if path is not None:
            mark = torch.autograd.profiler.record_function(_MARK + path)
            mark.__enter__()
            running.append((module, mark))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        del args, output
        if running and running[-1][0] is module:
            running.pop()[1].__exit__(None, None, None)

    hooks = [
        nn_module.register_module_forward_pre_hook(enter),
        nn_module.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _catalogued(event: str) -> str:
    name = event.removeprefix("aten::").rstrip("_") if event.startswith("aten::") else ""
    return name if name and (match_kernel(name) is not None or name in FUSED_KERNELS) else ""


def _contains_catalogued(event: Any) -> bool:
    return any(_catalogued(child.name) or _contains_catalogued(child) for child in event.cpu_children)


def _path_of(event: Any) -> str | None:
    """Return the path of the module around an event, None for one of a backward pass, a probe or a fused kernel."""
    path: str | None = None
    parent = event.cpu_parent
    while parent is not None:
        if parent.name.startswith((_BACKWARD, PROBING)) or _catalogued(parent.name) in FUSED_KERNELS:
            return None
        if path is None and parent.name.startswith(_MARK):
            path = parent.name.removeprefix(_MARK)
        parent = parent.cpu_parent
    return path or ""
