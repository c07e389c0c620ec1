"""A solver of the FitzHugh-Nagumo diffusion-reaction equations on a square with no flux through its sides.

Method of lines: the five-point Laplacian between cell centres, second order, and scipy's Runge-Kutta 5(4) in time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcsurgery.errors import BadInput
from dcsurgery.zoo.pde.residuals import DIFFUSION, FEED

__all__ = ["laplacian", "solve"]

Array = NDArray[Any]


def laplacian(u: Array, cell: float) -> Array:
    """Return Δu of cell values (n_x, n_y); a value beyond a side equals that of the cell inside."""
    p = np.pad(u, 1, mode="edge")
    return (p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] - 4 * u) / cell**2


def solve(
    u: Array,
    v: Array,
    times: Array,
    length: float = 2.0,
    *,
    tolerance: float = 1e-6,
    source: Callable[[float], tuple[Array, Array]] | None = None,
    progress: Callable[[float], object] | None = None,
) -> tuple[Array, int]:
    """Solve the equations from cell values.

    Parameters
    ----------
    u, v
        Activator and inhibitor at the first time, (n, n).
    times
        Times at which the fields are wanted, ascending.
    length
        Side of the square.
    tolerance
        Relative tolerance of the time steps; the absolute one is a hundredth of it.
    source
        Added to the right-hand sides, for tests.
    progress
        Called with the time, after every evaluation of the right-hand side.

    Returns
    -------
    fields, evaluations
        (n_times, n, n, 2) float64, and how often the right-hand side was evaluated.

    Raises
    ------
    BadInput
        If scipy is missing or gives up.
    """
    try:
        from scipy.integrate import solve_ivp
    except ImportError:
        raise BadInput("this solver needs scipy", fix='install it with pip install "dcsurgery[pde]"') from None
    shape, cell = u.shape, length / len(u)

    def rate(time: float, flat: Array) -> Array:
        a, b = flat.reshape(2, *shape)
        a_t = DIFFUSION[0] * laplacian(a, cell) + a - a**3 - FEED - b
        b_t = DIFFUSION[1] * laplacian(b, cell) + a - b
        if source is not None:
            extra = source(time)
            a_t, b_t = a_t + extra[0], b_t + extra[1]
        if progress is not None:
            progress(time)
        return np.concatenate([a_t.ravel(), b_t.ravel()])

    start = np.concatenate([u.ravel(), v.ravel()])
    done = solve_ivp(
        rate, (times[0], times[-1]), start, method="RK45", t_eval=times, rtol=tolerance, atol=tolerance / 100
    )
    if not done.success:
        raise BadInput(f"the time steps failed: {done.message}", where="diffusion-reaction solver")
    return np.moveaxis(done.y.T.reshape(len(times), 2, *shape), 1, -1), int(done.nfev)
