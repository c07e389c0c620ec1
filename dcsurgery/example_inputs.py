"""Example inputs: a tuple (arguments), a dict (keyword arguments), or any object (the one argument)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from dcsurgery.errors import BadInput

__all__ = ["arguments", "call", "converted", "describe", "fresh", "unfit"]


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
    """Return inputs with every floating tensor in ``dtype``."""

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.to(dtype) if leaf.is_floating_point() else leaf
        if hasattr(leaf, "apply") and hasattr(leaf, "keys"):
            return leaf.clone().apply(lambda t: t.to(dtype) if t.is_floating_point() else t)
        return leaf

    return pytree.tree_map(convert, value)


def call(model: nn.Module, example_inputs: Any) -> Any:
    """Run a model on (a copy of) example inputs."""
    args, kwargs = arguments(fresh(example_inputs))
    return model(*args, **kwargs)


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
