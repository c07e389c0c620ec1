"""Families: activations with settings that no gain stands for, fitted in closed form."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dcsurgery.catalog import operator_named
from dcsurgery.fingerprint.fits import GRID, GUARD, ONE, STEPS, Array, Fit, solve

__all__ = ["family_fits"]

#: Slowest exponential that is looked for; slower ones are nearly straight on the grid.
_SLOWEST = 1 / 64


def family_fits(y: Array) -> Iterator[Fit]:
    """Yield the leaky ReLU, hardtanh, ELU and CELU that are nearest to ``y``; whether they agree is still to be seen."""
    yield from _two_slopes(y)
    yield from _clamped(y)
    yield from _exponential(y)


def _two_slopes(y: Array) -> Iterator[Fit]:
    """Leaky ReLU with any slope > 0: one straight line on either side of 0 (a slope < 0 would be like abs)."""
    right, left, shift = solve(np.stack([np.maximum(GRID, 0), np.minimum(GRID, 0), ONE], 1), y)
    if right and left / right > 1e-6:
        operator = operator_named("leaky_relu")
        yield Fit(operator, float(right), 1.0, float(shift), {"negative_slope": float(left / right)})


def _clamped(y: Array) -> Iterator[Fit]:
    """Hardtanh with any limits on either side of 0."""
    inside = (y > y.min()) & (y < y.max())
    if inside.sum() < 3:
        return
    slope, shift = solve(np.stack([GRID[inside], ONE[inside]], 1), y[inside])
    if not slope:
        return
    low, high = sorted((float((y.min() - shift) / slope), float((y.max() - shift) / slope)))
    if -GUARD <= low <= 1e-9 and -1e-9 <= high <= GUARD:
        hardtanh = operator_named("hardtanh")
        yield Fit(hardtanh, float(slope), 1.0, float(shift), {"min_val": low, "max_val": high})
        if abs(low + high) < 1e-9 * high:
            yield Fit(hardtanh, float(slope) * high, 1 / high, float(shift))


def _exponential(y: Array) -> Iterator[Fit]:
    """ELU with any alpha, and CELU: a straight line on one side of 0, an exponential on the other."""
    for side in (1.0, -1.0):
        gain = _exponential_gain(side, y)
        if gain is None:
            continue
        right, left, shift = (float(c) for c in solve(_elu_columns(gain * side * GRID), y))
        if not right or left / right < 1e-6:
            continue
        alpha = left / right
        yield Fit(operator_named("elu"), right, side * gain, shift, {"alpha": alpha})
        if abs(alpha - 1) < 1e-6:
            yield Fit(operator_named("celu"), right * gain, side, shift, {"alpha": 1 / gain})


def _elu_columns(z: Array) -> Array:
    return np.stack([np.maximum(z, 0), np.expm1(np.minimum(z, 0)), ONE], 1)


def _exponential_gain(side: float, y: Array) -> float | None:
    """Return g where y is a * exp(g * side * x) + b for side * x < 0; None where three points rule that out."""
    for step in STEPS:
        far, near, middle = (float(y[np.searchsorted(GRID, -side * k * step)]) for k in (2, 1, 0))
        if near in (far, middle) or (near - far) / (middle - near) <= 0:
            continue
        gain = -float(np.log((near - far) / (middle - near))) / step
        if gain * step < 8:  # beyond, the difference of the far points has lost too many digits
            return gain if gain > _SLOWEST else None
    return None
