"""A finite volume solver of the one-dimensional Euler equations, second order in space, third in time.

MUSCL reconstruction of the primitive fields with the monotonized central limiter, HLLC fluxes, and the three-stage
strong-stability-preserving Runge-Kutta method; periodic. Sources: van Leer 1979 (MUSCL), Toro, *Riemann Solvers and
Numerical Methods for Fluid Dynamics*, chapter 10 (HLLC), Shu and Osher 1988 (time steps).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcsurgery.errors import BadInput
from dcsurgery.zoo.pde.residuals import GAMMA

__all__ = ["conserved", "primitive", "solve"]

Array = NDArray[Any]

_COURANT = 0.6
# Values of cells beyond either end that a flux at the end depends on.
_GHOSTS = 2


def conserved(fields: Array) -> Array:
    """Return ρ, ρv, E of ρ, v, p; the first axis is the channel."""
    density, velocity, pressure = fields
    return np.stack([density, density * velocity, pressure / (GAMMA - 1) + 0.5 * density * velocity**2])


def primitive(state: Array) -> Array:
    """Return ρ, v, p of ρ, ρv, E; the first axis is the channel."""
    density, impulse, energy = state
    velocity = impulse / density
    return np.stack([density, velocity, (GAMMA - 1) * (energy - 0.5 * impulse * velocity)])


def solve(
    initial: Array, times: Array, length: float, *, progress: Callable[[float], object] | None = None
) -> tuple[Array, int]:
    """Solve the Euler equations from cell averages.

    Parameters
    ----------
    initial
        ρ, v, p in each cell, (n_cells, 3).
    times
        Times at which the fields are wanted, ascending, the first is that of ``initial``.
    length
        Length of the periodic domain.
    progress
        Called with the time after every step.

    Returns
    -------
    fields, steps
        (n_times, n_cells, 3) float64, and the number of time steps.

    Raises
    ------
    BadInput
        If a density or pressure is not positive or the flow cannot be continued; the message names time and cell.
    """
    fields = np.ascontiguousarray(initial.T, dtype=np.float64)
    _check(fields, float(times[0]))
    cell = length / fields.shape[1]
    state, time, steps = conserved(fields), float(times[0]), 0
    result = [fields.T]
    for target in times[1:]:
        while time < target:
            fields = primitive(state)
            _check(fields, time)
            speed = np.abs(fields[1]) + np.sqrt(GAMMA * fields[2] / fields[0])
            step = _COURANT * cell / float(speed.max())
            # Of the last two steps to a frame neither becomes tiny.
            left = float(target) - time
            step = left if step >= left else min(step, 0.5 * left) if step > 0.5 * left else step
            state = _advanced(state, step, cell)
            time = float(target) if step == left else time + step
            steps += 1
            if progress is not None:
                progress(time)
        fields = primitive(state)
        _check(fields, time)
        result.append(fields.T)
    return np.stack(result), steps


def _check(fields: Array, time: float) -> None:
    good = np.isfinite(fields).all(0) & (fields[0] > 0) & (fields[2] > 0)
    if not good.all():
        cell = int(np.argmin(good))
        raise BadInput(
            f"density {fields[0, cell]:.3g} and pressure {fields[2, cell]:.3g} at time {time:.4g} in cell {cell}: "
            "both must be positive",
            where="Euler solver",
            fix="use more cells, or another initial condition",
        )


def _advanced(state: Array, step: float, cell: float) -> Array:
    first = state + step * _rate(state, cell)
    second = 0.75 * state + 0.25 * (first + step * _rate(first, cell))
    return state / 3 + 2 / 3 * (second + step * _rate(second, cell))


def _rate(state: Array, cell: float) -> Array:
    """Return the time derivative of the cell averages, (3, n_cells)."""
    padded = np.concatenate([state[:, -_GHOSTS:], state, state[:, :_GHOSTS]], axis=1)
    fields = primitive(padded)
    half = 0.5 * _limited(fields)
    inner = fields[:, 1:-1]
    flux = _hllc((inner + half)[:, :-1], (inner - half)[:, 1:])  # at the n_cells + 1 faces
    return (flux[:, :-1] - flux[:, 1:]) / cell


def _limited(fields: Array) -> Array:
    """Return the limited slope of all but the outermost cells: the least of 2Δ₋, (Δ₋ + Δ₊)/2, 2Δ₊ where signs agree."""
    steps = np.diff(fields, axis=1)
    back, ahead = steps[:, :-1], steps[:, 1:]
    size = np.minimum(2 * np.minimum(np.abs(back), np.abs(ahead)), 0.5 * np.abs(back + ahead))
    return np.where(back * ahead > 0, np.copysign(size, back), 0.0)


def _hllc(left: Array, right: Array) -> Array:
    """Return the flux between two states ρ, v, p at each face."""
    (d_l, v_l, p_l), (d_r, v_r, p_r) = left, right
    c_l, c_r = np.sqrt(GAMMA * p_l / d_l), np.sqrt(GAMMA * p_r / d_r)
    # Speeds of the outer waves, with Roe's averages, and of the contact between them.
    w_l, w_r = np.sqrt(d_l), np.sqrt(d_r)
    state_l, state_r = conserved(left), conserved(right)
    enthalpy = ((state_l[2] + p_l) / w_l + (state_r[2] + p_r) / w_r) / (w_l + w_r)
    mean = (w_l * v_l + w_r * v_r) / (w_l + w_r)
    sound = np.sqrt((GAMMA - 1) * np.maximum(enthalpy - 0.5 * mean**2, 1e-12))
    s_l, s_r = np.minimum(v_l - c_l, mean - sound), np.maximum(v_r + c_r, mean + sound)
    m_l, m_r = d_l * (s_l - v_l), d_r * (s_r - v_r)
    contact = (p_r - p_l + v_l * m_l - v_r * m_r) / (m_l - m_r)
    leftward = contact >= 0
    density, velocity, pressure = (np.where(leftward, a, b) for a, b in zip(left, right, strict=True))
    speed, state = np.where(leftward, s_l, s_r), np.where(leftward, state_l, state_r)
    flux = velocity * state
    flux[1] += pressure
    flux[2] += velocity * pressure
    # Between an outer wave and the contact: F + S (U* - U).
    mass = density * (speed - velocity) / (speed - contact)
    energy = state[2] / density + (contact - velocity) * (contact + pressure / (density * (speed - velocity)))
    middle = speed * (mass * np.stack([np.ones_like(mass), contact, energy]) - state)
    inside = (s_l < 0) & (s_r > 0)
    return np.where(inside, flux + middle, flux)
