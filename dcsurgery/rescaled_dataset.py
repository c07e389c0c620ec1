"""A data set that serves labels / C: what a rescaled model is trained on in its `scaled` mode."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dcsurgery.errors import BadInput, Refused
from dcsurgery.labels import check_scale

__all__ = ["RescaledDataset"]


class RescaledDataset(torch.utils.data.Dataset[Any]):
    """A map-style data set whose labels are divided by C: what a model in `scaled` mode is trained on.

    Parameters
    ----------
    dataset
        Data set (or list) of tuples, mappings or objects with attributes (PyG ``Data``). Its items are never changed.
    C
        Label scale, in the labels' units.
    keys
        Positions in tuples, keys in mappings, attributes of objects. ``"energy"`` also finds ``energies``, ``E`` and
        ``y`` where there is no ``energy``; ``"forces"`` also finds ``force`` and ``F``.

    Raises
    ------
    BadInput
        If C is not a positive number, if the data set cannot be indexed or is empty, or if a key is missing.
    Refused
        If the data set, or one that it wraps, is rescaled already.

    Examples
    --------
    >>> scaled = RescaledDataset([(1.0, -97208.4)], 1e5, keys=(1,))
    >>> scaled[0]
    (1.0, -0.972084)
    """

    def __init__(self, dataset: Any, C: float, keys: Sequence[str | int] = ("energy", "forces")) -> None:
        self.label_scale = check_scale(C)
        inner = _rescaled_inside(dataset)
        if inner is not None:
            raise Refused(
                f"the labels of this data set are already divided by C={inner:g}", fix="rescale the original data set"
            )
        if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise BadInput(
                f"{type(dataset).__name__} has no length or cannot be indexed", fix="pass a map-style data set or list"
            )
        self.dataset = dataset
        self.keys = (keys,) if isinstance(keys, str | int) else tuple(keys)
        if not self.keys or any(isinstance(key, bool) or not isinstance(key, str | int) for key in self.keys):
            raise BadInput(f"keys must be names or positions, got {keys!r}", fix='pass keys=("energy",) or keys=(1,)')
        if not len(dataset):
            raise BadInput("the data set is empty", fix="pass one with at least one item")
        # The first item tells at once whether the keys fit; a data loader's worker would tell it much later.
        self[0]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        try:
            index = operator.index(index)
        except TypeError:
            # Slices and index lists select a subset, where the wrapped data set can do that.
            return RescaledDataset(self.dataset[index], self.label_scale, self.keys)
        return self._divided(self.dataset[index], f"item {index}")

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"RescaledDataset({self.dataset!r}, C={self.label_scale:g}, keys={self.keys})"

    def _divided(self, item: Any, where: str) -> Any:
        if isinstance(item, tuple | list):
            values = list(item)
            for position in self._positions(item, where):
                values[position] = _divide(item[position], self.label_scale, f"{where}, position {position}")
            if isinstance(item, list):
                return values
            return item._make(values) if hasattr(item, "_make") else tuple(values)
        changed = copy.copy(item)  # PyG's Data copies its stores, not the tensors
        names = _names_in(item)
        for key in self.keys:
            name = _find(key, names)
            if name is None:
                raise _missing(key, sorted(map(str, names)), where)
            value = item[name] if isinstance(item, Mapping) else getattr(item, str(name))
            divided = _divide(value, self.label_scale, f"{where}, {name}")
            if isinstance(item, Mapping):
                changed[name] = divided
            else:
                setattr(changed, str(name), divided)
        return changed

    def _positions(self, item: Sequence[Any], where: str) -> list[int]:
        fields = getattr(item, "_fields", ())
        positions = []
        for key in self.keys:
            name = _find(key, fields)
            position: Any = fields.index(name) if name is not None else key
            if not isinstance(position, int) or not -len(item) <= position < len(item):
                raise _missing(key, [*map(str, fields), f"positions 0 to {len(item) - 1}"], where)
            positions.append(position)
        return positions


_ALIASES = {"energy": ("energies", "E", "y"), "forces": ("force", "F")}


def _find(key: str | int, names: Iterable[Any]) -> Any:
    names = tuple(names)
    return next((name for name in (key, *_ALIASES.get(str(key), ())) if name in names), None)


def _names_in(item: Any) -> list[Any]:
    if isinstance(item, Mapping):
        return list(item)
    keys = item.keys() if callable(getattr(item, "keys", None)) else vars(item) if hasattr(item, "__dict__") else ()
    return [key for key in keys if not str(key).startswith("_")]


def _missing(key: str | int, there: list[str], where: str) -> BadInput:
    return BadInput(
        f"no label {key!r}; there: {', '.join(there) or 'nothing'}",
        where=where,
        fix="name the labels with keys=, by position in tuples and by name elsewhere",
    )


def _divide(value: Any, scale: float, where: str) -> Any:
    if isinstance(value, torch.Tensor | np.ndarray | np.number | float | int) and not isinstance(value, bool):
        return value / scale
    raise BadInput(f"a label must be a tensor, an array or a number, got {type(value).__name__}", where=where)


def _rescaled_inside(dataset: Any) -> float | None:
    """Return the scale of the first `RescaledDataset` at or below ``dataset`` (Subset, ConcatDataset, …)."""
    pending, seen = [dataset], set()
    while pending:
        current = pending.pop()
        if isinstance(current, RescaledDataset):
            return current.label_scale
        if id(current) in seen or not isinstance(current, torch.utils.data.Dataset):
            continue
        seen.add(id(current))
        pending += [getattr(current, "dataset", None), *(getattr(current, "datasets", None) or ())]
    return None
