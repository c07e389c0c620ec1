"""Activations written out in the middle of a function: ``x * torch.sigmoid(x)``, ``F.softplus(x) - math.log(2)``.

An expression counts when, as a function of one tensor in it (its *source*), it has the values of a row of the catalog,
in the live function's globals and closure. It is found in the source, once for all the ways in which it is reached, and
is one site; the calls inside are none of their own.
"""

from __future__ import annotations

from dcsurgery.idioms.finding import Idiom, idioms_in
from dcsurgery.idioms.surroundings import Surroundings

__all__ = ["Idiom", "Surroundings", "idioms_in"]
