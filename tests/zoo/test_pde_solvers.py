"""The solvers converge at their order, conserve, and agree with solutions that other means give."""

import numpy as np
import pytest
import torch

from dcsurgery.errors import BadInput
from dcsurgery.zoo.pde import euler, exact, initial_conditions, reaction
from dcsurgery.zoo.pde.residuals import DIFFUSION, GAMMA


def averages(cells, time, length=2.0):
    """Cell averages of the simple wave, by Gauss's five points."""
    centres = -1 + length * (np.arange(cells) + 0.5) / cells
    nodes, weights = np.polynomial.legendre.leggauss(5)
    x = (centres[:, None] + 0.5 * length / cells * nodes).ravel()
    fields = exact.simple_wave(torch.tensor(np.stack([x, np.full_like(x, time)], 1))).numpy().T
    return euler.conserved(fields).reshape(3, cells, 5) @ (weights / 2)


def test_the_flow_solver_is_of_second_order_on_a_nonlinear_wave_and_conserves():
    end, errors = 0.4 * exact.simple_wave_breaks_at(), []
    for cells in (32, 64, 128):
        start = averages(cells, 0.0)
        fields, _ = euler.solve(euler.primitive(start).T, np.array([0.0, end]), 2.0)
        final = euler.conserved(fields[-1].T)
        errors.append(np.abs(final - averages(cells, end)).mean())
        assert np.abs(final.sum(1) - start.sum(1)).max() < 1e-12 * cells
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 1.85).all() and errors[-1] < 2e-4


def riemann(left, right, speeds):
    """Density, velocity, pressure of the exact solution of a Riemann problem at x/t (bisection for the middle pressure)."""
    g = GAMMA

    def jump(p, state):
        d, _, p0 = state
        if p > p0:
            return (p - p0) * np.sqrt(2 / ((g + 1) * d) / (p + (g - 1) / (g + 1) * p0))
        return 2 * np.sqrt(g * p0 / d) / (g - 1) * ((p / p0) ** ((g - 1) / (2 * g)) - 1)

    low, high = 1e-8, 100.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if jump(middle, left) + jump(middle, right) + right[1] - left[1] > 0:
            high = middle
        else:
            low = middle
    v = 0.5 * (left[1] + right[1]) + 0.5 * (jump(low, right) - jump(low, left))
    result = []
    for s in speeds:
        side, sign = (left, 1) if s < v else (right, -1)
        d0, v0, p0 = side
        c0 = np.sqrt(g * p0 / d0)
        rel, v_rel, vm_rel = sign * s, sign * v0, sign * v  # mirrored so that the wave runs to the left
        if low > p0:
            front = v_rel - c0 * np.sqrt((g + 1) / (2 * g) * low / p0 + (g - 1) / (2 * g))
            ratio = low / p0
            d = d0 * (ratio + (g - 1) / (g + 1)) / ((g - 1) / (g + 1) * ratio + 1)
            result.append((d0, v0, p0) if rel < front else (d, v, low))
        else:
            c = c0 * (low / p0) ** ((g - 1) / (2 * g))
            if rel < v_rel - c0:
                result.append((d0, v0, p0))
            elif rel > vm_rel - c:
                result.append((d0 * (low / p0) ** (1 / g), v, low))
            else:
                fan = 2 / (g + 1) + (g - 1) / ((g + 1) * c0) * (v_rel - rel)
                vf = 2 / (g + 1) * (c0 + (g - 1) / 2 * v_rel + rel)
                result.append((d0 * fan ** (2 / (g - 1)), sign * vf, p0 * fan ** (2 * g / (g - 1))))
    return np.array(result)


def test_the_flow_solver_finds_shock_contact_and_fan_of_a_shock_tube():
    left, right, time, errors = (1.0, 0.0, 1.0), (0.125, 0.0, 0.1), 0.2, []
    for cells in (100, 200, 400):
        x = -1 + 2 * (np.arange(cells) + 0.5) / cells
        start = np.where((x < 0)[:, None], left, right)
        fields, _ = euler.solve(start, np.array([0.0, time]), 2.0)
        inside = np.abs(x) < 0.6  # the jump at the periodic ends sends waves of its own
        wanted = riemann(left, right, x[inside] / time)
        errors.append(np.abs(fields[-1][inside] - wanted).mean(0).sum())
    assert errors[0] > 1.5 * errors[1] > 2.2 * errors[2] and errors[-1] < 0.02


def test_the_flow_solver_says_where_a_pressure_is_not_positive():
    start = np.ones((16, 3))
    start[5, 2] = -1
    with pytest.raises(BadInput, match=r"pressure -1 at time 0 in cell 5: both must be positive"):
        euler.solve(start, np.array([0.0, 0.1]), 2.0)


def manufactured(cells, times):
    centres = -1 + 2 * (np.arange(cells) + 0.5) / cells
    x, y = np.meshgrid(centres, centres, indexing="ij")

    def at(function, time):
        points = np.stack([x.ravel(), y.ravel(), np.full(x.size, time)], 1)
        return np.moveaxis(function(torch.tensor(points)).numpy().reshape(cells, cells, 2), -1, 0)

    u, v = at(exact.manufactured_reaction, times[0])
    fields, _ = reaction.solve(
        u, v, np.array(times), tolerance=1e-8, source=lambda t: tuple(at(exact.manufactured_source, t))
    )
    return np.abs(fields[-1] - np.moveaxis(at(exact.manufactured_reaction, times[-1]), 0, -1)).max()


def test_the_reaction_solver_is_of_second_order():
    errors = [manufactured(cells, (0.0, 0.5)) for cells in (16, 32, 64)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 1.8).all() and errors[-1] < 5e-4


def test_the_reaction_solver_agrees_with_cosine_transforms():
    """Strang splitting: diffusion exactly in cosines, the reaction by small Runge-Kutta steps."""
    from scipy.fft import dctn, idctn

    cells, end, steps = 16, 0.5, 400
    u, v = initial_conditions.noise(0, cells)
    fields, _ = reaction.solve(u, v, np.array([0.0, end]), tolerance=1e-9)
    wave = np.arange(cells)
    eigen = -4 * np.sin(np.pi * wave / (2 * cells)) ** 2 / (2 / cells) ** 2
    decay = [np.exp(d * end / steps / 2 * (eigen[:, None] + eigen[None, :])) for d in DIFFUSION]

    def rate(w):
        return np.stack([w[0] - w[0] ** 3 - 5e-3 - w[1], w[0] - w[1]])

    w, h = np.stack([u, v]), end / steps
    for _ in range(steps):
        w = np.stack([idctn(dctn(a, type=2) * b, type=2) for a, b in zip(w, decay, strict=True)])
        k1 = rate(w)
        k2 = rate(w + h / 2 * k1)
        k3 = rate(w + h / 2 * k2)
        w = w + h / 6 * (k1 + 2 * k2 + 2 * k3 + rate(w + h * k3))
        w = np.stack([idctn(dctn(a, type=2) * b, type=2) for a, b in zip(w, decay, strict=True)])
    assert np.abs(np.moveaxis(w, 0, -1) - fields[-1]).max() < 1e-5


# -- initial conditions ------------------------------------------------------------------------------------------------


def test_initial_conditions_are_their_families():
    x = np.linspace(0, 1, 501)
    waves = [initial_conditions.advection_waves(np.random.default_rng(seed))(x) for seed in range(200)]
    assert all(abs(wave[0] - wave[-1]) < 1e-12 and np.abs(wave).max() <= 2 for wave in waves)
    one_sign = sum((wave >= 0).all() or (wave <= 0).all() for wave in waves)
    cut = sum((np.abs(wave[:20]) < 1e-6).all() for wave in waves)
    assert 8 <= one_sign <= 40 and 8 <= cut <= 40  # a tenth each
    gas = [initial_conditions.gas(np.random.default_rng(seed))(2 * x - 1) for seed in range(50)]
    assert all(1 <= fields[:, 0].min() <= fields[:, 0].max() <= 20 + 1e-6 for fields in gas)
    assert all(10 <= fields[:, 2].min() <= fields[:, 2].max() <= 200 + 1e-6 for fields in gas)
    assert all(np.abs(fields[0] - fields[-1]).max() < 1e-9 * 200 for fields in gas)


def test_noise_is_drawn_as_the_published_fields_were():
    u, v = initial_conditions.noise(7, 8)
    np.random.seed(7)  # noqa: NPY002
    assert np.array_equal(u.T.ravel(), np.random.randn(64))  # noqa: NPY002
    assert np.array_equal(v.T.ravel(), np.random.randn(64))  # noqa: NPY002
