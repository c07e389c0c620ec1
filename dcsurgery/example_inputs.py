"""Example inputs: a tuple (arguments), a dict (keyword arguments), or any object (the one argument)."""

from __future__ import annotations

import collections
import contextlib
import copy
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from dcsurgery.errors import BadInput

__all__ = ["arguments", "call", "converted", "describe", "eagerly", "fresh", "preserved", "unfit"]

# What a batch in OCP's layout has.
_OCP = ("atomic_numbers", "natoms", "cell")


def arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split example inputs into positional and keyword arguments."""
    if isinstance(example_inputs, tuple):
        return example_inputs, {}
    if isinstance(example_inputs, dict):
        return (), example_inputs
    return (example_inputs,), {}


def fresh(value: Any) -> Any:
    """Return a copy of inputs that a model may change: tensors become new leaves of the same ``requires_grad``."""

    def copied(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.detach().clone().requires_grad_(leaf.requires_grad)
        return copy.copy(leaf) if hasattr(leaf, "__dict__") and not callable(leaf) else leaf

    if hasattr(value, "apply") and hasattr(value, "keys"):  # a PyG Data or Batch
        return value.clone()
    return pytree.tree_map(lambda leaf: fresh(leaf) if hasattr(leaf, "keys") else copied(leaf), value)


def converted(value: Any, dtype: torch.dtype) -> Any:
    """Return inputs with every floating tensor in ``dtype``.

    The ``cell`` of a batch in OCP's layout keeps its own: fairchem's neighbour search takes no other than float32.
    """

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.to(dtype) if leaf.is_floating_point() else leaf
        if hasattr(leaf, "apply") and hasattr(leaf, "keys"):
            changed = leaf.clone().apply(lambda t: t.to(dtype) if t.is_floating_point() else t)
            if all(hasattr(leaf, key) for key in _OCP):
                changed.cell = leaf.cell
            return changed
        return leaf

    return pytree.tree_map(convert, value)


def call(model: nn.Module, example_inputs: Any) -> Any:
    """Run a model on (a copy of) example inputs, what is compiled in it as plain Python."""
    args, kwargs = arguments(fresh(example_inputs))
    with eagerly():
        return model(*args, **kwargs)


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Run what ``torch.compile`` wraps as plain Python: a compiled frame shows neither modules nor lines."""
    if "torch._dynamo" not in sys.modules:  # then nothing is compiled, and the import would take a second
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks", UserWarning)
        yield


_TABLES = (dict, collections.OrderedDict, collections.defaultdict)
_LISTS = (list, set, collections.deque)


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Let a model run and put back what it keeps in attributes afterwards: caches, counters, last outputs.

    The containers among them get their contents back, too. Buffers are copies meanwhile, so that not even the version
    counters of the model's own move.
    """
    tables: list[dict[Any, Any]] = [vars(m) for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    tables += [value for table in tables for value in table.values() if type(value) in _TABLES]
    lists = [value for table in tables for value in table.values() if type(value) in _LISTS]
    before = [(table, dict(table)) for table in tables]
    contents = [(value, copy.copy(value)) for value in lists]
    copies: dict[int, torch.Tensor] = {}  # a buffer may have several owners
    for module in model.modules():
        for name, buffer in module._buffers.items() if not isinstance(module, torch.jit.ScriptModule) else ():
            if buffer is not None:
                module._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
    try:
        yield
    finally:
        for table, entries in before:
            for name in [name for name in table if name not in entries]:
                del table[name]
            table.update({name: value for name, value in entries.items() if table.get(name, before) is not value})
        for value, items in contents:
            if len(value) != len(items) or any(a is not b for a, b in zip(value, items, strict=True)):
                value.clear()
                (value.update if isinstance(value, set) else value.extend)(items)


def describe(value: Any) -> str:
    """Return inputs as ``(float32[4, 3], int64[4])``."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {describe(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(describe(v) for v in value) + ")"
    return type(value).__name__


def unfit(model: nn.Module, example_inputs: Any, error: Exception) -> BadInput:
    """Return the error for a forward that raised on the example inputs."""
    traceback, place = error.__traceback__, ""
    while traceback is not None:
        place = f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    text = (str(error).strip().splitlines() or [""])[0]
    return BadInput(
        f"{type(model).__name__}.forward raised {type(error).__name__}: {text[:200]}",
        where=place or None,
        fix=f"give example inputs that it accepts; these were {describe(example_inputs)}",
    )
