"""Scale, shift and gain of a reference curve: a table of gains, refined by Gauss-Newton steps."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dcsurgery.catalog import OPERATORS, Operator
from dcsurgery.fingerprint.fits import GRID, ONE, Array, Fit, bent, evaluate, solve

__all__ = ["gain_fits"]

#: Gains that are looked for: eighths of an octave, down to curves that still differ from polynomials, up to
#: softplus(beta=1000).
_GAINS = 2.0 ** (np.arange(-48, 81) / 8)
#: How much of the callable's bend a curve may leave unexplained at the best gain in the table, and how many such
#: curves are tried, nearest first. (Of 3000 random gains, scales and shifts no right curve was lost that way.)
_NEAR, _TRIED = 0.01, 12


def gain_fits(y: Array, limit: Array) -> Iterator[Fit]:
    """Yield the rows' reference curves that agree with ``y`` at some gain, from 1/64 to 1024 and both signs."""
    curves, numbers, gains, vectors = _table()
    unexplained = 1 - (vectors @ _unit(bent(y[None]))[0]) ** 2
    nearest: dict[tuple[int, bool], int] = {}
    for i in np.flatnonzero(unexplained < _NEAR).tolist():
        curve = (int(numbers[i]), bool(gains[i] > 0))
        if curve not in nearest or unexplained[i] < unexplained[nearest[curve]]:
            nearest[curve] = i
    found = np.inf
    for i in sorted(nearest.values(), key=unexplained.__getitem__)[:_TRIED]:
        # Beside the curve that agrees, only one that is as near can agree, too: tanh and sigmoid, for instance.
        if unexplained[i] > 1.01 * found + 1e-12:
            return
        operator, settings = curves[int(numbers[i])]
        fit = _linear(operator, settings, float(gains[i]), y)
        if operator.gain and not fit.agrees(y, limit):
            fit = _refined(fit, y)
        if fit.agrees(y, limit):
            found = min(found, float(unexplained[i]))
            yield fit


@functools.cache
def _table() -> tuple[list[tuple[Operator, Mapping[str, Any]]], Array, Array, Array]:
    """Return the curves, and for each curve at each gain: its number (n,), gain (n,), unit vector (n, len(GRID))."""
    curves: list[tuple[Operator, Mapping[str, Any]]] = []
    numbers, gains, vectors = [], [], []
    for row in OPERATORS:
        for settings in row.variants if row.reference is not None else ():
            some = _GAINS if row.gain else ONE[:1]
            odd = np.allclose(evaluate(row, GRID, settings), -evaluate(row, -GRID, settings), rtol=0, atol=1e-12)
            signed = some if odd else np.concatenate([some, -some])
            numbers.append(np.full(len(signed), len(curves)))
            curves.append((row, settings))
            gains.append(signed)
            vectors.append(_unit(bent(evaluate(row, np.outer(signed, GRID), settings))))
    return curves, np.concatenate(numbers), np.concatenate(gains), np.concatenate(vectors)


def _unit(vectors: Array) -> Array:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)


def _linear(operator: Operator, settings: Mapping[str, Any], gain: float, y: Array) -> Fit:
    """Return the fit with the best scale and shift for this gain."""
    curve = evaluate(operator, gain * GRID, settings)
    centred = curve - curve.mean()
    scale = float(centred @ y / (centred @ centred))
    return Fit(operator, scale, gain, float((y - scale * curve).mean()), settings)


def _refined(fit: Fit, y: Array) -> Fit:
    """Improve the gain by Gauss-Newton steps in its logarithm; the scale is solved for along with it."""
    gain, step, before = fit.gain, 1e-5, np.inf
    target = bent(y[None])[0]
    for iteration in range(12):
        gains = gain * np.array([1, 1 + step, 1 - step])
        curve, above, below = bent(evaluate(fit.operator, np.outer(gains, GRID), fit.settings))
        scale, slope = solve(np.stack([curve, (above - below) / (2 * step)], 1), target)
        change = float(np.clip(slope / scale if scale else 0.0, -0.3, 0.3))
        gain *= 1 + change
        # The right curve converges quadratically; a wrong one crawls to its best compromise.
        crawls = iteration > 1 and abs(change) > 0.3 * before
        if abs(change) < 1e-12 or crawls or not _GAINS[0] / 2 < abs(gain) < _GAINS[-1] * 2:
            break
        before = abs(change)
    return _linear(fit.operator, fit.settings, gain, y)
