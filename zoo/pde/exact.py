"""Exact solutions of the three PDEs, as functions of coordinates (n_points, dim) that can be differentiated.

They prove residuals and solvers: nothing here is computed by either.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dcsurgery.zoo.pde.residuals import BETA, DIFFUSION, FEED, GAMMA

__all__ = [
    "Solution",
    "advected_waves",
    "manufactured_reaction",
    "manufactured_source",
    "resting_reaction",
    "simple_wave",
    "simple_wave_breaks_at",
]

Solution = Callable[[Tensor], Tensor]

_BACKGROUND = (1.0, 1.0)  # density and pressure of the gas at rest
_AMPLITUDE = 0.2


def advected_waves(points: Tensor) -> Tensor:
    """Return u = sin(2π ξ + 0.3) + ½ cos(6π ξ), ξ = x - β t: a solution of the advection equation, periodic on [0, 1]."""
    wave = points[:, :1] - BETA * points[:, 1:2]
    return torch.sin(2 * math.pi * wave + 0.3) + 0.5 * torch.cos(6 * math.pi * wave)


def simple_wave(points: Tensor, amplitude: float = _AMPLITUDE) -> Tensor:
    """Return ρ, v, p of an isentropic wave that runs to the right, periodic on [-1, 1], before it breaks.

    The Riemann invariant v - 2c/(γ-1) is the same everywhere, and v is constant along x - (v + c) t: with
    v = a sin(π ξ), c = c₀ + (γ-1) v/2, ρ = ρ₀ (c/c₀)^(2/(γ-1)) and p = p₀ (c/c₀)^(2γ/(γ-1)) this solves the Euler
    equations exactly, with all three fields varying. ξ solves ξ + (v(ξ) + c(ξ)) t = x, here by Newton's method; its
    last step is taken with gradients, which makes them those of the implicit function, up to second order.
    """
    x, t = points[:, :1], points[:, 1:2]
    sound = math.sqrt(GAMMA * _BACKGROUND[1] / _BACKGROUND[0])
    slope = 0.5 * (GAMMA + 1)  # d(v + c)/dv

    def step(xi: Tensor) -> Tensor:
        velocity = amplitude * torch.sin(math.pi * xi)
        off = xi + (sound + slope * velocity) * t - x
        return xi - off / (1 + slope * amplitude * math.pi * torch.cos(math.pi * xi) * t)

    with torch.no_grad():
        xi = x - sound * t
        for _ in range(60):
            xi = step(xi)
    xi = step(step(xi))
    velocity = amplitude * torch.sin(math.pi * xi)
    ratio = 1 + 0.5 * (GAMMA - 1) * velocity / sound
    density = _BACKGROUND[0] * ratio ** (2 / (GAMMA - 1))
    pressure = _BACKGROUND[1] * ratio ** (2 * GAMMA / (GAMMA - 1))
    return torch.cat([density, velocity, pressure], dim=1)


def simple_wave_breaks_at(amplitude: float = _AMPLITUDE) -> float:
    """Return the time at which the wave's steepest part becomes a shock."""
    return 1 / (0.5 * (GAMMA + 1) * amplitude * math.pi)


def resting_reaction(points: Tensor) -> Tensor:
    """Return u = v = -k^(1/3): the state in which the reaction rests."""
    # The zero term makes derivatives exist that are then 0.
    return 0 * (points**3).sum(1, keepdim=True) - points.new_full((len(points), 2), FEED ** (1 / 3))


def manufactured_reaction(points: Tensor) -> Tensor:
    """Return fields u, v that satisfy the Neumann conditions on [-1, 1]² and, with `manufactured_source`, the equations.

    u = e^(-t/2) cos(πx) cos(2πy) + 0.3 and v = ½ cos(t) cos(2πx) + 0.1 cos(πy).
    """
    x, y, t = points.split(1, dim=1)
    u = torch.exp(-t / 2) * torch.cos(math.pi * x) * torch.cos(2 * math.pi * y) + 0.3
    v = 0.5 * torch.cos(t) * torch.cos(2 * math.pi * x) + 0.1 * torch.cos(math.pi * y)
    return torch.cat([u, v], dim=1)


def manufactured_source(points: Tensor) -> Tensor:
    """Return the right-hand sides that the fields of `manufactured_reaction` need, worked out by hand."""
    x, y, t = points.split(1, dim=1)
    u, v = manufactured_reaction(points).split(1, dim=1)
    wave = u - 0.3
    u_t, u_laplace = -0.5 * wave, -5 * math.pi**2 * wave
    first, second = torch.cos(2 * math.pi * x), torch.cos(math.pi * y)
    v_t = -0.5 * torch.sin(t) * first
    v_laplace = -2 * math.pi**2 * torch.cos(t) * first - 0.1 * math.pi**2 * second
    source_u = u_t - DIFFUSION[0] * u_laplace - (u - u**3 - FEED - v)
    source_v = v_t - DIFFUSION[1] * v_laplace - (u - v)
    return torch.cat([source_u, source_v], dim=1)
