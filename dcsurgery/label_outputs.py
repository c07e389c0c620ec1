"""Which parts of a model's output are labels: tensors, tuples, mappings and dataclasses, selected by position or name."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from dcsurgery.errors import BadInput

__all__ = ["Outputs", "check_outputs", "is_label_name", "map_labels"]

Outputs = tuple[int | str, ...]

# Everything that is linear in the energy scales as the energy does; u and y are what PINN codes call their solution.
_NAMES = ("energ(y|ies)", "forces?", "stress(es)?", "virials?", "hessians?", "labels?", "predictions?", "outputs?")
_WORD = re.compile("|".join(_NAMES))
_SYMBOLS = frozenset({"E", "F", "u", "y"})
# Not linear in the label (losses), or not a label at all.
_NOT_WORDS = frozenset(
    {"loss", "losses", "mask", "weight", "weights", "index", "scale", "hidden", "attention", "logits"}
)


def is_label_name(name: object) -> bool:
    """Say whether an output of this name is taken for a label: ``energy``, ``node_forces``, ``totalEnergy``, ``u``."""
    if not isinstance(name, str):
        return False
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = set(re.split(r"[^a-z]+", spaced.lower()))
    return name in _SYMBOLS or (any(map(_WORD.fullmatch, words)) and not words & _NOT_WORDS)


def check_outputs(outputs: Any) -> Outputs | None:
    """Return the selection as a tuple of positions and names.

    Raises
    ------
    BadInput
        If it is empty or holds anything else.
    """
    if outputs is None:
        return None
    chosen = (outputs,) if isinstance(outputs, int | str) else outputs
    try:
        chosen = tuple(chosen)
    except TypeError:
        chosen = ()
    if not chosen or any(isinstance(part, bool) or not isinstance(part, int | str) for part in chosen):
        raise BadInput(
            f"outputs must be positions or names, got {outputs!r}",
            fix='for instance outputs=(0, 1) for a tuple, outputs=("energy", "forces") for a dict',
        )
    return chosen


def map_labels(
    value: Any, change: Callable[[Any], Any], is_label: Callable[[Any], bool], outputs: Outputs | None
) -> Any:
    """Return an output with ``change`` applied to its labels; the argument is not changed.

    Parameters
    ----------
    value
        What the model returned.
    change
        Applied to each leaf that is a label.
    is_label
        Whether a leaf can be a label, for instance a floating tensor.
    outputs
        Positions or names; None takes a lone tensor, every floating tensor of a tuple or list, and the entries of a
        mapping or dataclass that `is_label_name` accepts.

    Raises
    ------
    BadInput
        If nothing is selected; the message lists what is there and how to choose.
    """
    if is_label(value):
        if outputs is not None:
            raise BadInput(
                f"the model returns one tensor, so it has no outputs {', '.join(map(str, outputs))}",
                fix="leave outputs out",
            )
        return change(value)
    parts = _parts(value)
    if parts is None:
        raise BadInput(
            f"the model returns {_describe(value)}: no floating tensor, tuple, mapping or dataclass to rescale",
            fix="let forward return one of these",
        )
    names = _by_default(value, parts, is_label) if outputs is None else [_named(value, parts, name) for name in outputs]
    changed = {name: _change_all(parts[name], change, is_label) for name in names}
    if not any(_holds(parts[name], is_label) for name in names):
        raise _nothing(value, parts)
    return _with(value, changed)


def _parts(value: Any) -> dict[Any, Any] | None:
    if isinstance(value, tuple | list):
        return dict(enumerate(value))
    if isinstance(value, Mapping):
        return dict(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _by_default(value: Any, parts: dict[Any, Any], is_label: Callable[[Any], bool]) -> list[Any]:
    if not isinstance(value, tuple | list):
        return [name for name in parts if is_label_name(name)]
    for name, part in parts.items():
        # (energy, {"forces": …}) and (output, hidden states) look alike; guessing wrong would be silent.
        if not is_label(part) and _holds(part, is_label):
            raise BadInput(
                f"output {name} is {_describe(part)}, which may or may not hold labels",
                fix=f"choose with outputs=, for instance outputs=({name},) to rescale all in it",
            )
    return [name for name, part in parts.items() if is_label(part)]


def _named(value: Any, parts: dict[Any, Any], name: int | str) -> Any:
    key: Any = name
    if isinstance(value, tuple | list):
        fields = getattr(value, "_fields", ())
        key = fields.index(name) if name in fields else name
        if isinstance(key, int) and -len(parts) <= key < 0:
            key += len(parts)
    if key not in parts:
        raise BadInput(
            f"the model's output has no {name!r}; there: {_listing(value, parts)}", fix="choose others with outputs="
        )
    return key


def _change_all(value: Any, change: Callable[[Any], Any], is_label: Callable[[Any], bool]) -> Any:
    if is_label(value):
        return change(value)
    parts = _parts(value)
    if parts is None:
        return value
    return _with(value, {name: _change_all(part, change, is_label) for name, part in parts.items()})


def _holds(value: Any, is_label: Callable[[Any], bool]) -> bool:
    if is_label(value):
        return True
    parts = _parts(value)
    return parts is not None and any(_holds(part, is_label) for part in parts.values())


def _with(value: Any, changed: dict[Any, Any]) -> Any:
    """Return a copy of a container, of the same type, with some parts exchanged."""
    if isinstance(value, tuple | list):
        items = [changed.get(position, item) for position, item in enumerate(value)]
        if isinstance(value, list):
            return items
        return value._make(items) if hasattr(value, "_make") else tuple(items)
    if type(value) is dict:
        # Spelt out, because torch.compile does not follow copy.copy.
        return {**value, **changed}
    if isinstance(value, Mapping) and hasattr(type(value), "__dataclass_fields__"):
        # transformers' ModelOutput is both; its constructor is what compilers know, and it drops None as before.
        return type(value)(**{**dict(value.items()), **changed})
    new = copy.copy(value)
    for name, part in changed.items():
        if isinstance(value, Mapping):
            new[name] = part
        else:
            object.__setattr__(new, name, part)  # frozen dataclasses too
    return new


def _nothing(value: Any, parts: dict[Any, Any]) -> BadInput:
    if isinstance(value, tuple | list):
        return BadInput(f"no floating tensor to rescale in {_listing(value, parts)}", fix="choose with outputs=(0, …)")
    return BadInput(
        f"no output says that it is a label; there: {_listing(value, parts)}",
        fix='choose with outputs=, for instance outputs=("energy", "forces")',
    )


def _listing(value: Any, parts: dict[Any, Any]) -> str:
    if not parts:
        return f"an empty {type(value).__name__}"
    fields = getattr(value, "_fields", None)
    return ", ".join(f"{fields[name] if fields else name} ({_describe(part)})" for name, part in parts.items())


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"tensor {str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"
