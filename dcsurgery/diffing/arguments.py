"""What the inputs of a body are called: by the parameters of the module's own ``forward``."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from dcsurgery.subclass import original_class

__all__ = ["argument_name", "parameters_of"]


def parameters_of(module: nn.Module) -> tuple[list[str], str | None]:
    """Return the names of the positional parameters of a module's ``forward``, and of its ``*args`` if it has them."""
    try:
        parameters = list(inspect.signature(original_class(module).forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return [], None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    rest = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), None)
    return [p.name for p in parameters if p.kind in positional], rest


def argument_name(node: fx.Node, names: Sequence[str], rest: str | None) -> str:
    """Return what a placeholder is called: ``x``, ``batch.pos``, ``points[1]``; its own name where that is not known.

    Parameters
    ----------
    node
        A placeholder; a recorded one knows where in the arguments it stood.
    names, rest
        From `parameters_of`.
    """
    path: tuple[Any, ...] = node.meta.get("dcs_argument", ())
    if not path:
        return str(node.target)
    first, *inner = path
    if isinstance(first, int):
        if first < len(names):
            first = names[first]
        elif rest is not None:
            first = f"{rest}[{first - len(names)}]"
        else:
            return str(node.target)
    steps = (f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{step!r}]" for step in inner)
    return f"{first}{''.join(steps)}"
