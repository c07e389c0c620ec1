"""A model's structure as one hash: what a plan is made for."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from dcsurgery.subclass import amendments_of, original_class

__all__ = ["fingerprint_of", "structure_of"]


def structure_of(model: nn.Module) -> tuple[str, ...]:
    """Return one line per module path and per tensor: class names, keys and shapes, not values or dtypes."""
    lines = []
    for path, module in model.named_modules(remove_duplicate=False):
        cls = original_class(module)
        amended = "".join(f" +{type(a).__name__}" for a in amendments_of(module))
        lines.append(f"module {path or '(model)'}: {cls.__module__}.{cls.__qualname__}{amended}")
        if isinstance(module, torch.fx.GraphModule):  # there the graph is the code
            steps = (f"{node.op} {_target(node)}" for node in module.graph.nodes if node.op != "get_attr")
            lines.append(f"graph {path or '(model)'}: {', '.join(steps)}")
    for key, value in model.state_dict().items():
        if isinstance(value, torch.Tensor):
            lines.append(f"tensor {key}: {list(value.shape)}")
    return tuple(lines)


def _target(node: torch.fx.Node) -> str:
    return str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def fingerprint_of(model: nn.Module) -> str:
    """Return 16 hexadecimal digits that are equal for models of equal structure."""
    return hashlib.sha256("\n".join(structure_of(model)).encode()).hexdigest()[:16]
