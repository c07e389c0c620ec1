"""Choose among all fits: the one that agrees with the fewest constants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dcsurgery.catalog import OPERATORS, Match
from dcsurgery.fingerprint.families import family_fits
from dcsurgery.fingerprint.fits import AFFINE, GRID, GUARD, Array, Fit, bend, tolerances
from dcsurgery.fingerprint.gains import gain_fits

__all__ = ["best_fit"]

#: How exactly a fit tells its constants.
_EXACT = 1e-9

#: The settings' own defaults, as torch has them: a setting at its default is not reported.
_DEFAULTS: dict[tuple[str, str], float] = {
    ("leaky_relu", "negative_slope"): 0.01,
    ("elu", "alpha"): 1.0,
    ("celu", "alpha"): 1.0,
    ("hardtanh", "min_val"): -1.0,
    ("hardtanh", "max_val"): 1.0,
    ("softplus", "beta"): 1.0,
    ("softshrink", "lambd"): 0.5,
}

#: Where scale * gain = 1, the gain is this setting of the operator.
_AS_SETTING: dict[str, tuple[str, Callable[[float], float]]] = {
    "softplus": ("beta", lambda gain: gain),
    "softshrink": ("lambd", lambda gain: 0.5 / gain),
}


def best_fit(y: Array) -> Match | None:
    """Return the row that has the values ``y`` on `GRID` with the fewest constants, None where none has."""
    if not bend(y, GUARD) > AFFINE * np.abs(y[np.abs(GRID) <= GUARD]).max():
        return None
    limit = tolerances(y)
    fits = []
    for found in (*family_fits(y), *gain_fits(y, limit)):
        for fit in (found, *_renamed(found)):
            fits += [tidy for tidy in (_tidied(fit), fit) if tidy.agrees(y, limit)][:1]
    if not fits:
        return None
    both_signs = bool(y.min() < 0 < y.max())

    def preference(fit: Fit) -> tuple[int, bool, int, bool]:
        # tanh and sigmoid are one curve: with as many constants, values of both signs are tanh's, of one sign a gate's.
        is_gate = fit.operator.role == "gate"
        return fit.constants, is_gate == both_signs, OPERATORS.index(fit.operator), fit.gain < 0

    return min(fits, key=preference).to_match()


def _renamed(fit: Fit) -> Iterator[Fit]:
    name, setting = _AS_SETTING.get(fit.operator.name, ("", None))
    if setting is not None and fit.gain > 0 and abs(fit.scale * fit.gain - 1) < 1e-6:
        yield Fit(fit.operator, 1.0, 1.0, fit.shift, {name: setting(fit.gain)})


def _tidied(fit: Fit) -> Fit:
    """Return the fit with those constants rounded that are short numbers, and without settings at their default."""
    settings = {name: _short(value) for name, value in fit.settings.items()}
    return Fit(
        fit.operator,
        _short(fit.scale),
        _short(fit.gain),
        _short(fit.shift, size=abs(fit.scale)),
        {name: value for name, value in settings.items() if value != _DEFAULTS.get((fit.operator.name, name))},
    )


def _short(value: Any, size: float = 1.0) -> Any:
    """Return a number with at most six digits if it is one up to rounding errors, 0 if it is nothing against size."""
    if not isinstance(value, float):
        return value
    if abs(value) < _EXACT * size:
        return 0.0
    rounded = float(f"{value:.6g}")
    return rounded if abs(rounded - value) < _EXACT * abs(value) else value
