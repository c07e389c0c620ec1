"""What a checkpoint keeps for going on with the training, fitted to the edited model.

An optimizer and a moving average of the weights keep one entry per parameter, by position. Where an edit deleted
parameters, the positions shift; where it changed values, the entries describe weights that are no longer there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["fit_training_state", "note_on_normalizers"]

_SHOWN = 3


def fit_training_state(
    entries: Mapping[str, Any], original: nn.Module, edited: nn.Module
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a checkpoint's entries with an optimizer and a moving average that fit the edited model.

    Parameters
    ----------
    entries
        The entries but the weights; unchanged. ``optimizer`` is what ``Optimizer.state_dict()`` gives, ``ema`` has the
        list ``shadow_params`` with one tensor per trainable parameter, as fairchem's trainers keep it.
    original, edited
        The model before and after.

    Returns
    -------
    tuple
        The entries, and one line for each entry that was changed or left out. Without a change of the parameters, the
        entries are what they were.
    """
    if not _has_state(entries.get("optimizer")) and not isinstance(entries.get("ema"), Mapping):
        return dict(entries), ()
    before, after = dict(original.named_parameters()), dict(edited.named_parameters())
    gone = [name for name in before if name not in after]
    reason = _why_not_kept(before, after)
    fitted = dict(entries)
    if not gone and not reason:
        return fitted, ()
    notes = []
    if _has_state(fitted.get("optimizer")):
        kept = None if reason else _fit_optimizer(fitted["optimizer"], before, after)
        if kept is None:
            del fitted["optimizer"]
            notes.append(f"the optimizer's state was left out: {reason or 'its order of the parameters is not known'}")
        else:
            fitted["optimizer"] = kept
            notes.append(f"the optimizer's state of {_told(gone)} was left out")
    if isinstance(fitted.get("ema"), Mapping):
        average = None if reason else _fit_average(fitted["ema"], before, after)
        fitted["ema"] = average
        if average is None:
            notes.append(f"the moving average of the weights was left out: {reason or 'it does not fit the model'}")
        else:
            notes.append(f"the moving average of {_told(gone)} was left out")
    return fitted, tuple(notes)


def note_on_normalizers(entries: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a line on what label rescaling means beside a trainer's own scaling of the labels, if it has any.

    Parameters
    ----------
    entries
        The entries but the weights; ``normalizers`` has one entry per label that the trainer scales.
    """
    labels = entries.get("normalizers")
    if not isinstance(labels, Mapping) or not labels:
        return ()
    scaled = ", ".join(map(str, labels))
    return (f"the trainer's normalizers scale {scaled} as well: C multiplies what the model returns, before they do",)


def _why_not_kept(before: Mapping[str, nn.Parameter], after: Mapping[str, nn.Parameter]) -> str:
    new = [name for name in after if name not in before]
    if new:
        return f"the edits added {_told(new)}"
    if [name for name in before if name in after] != list(after):
        return "the edits changed the order of the parameters"
    changed = [name for name in after if not _equal(before[name], after[name])]
    return f"the edits changed the values of {_told(changed)}" if changed else ""


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one is other:
        return True
    same = one.shape == other.shape and one.dtype == other.dtype and one.requires_grad == other.requires_grad
    # A weight that is NaN is unchanged, too; few models have one, and looking for it takes ten times as long.
    return same and (torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all()))


def _told(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown}, … ({len(names)} in all)" if len(names) > _SHOWN else shown


def _has_state(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("param_groups"), list)


def _fit_optimizer(
    state: Mapping[str, Any], before: Mapping[str, nn.Parameter], after: Mapping[str, nn.Parameter]
) -> dict[str, Any] | None:
    """Return the state without the deleted parameters; None where positions do not tell which ones they are."""
    filled = [group for group in state["param_groups"] if group.get("params")]
    if len(filled) != 1:
        return None  # the trainer sorted the parameters into groups by rules of its own
    numbers = list(filled[0]["params"])
    names = _names_of(len(numbers), before)
    if names is None:
        return None
    kept = [number for number, name in zip(numbers, names, strict=True) if name in after]
    renumbered = {number: position for position, number in enumerate(kept)}
    groups = [
        {**group, "params": [renumbered[n] for n in group["params"] if n in renumbered]}
        for group in state["param_groups"]
    ]
    slots = {renumbered[number]: slot for number, slot in state.get("state", {}).items() if number in renumbered}
    return {**state, "state": slots, "param_groups": groups}


def _names_of(count: int, parameters: Mapping[str, nn.Parameter]) -> list[str] | None:
    """Return the parameters that ``count`` entries stand for: all of them, or those that are trained."""
    trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
    for names in (list(parameters), trained):
        if len(names) == count:
            return names
    return None


def _fit_average(
    average: Mapping[str, Any], before: Mapping[str, nn.Parameter], after: Mapping[str, nn.Parameter]
) -> dict[str, Any] | None:
    trained = [name for name, parameter in before.items() if parameter.requires_grad]
    fitted = dict(average)
    for key in ("shadow_params", "collected_params"):
        values = average.get(key)
        if not values:
            continue
        if not isinstance(values, list) or len(values) != len(trained):
            return None
        fitted[key] = [value for name, value in zip(trained, values, strict=True) if name in after]
    return fitted
