"""Label scale C: Eq. 4 of the paper as it is meant, and `--rescale` texts.

Source: Lo & Huang, "On Training Derivative-Constrained Neural Networks", arXiv:2310.01649. Printed is the *maximum* over
powers of 10 with 0 <= l/C <= 1, which is unbounded and excludes negative energies; meant is the smallest power of 10
with abs(l)/C <= 1 over all labels together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dcsurgery.errors import BadInput

__all__ = ["check_scale", "parse_rescale", "rescale_constant"]

_SCALE_FIX = "give a positive finite number such as 1e6, or auto:FILE to take it from labels"


def rescale_constant(*labels: Any) -> float:
    """Return the smallest power of 10, C, with ``abs(label) / C <= 1`` for every label.

    Parameters
    ----------
    *labels
        Energies, forces, solution values in any units and shapes: tensors, arrays, numbers, nested sequences of them.
        They share one C, because a force scales exactly as the energy it is the derivative of.

    Returns
    -------
    float
        C, in the units of the labels.

    Raises
    ------
    BadInput
        If there are no labels, if all are 0, or if one is NaN, infinite or not a real number.

    Examples
    --------
    >>> rescale_constant([-97208.4, -97195.0], [[21.5, -3.0, 0.1]])
    100000.0
    """
    if not labels:
        raise BadInput("no labels to take the label scale from", fix="pass the energies, and the forces if there are")
    largest: float = 0
    for number, label in enumerate(labels, 1):
        where = f"label argument {number}"
        found = [_largest_of(array, where) for array in _arrays(label, where) if array.size]
        if not found:
            raise BadInput("is empty", where=where, fix="leave it out, or pass at least one number")
        largest = max(largest, *found)
    if largest == 0:
        raise BadInput(
            "all labels are 0, so no power of 10 is the smallest that bounds them",
            fix="pass labels that are not all 0, or set C yourself",
        )
    return _power_above(largest)


def check_scale(scale: Any) -> float:
    """Return a label scale as a float.

    Raises
    ------
    BadInput
        If it is not a number, or is 0, negative, NaN or infinite.
    """
    is_number = isinstance(scale, int | float | np.integer | np.floating) and not isinstance(scale, bool)
    if isinstance(scale, torch.Tensor | np.ndarray) and scale.ndim == 0 and not isinstance(scale.item(), bool):
        scale, is_number = scale.item(), True
    if not is_number or isinstance(scale, complex):
        raise BadInput(f"label scale C must be a number, got {type(scale).__name__}", fix=_SCALE_FIX)
    try:
        value = float(scale)
    except OverflowError:
        value = math.inf
    if not (math.isfinite(value) and value > 0):
        raise BadInput(f"label scale C must be positive and finite, got {value:g}", fix=_SCALE_FIX)
    return value


def parse_rescale(text: str | float) -> float:
    """Return the label scale that a ``--rescale`` value asks for.

    Parameters
    ----------
    text
        A number (``"1e6"``), or ``"auto:FILE"`` for `rescale_constant` of the labels in a file that `read_labels`
        reads.

    Raises
    ------
    BadInput
        If it is neither, if the number is not positive and finite, or if the file has no usable labels.
    """
    if not isinstance(text, str):
        return check_scale(text)
    if text.startswith("auto:"):
        # The readers of molecule files are only needed here.
        from dcsurgery.label_files import read_labels

        path = text.removeprefix("auto:")
        if not path:
            raise BadInput("--rescale auto: names no file", fix="write --rescale auto:labels.npz")
        labels = read_labels(path)
        try:
            return rescale_constant(*labels)
        except BadInput as error:
            raise BadInput(f"no label scale from this file: {error.message}", where=path, fix=error.fix) from None
    try:
        value = float(text)
    except ValueError:
        raise BadInput(f"--rescale {text!r} is not a number", fix=_SCALE_FIX) from None
    return check_scale(value)


def _arrays(label: Any, where: str) -> Iterator[NDArray[Any]]:
    """Yield the arrays of numbers in a label, in float64 or an integer type."""
    if isinstance(label, torch.Tensor):
        # bfloat16 has no numpy counterpart; float64 holds every narrower float exactly.
        label = label.detach().cpu()
        yield from _arrays((label.double() if label.is_floating_point() else label).numpy(), where)
    elif isinstance(label, bool | str | bytes | Mapping) or label is None:
        raise BadInput(
            f"is a {type(label).__name__}, not numbers", where=where, fix="pass arrays or numbers, one per argument"
        )
    elif isinstance(label, int):
        # Kept exact: a Python int may be too large for any array.
        yield np.array([label], dtype=object)
    elif hasattr(label, "__array__") or isinstance(label, float):
        array = np.asarray(label)
        if array.dtype == object:
            for item in array.ravel():
                yield from _arrays(item, where)
        elif array.dtype.kind in "iuf":
            yield array
        else:
            raise BadInput(f"has dtype {array.dtype}, not real numbers", where=where, fix="pass real numbers")
    elif isinstance(label, Iterable):
        for item in label:
            yield from _arrays(item, where)
    else:
        raise BadInput(
            f"is a {type(label).__name__}, not numbers", where=where, fix="pass arrays or numbers, one per argument"
        )


def _largest_of(array: NDArray[Any], where: str) -> float:
    """Return the largest absolute value; integers stay exact."""
    # max and min instead of abs: abs of the most negative integer overflows, and no copy of the data is made.
    high, low = array.max(), array.min()
    if array.dtype.kind == "f":
        if not (np.isfinite(high) and np.isfinite(low)):
            raise BadInput(
                f"{int((~np.isfinite(array)).sum())} of its {array.size} values are NaN or infinite",
                where=where,
                fix="remove them first",
            )
        return max(float(high), -float(low))
    return max(int(high), -int(low))


def _power_above(largest: float) -> float:
    """Return the smallest power of 10 that is not below ``largest`` > 0."""
    # log10 is off by an ulp near powers of 10, so it only says where to look; the comparison decides. Parsing "1e23"
    # rounds correctly, where 10.0 ** 23 need not.
    guess = math.floor(math.log10(largest))
    for exponent in range(guess - 1, guess + 3):
        power = float(f"1e{exponent}")
        if largest <= power < math.inf:
            return power
    raise BadInput(f"the largest label is about 1e{guess}: no power of 10 above it is a float64", fix="use other units")
