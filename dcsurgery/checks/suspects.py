"""Which edit a deviation comes from: what stands in an edited slot, tried alone against its reference."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from dcsurgery.checks.functional import derivatives_of
from dcsurgery.errors import BadInput
from dcsurgery.plans import Edit
from dcsurgery.sites import AttributePlace, ModulePlace
from dcsurgery.tree import get_path, join
from dcsurgery.witness.references import reference_of

__all__ = ["suspects"]

_ORDER = 2
_CLOSE = 1e-9


def suspects(edited: nn.Module, edits: Collection[Edit]) -> str:
    """Name the edited slots whose activation deviates from its reference, with the lowest order at which it does."""
    found = [f"{name} is wrong in its derivative of order {order}" for name, order in _deviating(edited, edits)]
    return "; ".join(found[:3])


def _deviating(edited: nn.Module, edits: Collection[Edit]) -> Iterator[tuple[str, int]]:
    for edit in edits:
        place = edit.place
        if edit.action != "replace" or edit.operator == "glu" or not isinstance(place, ModulePlace | AttributePlace):
            continue
        reference = reference_of(edit.settings.get("module", edit.replacement or ""))
        try:
            found = get_path(
                edited, join(place.owner, place.slot if isinstance(place, ModulePlace) else place.attribute)
            )
            standing = copy.deepcopy(found).double() if isinstance(found, nn.Module) else found
            order = None if reference is None else _first_difference(standing, reference)
        except (BadInput, RuntimeError, TypeError, ValueError):  # it does not take a plain row of numbers
            continue
        if order is not None:
            yield edit.site, order


def _first_difference(standing: Any, reference: Any) -> int | None:
    x = torch.linspace(-3.1, 2.9, 24, dtype=torch.float64).requires_grad_()
    mine = derivatives_of({"y": standing(x.clone())}, {"x": x}, _ORDER)
    right = derivatives_of({"y": reference(x.clone())}, {"x": x}, _ORDER)
    zero = {"x": torch.zeros_like(x)}
    for order in range(_ORDER + 1):
        a, b = (
            d.values["y"] if order == 0 else (d.orders[order - 1] if len(d.orders) >= order else zero)["x"]
            for d in (mine, right)
        )
        if not torch.allclose(a, b, rtol=_CLOSE, atol=_CLOSE):
            return order
    return None
