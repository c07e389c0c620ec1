"""A fit, the grid that it lives on, and how far curves deviate from straight lines and from one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dcsurgery.catalog import Match, Operator

__all__ = ["AFFINE", "GRID", "GUARD", "ONE", "STEPS", "Array", "Fit", "bend", "bent", "evaluate", "solve", "tolerances"]

Array = np.ndarray[Any, np.dtype[np.float64]]

#: Largest deviation of a match, relative to the curve's own deviation from a straight line over the same range of x.
_TOLERANCE = 1e-7
#: Those ranges: |x| up to these. The narrow one tells curves apart that differ only near 0 (squared ReLU and a steep
#: x * silu(x)); the wide one takes the far points in.
_RANGES = (1.2, 12.0, np.inf)
#: What rounding may add, relative to the largest value.
_ROUNDING = 1e-13
#: A curve that deviates less from a straight line, relative to its largest value, counts as one.
AFFINE = 1e-9
#: What is straight up to here guards against overflow (``clamp(-20, 20)``); it is no hardtanh.
GUARD = 6.0

#: The grid has 0 and once and twice these, on both sides: an exponential's rate follows from three such points.
STEPS = (1.0, 0.0625)


def _grid() -> Array:
    """Return the grid: beyond ±6 for ReLU6, far points for clamps, dense at 0 for large gains, without a period."""
    golden = (np.sqrt(5) - 1) / 2
    even = 24 * ((np.arange(1, 90) * golden) % 1) - 12
    near = np.geomspace(4e-4, 1.1, 16)
    far = np.array([14.3, 17.1, 21.7, 27.9, 35.2])
    steps = np.array([STEPS, 2 * np.array(STEPS)]).ravel()
    return np.unique(np.concatenate([even, near, -near, far, -far, steps, -steps, [0.0]]))


GRID: Array = _grid()
ONE = np.ones_like(GRID)
#: For each range, which points lie in it and an orthonormal basis of the straight lines over them.
_LINES = {
    radius: (abs(GRID) <= radius, np.linalg.qr(np.stack([ONE, GRID], 1)[abs(GRID) <= radius])[0])
    for radius in (*_RANGES, GUARD)
}
#: Curves are compared with these weights, or squares would differ only where they are large.
_WEIGHT = 1 / (0.1 + np.abs(GRID))
_WEIGHTED_LINES = np.linalg.qr(np.stack([ONE, GRID], 1) * _WEIGHT[:, None])[0]


@dataclass(frozen=True)
class Fit:
    """y = scale * f(gain * x; settings) + shift."""

    operator: Operator
    scale: float
    gain: float = 1.0
    shift: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def values(self) -> Array:
        """Return the fitted values on `GRID`."""
        return self.scale * evaluate(self.operator, self.gain * GRID, self.settings) + self.shift

    @property
    def constants(self) -> int:
        """How many constants it needs: of several fits the one with the fewest says most."""
        return (self.scale != 1) + (self.gain != 1) + (self.shift != 0) + len(self.settings)

    def agrees(self, y: Array, limit: Array) -> bool:
        """Say whether the fitted values are as near to ``y`` as they must be."""
        return bool(np.all(np.abs(self.values() - y) <= limit))

    def to_match(self) -> Match:
        """Return the fit as what callers of `identify` get."""
        parameters = dict(self.settings)
        for name, neutral in (("scale", 1.0), ("shift", 0.0), ("gain", 1.0)):
            if getattr(self, name) != neutral:
                parameters[name] = getattr(self, name)
        return Match(self.operator, parameters, f"behaves as {self}")

    def __str__(self) -> str:
        argument = {1.0: "x", -1.0: "-x"}.get(self.gain, f"{self.gain:.4g} * x")
        settings = "".join(f", {k}={v if isinstance(v, str) else format(v, '.4g')}" for k, v in self.settings.items())
        scale = {1.0: "", -1.0: "-"}.get(self.scale, f"{self.scale:.4g} * ")
        shift = f" {'-' if self.shift < 0 else '+'} {abs(self.shift):.4g}" if self.shift else ""
        return f"{scale}{self.operator.name}({argument}{settings}){shift}"


def evaluate(operator: Operator, x: Array, settings: Mapping[str, Any]) -> Array:
    """Return the row's reference curve on an array of any shape."""
    assert operator.reference is not None
    values: Array = operator.reference(torch.from_numpy(np.ascontiguousarray(x)), **settings).numpy()
    return values


def bend(y: Array, radius: float) -> float:
    """Return the largest deviation of a curve from a straight line within ``|x| <= radius``."""
    inside, lines = _LINES[radius]
    return float(np.abs(y[inside] - lines @ (lines.T @ y[inside])).max())


def bent(values: Array) -> Array:
    """Return what curves (n, len(GRID)) have beside a straight line, weighted; 0 where that is next to nothing.

    The shift is gone then, and so is the straight part, in which most activations are alike.
    """
    weighted = values * _WEIGHT
    rest = weighted - (weighted @ _WEIGHTED_LINES) @ _WEIGHTED_LINES.T
    norms = np.linalg.norm(rest, axis=1, keepdims=True)
    return np.where(norms > AFFINE * np.linalg.norm(weighted, axis=1, keepdims=True), rest, 0.0)


def tolerances(y: Array) -> Array:
    """Return how far a match may be from the values ``y`` at each point of the grid."""
    limit = np.zeros_like(y)
    for radius in reversed(_RANGES):
        limit[np.abs(GRID) <= radius] = _TOLERANCE * bend(y, radius)
    return np.asarray(limit + _ROUNDING * np.abs(y).max())


def solve(columns: Array, y: Array) -> Array:
    """Return the least-squares coefficients of two or three columns, from the normal equations of the scaled ones."""
    norms = np.maximum(np.sqrt((columns**2).sum(0)), 1e-300)
    unit = columns / norms
    try:
        return np.asarray(np.linalg.solve(unit.T @ unit, unit.T @ y) / norms)
    except np.linalg.LinAlgError:
        return np.zeros(columns.shape[1])
