"""Find out which attribute keeps a model from being pickled."""

from __future__ import annotations

import io
import pickle
import types
from typing import Any

import torch
from torch import nn

from dcsurgery.subclass import original_class

__all__ = ["find_unpicklable"]


class _ShallowPickler(pickle.Pickler):
    """Pickles a value without the modules and tensors in it."""

    def __init__(self, root: Any) -> None:
        super().__init__(io.BytesIO(), protocol=2)
        self._root = root

    def persistent_id(self, value: Any) -> str | None:
        skipped = isinstance(value, nn.Module | torch.Tensor | torch.UntypedStorage | torch.TypedStorage)
        return type(value).__name__ if skipped and value is not self._root else None


def find_unpicklable(model: nn.Module) -> tuple[str, str] | None:
    """Return where a model cannot be pickled and what is there.

    Returns
    -------
    tuple or None
        ``("conv.act", "a lambda (models.py:12)")``; None if every part can be pickled on its own.
    """
    for path, module in model.named_modules():
        name = f"{path} ({type(module).__name__})" if path else type(module).__name__
        if not _picklable(original_class(module)):
            return name, f"its class {original_class(module).__qualname__} cannot be imported by that name"
        for attribute, value in vars(module).items():
            if attribute not in ("_parameters", "_buffers", "_modules") and not _picklable(value):
                place, culprit = _inside(value, f"{path}.{attribute}" if path else attribute)
                return place, _describe(culprit)
    return None


def _inside(value: Any, place: str) -> tuple[str, Any]:
    """Go down to the innermost item of a container that cannot be pickled."""
    items: list[tuple[str, Any]] = []
    if isinstance(value, list | tuple):
        items = [(f"{place}[{index}]", item) for index, item in enumerate(value)]
    elif isinstance(value, dict):
        items = [(f"{place}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, types.MethodType):
        return place, value
    elif hasattr(value, "__dict__") and not isinstance(value, type | types.FunctionType):
        items = [(f"{place}.{key}", item) for key, item in vars(value).items()]
    for inner, item in items:
        if not _picklable(item):
            return _inside(item, inner)
    return place, value


def _picklable(value: Any) -> bool:
    try:
        _ShallowPickler(value).dump(value)
    except Exception:  # noqa: BLE001 - a class's own reduction may raise anything
        return False
    return True


def _describe(value: Any) -> str:
    if isinstance(value, types.FunctionType):
        code = value.__code__
        what = "a lambda" if value.__name__ == "<lambda>" else f"the local function {value.__name__}"
        return f"{what} ({code.co_filename}:{code.co_firstlineno})"
    if isinstance(value, type):
        return f"the local class {value.__qualname__}"
    return f"a {type(value).__module__}.{type(value).__qualname__}"
