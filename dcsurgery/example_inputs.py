"""Example inputs: a tuple (arguments), a dict (keyword arguments), or any object (the one argument)."""

from __future__ import annotations

import collections
import contextlib
import copy
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from dcsurgery.errors import BadInput
from dcsurgery.memory import is_memory_error
from dcsurgery.tree import Tree

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
    # Those in plain lists and dicts, too: they count and remember like the others.
    modules = [m for m in Tree.of(model).modules.values() if not isinstance(m, torch.jit.ScriptModule)]
    tables: list[dict[Any, Any]] = [vars(module) for module in modules]
    tables += [value for table in tables for value in table.values() if type(value) in _TABLES]
    lists = [value for table in tables for value in table.values() if type(value) in _LISTS]
    before = [(table, dict(table)) for table in tables]
    contents = [(value, copy.copy(value)) for value in lists]
    copies: dict[int, torch.Tensor] = {}  # a buffer may have several owners
    for module in modules:
        for name, buffer in module._buffers.items():
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
    """Return the error for a forward that raised on the example inputs: what was expected, and what was given."""
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        frames.append((traceback.tb_frame, traceback.tb_lineno))
        traceback = traceback.tb_next
    users = [f for f in frames if not f[0].f_code.co_filename.startswith(_LIBRARIES)] or frames
    where = f"{users[-1][0].f_code.co_filename}:{users[-1][1]}" if users else None
    text = (str(error).strip().splitlines() or [""])[0]
    told = f"{type(model).__name__}.forward raised {type(error).__name__}: {text[:200]}"
    given = describe(example_inputs)
    if is_memory_error(error):
        return BadInput(f"not enough memory: {told}", where=where, fix=f"give smaller inputs; these were {given}")
    devices = _devices([*model.parameters(), *model.buffers()]), _devices(pytree.tree_leaves(example_inputs))
    if devices[0] and devices[1] and devices[0].isdisjoint(devices[1]):
        names = tuple(", ".join(sorted(found)) for found in devices)
        told, fix = (
            f"the model is on {names[0]}, the inputs are on {names[1]}: {told}",
            f"move the inputs to {names[0]}",
        )
        return BadInput(told, where=where, fix=fix)
    expected = next((e for frame, _ in reversed(frames) if (e := _expected(model, frame.f_locals))), "")
    fix = f"give example inputs that it accepts; these were {given}"
    return BadInput(f"{told}{expected}", where=where, fix=fix)


def _devices(values: list[Any]) -> set[str]:
    return {value.device.type for value in values if isinstance(value, torch.Tensor)}


_LIBRARIES = tuple(f"{Path(str(module.__file__)).parent}{os.sep}" for module in (torch, sys.modules[__package__]))

#: Attribute of a layer that says what it takes, and the dimension of its input that has to be that large.
_WIDTHS = (("in_features", -1), ("input_size", -1), ("in_channels", 1), ("num_features", 1), ("num_channels", 1))


def _expected(model: nn.Module, local: dict[str, Any]) -> str:
    """Say what the layer whose forward is running expects, empty where it is none or has what it expects."""
    layer = local.get("self")
    if not isinstance(layer, nn.Module):
        return ""
    given = next((v for name, v in local.items() if name != "self" and isinstance(v, torch.Tensor)), None)
    path = next((path for path, module in model.named_modules() if module is layer), "")
    for name, dimension in _WIDTHS:
        width = getattr(layer, name, None)
        if isinstance(width, int) and given is not None:
            if given.dim() > max(dimension, 0) and given.shape[dimension] == width:
                return ""
            shape = "[…, {}]" if dimension == -1 else "[batch, {}, …]"
            what = f"{path or 'the model'} ({type(layer).__name__})"
            return f"; {what} expects {shape.format(width)}, it was given {list(given.shape)}"
    return ""
