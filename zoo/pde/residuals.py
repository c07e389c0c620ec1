"""What the equations leave over: residuals of the three PDEs, as they are and as PDEBench's PINN code has them.

Each function takes coordinates ``x`` (n_points, dim) with gradients enabled, space first and time last, and fields
``y`` (n_points, channels) computed from them, and returns the residuals, each (n_points, 1). Derivatives are DeepXDE's,
which keeps them for the conditions that need them too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dcsurgery.zoo.pde.backend import deepxde

__all__ = [
    "BETA",
    "DIFFUSION",
    "FEED",
    "GAMMA",
    "Residual",
    "advection",
    "compressible_flow",
    "diffusion_reaction",
    "published_compressible_flow",
    "published_diffusion_reaction",
]

Residual = Callable[[Tensor, Tensor], list[Tensor]]

#: Speed of the advection, ratio of specific heats, diffusion coefficients of u and v, feed k of the reaction.
BETA = 0.1
GAMMA = 1.6666666667
DIFFUSION = (1e-3, 5e-3)
FEED = 5e-3


def _jacobian(y: Tensor, x: Tensor, i: int, j: int) -> Tensor:
    return deepxde().grad.jacobian(y, x, i=i, j=j)


def _hessian(y: Tensor, x: Tensor, component: int, i: int) -> Tensor:
    grad: Any = deepxde().grad
    return grad.hessian(y, x, component=component, i=i, j=i)


def advection(x: Tensor, y: Tensor) -> list[Tensor]:
    """Return u_t + β u_x (Eq. 15 in one dimension; coordinates x, t)."""
    return [_jacobian(y, x, 0, 1) + BETA * _jacobian(y, x, 0, 0)]


def compressible_flow(x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the residuals of mass, momentum and energy of the Euler equations.

    ρ_t + (ρv)_x, ρ(v_t + v v_x) + p_x and E_t + (v (E + p))_x with E = p/(γ-1) + ρv²/2 (Eq. 17 to 19 without
    viscosity, which is 1e-8 in the data); fields ρ, v, p, coordinates x, t. The products are differentiated by the
    product rule: three passes back through the network instead of five.
    """
    density, velocity, pressure = y.split(1, dim=1)
    (d_x, v_x, p_x), (d_t, v_t, p_t) = ([_jacobian(y, x, i, j) for i in range(3)] for j in range(2))
    mass = d_t + d_x * velocity + density * v_x
    momentum = density * (v_t + velocity * v_x) + p_x
    kinetic = 0.5 * velocity**2
    energy = pressure / (GAMMA - 1) + density * kinetic
    e_t = p_t / (GAMMA - 1) + d_t * kinetic + density * velocity * v_t
    e_x = p_x / (GAMMA - 1) + d_x * kinetic + density * velocity * v_x
    return [mass, momentum, e_t + v_x * (energy + pressure) + velocity * (e_x + p_x)]


def published_compressible_flow(x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the one residual of the published code: mass + momentum with -p_x + energy with a flux of all points.

    There, E gets a third axis by mistake, so that v (E + p) broadcasts to all pairs of points, v_j (E_i + p_j), and its
    derivative at a point is that of the sum over all pairs. That sum is Σv ΣE + n Σ(v p): computed here directly, it
    costs n and not n² operations, and differs from the published code by rounding only.
    """
    density, velocity, pressure = y.split(1, dim=1)
    energy = pressure / (GAMMA - 1) + 0.5 * density * velocity**2
    flux = velocity.sum() * energy.sum() + len(y) * (velocity * pressure).sum()
    (flux_x,) = torch.autograd.grad(flux, x, create_graph=True)
    mass = _jacobian(y, x, 0, 1) + _jacobian(density * velocity, x, 0, 0)
    momentum = density * (_jacobian(y, x, 1, 1) + velocity * _jacobian(y, x, 1, 0)) - _jacobian(y, x, 2, 0)
    return [mass + momentum + (_jacobian(energy, x, 0, 1) + flux_x[:, 0:1])]


def diffusion_reaction(x: Tensor, y: Tensor) -> list[Tensor]:
    """Return u_t - D_u Δu - (u - u³ - k - v) and v_t - D_v Δv - (u - v) (Eq. 24, 25 with FitzHugh-Nagumo's signs).

    Fields u, v; coordinates x, y, t.
    """
    u, v = y.split(1, dim=1)
    reactions = (u - u * u * u - FEED - v, u - v)
    return [
        _jacobian(y, x, i, 2) - reaction - d * (_hessian(y, x, i, 0) + _hessian(y, x, i, 1))
        for i, (reaction, d) in enumerate(zip(reactions, DIFFUSION, strict=True))
    ]


def published_diffusion_reaction(x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the sum of both equations' residuals, as the published code has it."""
    first, second = diffusion_reaction(x, y)
    return [first + second]
