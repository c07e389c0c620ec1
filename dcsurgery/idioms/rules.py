"""Which expressions that behave like an activation are meant as one.

``2 * F.silu(h)`` and ``h + F.relu(h)`` are a scale and a residual around an activation that is a call of its own, and
stay; ``softplus(x) - log 2`` and ``silu(x) / 0.6`` are activations with a name. A sigmoid is a gate, and a limit on both
sides keeps a value in range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dcsurgery.catalog import Match

__all__ = ["constants_of", "is_meant"]

_LOG2 = math.log(2.0)
_SCALED_SILU = 1 / 0.6  # GemNet's; DimeNet and others write the same constant
_PIECEWISE = frozenset({"relu", "leaky_relu"})


def is_meant(match: Match, inner: Sequence[Match], wrapped: Match | None, *, written: bool) -> bool:
    """Say whether an expression is one activation or gate as a whole.

    Parameters
    ----------
    match
        What the whole expression behaves like.
    inner
        The activations and gates inside that are sites of their own otherwise.
    wrapped
        The one of them that alone carries the expression's data, so that the rest is around it.
    written
        Whether that one is written out, too, and no call.
    """
    scale, shift = match.parameters.get("scale", 1.0), match.parameters.get("shift", 0.0)
    plain = scale == 1.0 and shift == 0.0
    name = match.operator.name
    if match.operator.role == "gate":
        return plain
    if name == "hardtanh" or (name in _PIECEWISE and scale != 1.0):
        return False  # a limit; and a residual around a ReLU, which has two slopes as well
    if wrapped is None:
        return plain or all(found.operator.role != "activation" for found in inner)
    if wrapped.operator.role != "activation":
        return plain
    if name != wrapped.operator.name:
        return False
    return _has_a_name(match, scale, shift) or (written and constants_of(match) < constants_of(wrapped))


def _has_a_name(match: Match, scale: float, shift: float) -> bool:
    """Say whether constants around an activation make a known compound: shifted softplus, scaled SiLU."""
    if match.operator.name == "softplus":
        beta = float(match.parameters.get("beta", 1.0))
        return scale == 1.0 and abs(shift + _LOG2 / beta) < 1e-6
    return match.operator.name == "silu" and shift == 0.0 and abs(scale - _SCALED_SILU) < 1e-3


def constants_of(match: Match) -> int:
    """Return how many numbers stand between a match and the operator itself."""
    return sum(name in match.parameters for name in ("scale", "shift", "gain"))
