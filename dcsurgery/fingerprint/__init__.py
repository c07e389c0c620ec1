"""Name a callable that nobody listed by what it does: y = scale * f(gain * x) + shift for a row f of the catalog.

The callable is probed on a float64 grid, tested for being elementwise and deterministic, and compared with every
reference curve. Scale and shift follow linearly (least squares); the gain from a table of half octaves, refined by
Gauss-Newton steps; settings such as a negative slope from closed forms. A match has to agree within 1e-7 of the
callable's deviation from a straight line, so that a nearly linear function does not pass for anything.
"""

from __future__ import annotations

from dcsurgery.fingerprint.probing import identify

__all__ = ["identify"]
