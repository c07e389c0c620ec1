"""Families of initial conditions, after PDEBench's: sums of few sines, white noise. Each draws from its own generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Waves", "advection_waves", "gas", "noise", "random_waves"]

Array = NDArray[Any]
Waves = Callable[[Array], Array]

# Window of width w: ½ (tanh((x - left)/w) - tanh((x - right)/w)), as fractions of the domain.
_WINDOW_WIDTH = 0.01
_LEFT, _RIGHT = (0.1, 0.45), (0.55, 0.9)


def random_waves(rng: np.random.Generator, *, most: int, number: int, length: float) -> Waves:
    """Draw Σ A sin(2π k x / length + φ): ``number`` waves with k in 1 … ``most`` (with repetition), A in [0, 1)."""
    k = 2 * np.pi * rng.integers(1, most + 1, number) / length
    amplitude, phase = rng.random(number), 2 * np.pi * rng.random(number)

    def waves(x: Array) -> Array:
        return (amplitude[:, None] * np.sin(k[:, None] * x.ravel() + phase[:, None])).sum(0).reshape(x.shape)

    return waves


def _window(rng: np.random.Generator, low: float, length: float) -> Waves:
    left, right = (low + length * rng.uniform(*ends) for ends in (_LEFT, _RIGHT))
    width = _WINDOW_WIDTH * length
    return lambda x: 0.5 * (np.tanh((x - left) / width) - np.tanh((x - right) / width))


def advection_waves(rng: np.random.Generator) -> Waves:
    """Draw u(x, 0) on [0, 1]: two waves; of every ten one is rectified and given a sign, and one is cut by a window.

    The function is defined for every x and has period 1, so that u(x - βt) is the exact solution.
    """
    waves = random_waves(rng, most=4, number=2, length=1.0)
    rectified, windowed = rng.random(2) < 0.1
    sign = rng.choice((-1.0, 1.0))
    window = _window(rng, 0.0, 1.0)

    def initial(x: Array) -> Array:
        x = np.mod(x, 1.0)
        u = sign * np.abs(waves(x)) if rectified else waves(x)
        return u * window(x) if windowed else u

    return initial


def gas(rng: np.random.Generator) -> Waves:
    """Draw ρ, v, p at t = 0 on [-1, 1], last axis of length 3.

    Density and pressure are b + m s, with s a sum of two waves (k up to 3) scaled to [0, 1] and b, m drawn evenly in the
    logarithm from [1, 10] and [10, 100]; the velocity is a sum of two waves. In every second sample s and v are cut by
    a window.
    """
    shapes = [random_waves(rng, most=3, number=2, length=2.0) for _ in range(3)]
    scale = {0: (1.0, 10.0), 2: (10.0, 100.0)}
    base = {channel: np.exp(rng.uniform(np.log(ends[0]), np.log(ends[1]), 2)) for channel, ends in scale.items()}
    windowed = rng.random() < 0.5
    window = _window(rng, -1.0, 2.0)
    # The range of each sum, on a grid of its own, so that the fields do not depend on the grid they are sampled on.
    fine = np.linspace(-1, 1, 4001)
    ends = [(shape(fine).min(), np.ptp(shape(fine))) for shape in shapes]

    def initial(x: Array) -> Array:
        cut = window(x) if windowed else np.ones_like(x)
        fields = []
        for channel, (shape, (low, span)) in enumerate(zip(shapes, ends, strict=True)):
            if channel in base:
                floor, height = base[channel]
                fields.append(floor + height * cut * (shape(x) - low) / span)
            else:
                fields.append(cut * shape(x))
        return np.stack(fields, axis=-1)

    return initial


def noise(seed: int, cells: int) -> tuple[Array, Array]:
    """Return u, v at t = 0, each (n_x, n_y): independent normal numbers of NumPy's old generator, as published.

    The numbers are drawn with y as the slow axis, so that seed and grid of PDEBench's files give PDEBench's fields.
    """
    draw = np.random.RandomState(seed)  # the published fields were drawn with it
    u, v = draw.randn(cells * cells), draw.randn(cells * cells)
    return u.reshape(cells, cells).T.copy(), v.reshape(cells, cells).T.copy()
