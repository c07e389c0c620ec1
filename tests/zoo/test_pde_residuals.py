"""Residuals vanish on exact solutions, agree with another way of differentiating, and the published ones do neither."""

import math

import pytest
import torch
from torch import nn
from torch.func import jvp

from dcsurgery.zoo.pde import exact, residuals
from dcsurgery.zoo.pde.backend import deepxde
from dcsurgery.zoo.pde.problems import PROBLEMS

LIMIT = 1e-10


def points(name, n=200, seed=0):
    """Points inside a problem's domain, float64; the wave of the gas breaks after 1.19."""
    of = PROBLEMS[name]
    low = torch.tensor([*(a for a, _ in of.domain), 0.0], dtype=torch.float64)
    high = torch.tensor([*(b for _, b in of.domain), of.end], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return (low + (high - low) * torch.rand(n, len(low), generator=generator, dtype=torch.float64)).requires_grad_()


def largest(tensors):
    return max(float(tensor.detach().abs().max()) for tensor in tensors)


@pytest.fixture(autouse=True)
def forget():
    yield
    deepxde().grad.clear()


class Fields(nn.Module):
    """A smooth network, tanh in float64."""

    def __init__(self, inputs, outputs):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(inputs, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, outputs))
        self.double()

    def forward(self, x):
        return self.net(x) + 1.5  # densities stay away from 0


def along(f, x, axis):
    """Derivative of f along a coordinate, by forward-mode differentiation."""
    direction = torch.zeros_like(x)
    direction[:, axis] = 1
    return jvp(f, (x,), (direction,))[1]


def twice_along(f, x, axis):
    return along(lambda z: along(f, z, axis), x, axis)


# -- exact solutions ---------------------------------------------------------------------------------------------------


def test_the_advection_residual_vanishes_on_moving_waves():
    x = points("advection")
    assert largest(residuals.advection(x, exact.advected_waves(x))) < LIMIT
    # The advected function itself, evaluated another way: where the wave was at t = 0.
    back = torch.stack([x[:, 0] - residuals.BETA * x[:, 1], torch.zeros(len(x), dtype=torch.float64)], 1)
    assert torch.allclose(exact.advected_waves(x), exact.advected_waves(back), rtol=0, atol=1e-13)


def test_the_flow_residuals_vanish_on_a_simple_wave_in_which_everything_varies():
    x = points("cfd")
    y = exact.simple_wave(x)
    assert min(float(field.detach().std()) for field in y.T) > 0.1
    assert largest(residuals.compressible_flow(x, y)) < LIMIT


def test_the_simple_wave_is_periodic_and_steepens_until_it_breaks():
    ends = torch.tensor([[-1.0, 0.7], [1.0, 0.7]], dtype=torch.float64)
    left, right = exact.simple_wave(ends)
    assert torch.allclose(left, right, rtol=0, atol=1e-12)
    x = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    slopes = [
        float(exact.simple_wave(torch.stack([x, torch.full_like(x, t)], 1))[:, 1].diff().abs().max() / (x[1] - x[0]))
        for t in (0.0, 0.5 * exact.simple_wave_breaks_at())
    ]
    assert slopes[1] == pytest.approx(2 * slopes[0], rel=0.01)  # 1/(1 - t/t_break)


def test_the_reaction_residuals_are_the_source_of_the_manufactured_fields():
    x = points("diffusion-reaction")
    found = torch.cat(residuals.diffusion_reaction(x, exact.manufactured_reaction(x)), 1)
    assert largest([found - exact.manufactured_source(x)]) < LIMIT


def test_the_manufactured_source_is_what_symbols_give():
    import sympy as sp

    x, y, t = sp.symbols("x y t")
    u = sp.exp(-t / 2) * sp.cos(sp.pi * x) * sp.cos(2 * sp.pi * y) + sp.Rational(3, 10)
    v = sp.cos(t) * sp.cos(2 * sp.pi * x) / 2 + sp.cos(sp.pi * y) / 10
    (d_u, d_v), k = residuals.DIFFUSION, residuals.FEED
    first = sp.diff(u, t) - d_u * (sp.diff(u, x, 2) + sp.diff(u, y, 2)) - (u - u**3 - k - v)
    second = sp.diff(v, t) - d_v * (sp.diff(v, x, 2) + sp.diff(v, y, 2)) - (u - v)
    numeric = sp.lambdify((x, y, t), [first, second], "math")
    at = points("diffusion-reaction", 20).detach()
    wanted = torch.tensor([numeric(*row) for row in at.tolist()], dtype=torch.float64)
    assert largest([exact.manufactured_source(at) - wanted]) < 1e-12


def test_the_reaction_rests_where_both_residuals_say_so():
    x = points("diffusion-reaction")
    assert largest(residuals.diffusion_reaction(x, exact.resting_reaction(x))) < LIMIT


# -- another way of differentiating ------------------------------------------------------------------------------------


def test_advection_agrees_with_forward_differentiation():
    x, net = points("advection"), Fields(2, 1)
    z = x.detach()
    wanted = along(net, z, 1) + 0.1 * along(net, z, 0)
    assert largest([residuals.advection(x, net(x))[0] - wanted]) < LIMIT


def test_flow_agrees_with_forward_differentiation_of_the_conserved_fields():
    x, net = points("cfd"), Fields(2, 3)
    z, gamma = x.detach(), residuals.GAMMA

    def mass(z):
        return net(z)[:, :1]

    def impulse(z):
        d, v, _ = net(z).split(1, 1)
        return d * v

    def energy(z):
        d, v, p = net(z).split(1, 1)
        return p / (gamma - 1) + d * v * v / 2

    def push(z):
        d, v, p = net(z).split(1, 1)
        return d * v * v + p

    def flux(z):
        _, v, p = net(z).split(1, 1)
        return v * (energy(z) + p)

    found = residuals.compressible_flow(x, net(x))
    continuity = along(mass, z, 1) + along(impulse, z, 0)
    assert largest([found[0] - continuity]) < LIMIT
    # d(rho v)/dt + d(rho v^2 + p)/dx = momentum + v * continuity
    conservative = along(impulse, z, 1) + along(push, z, 0)
    assert largest([found[1] - (conservative - net(z)[:, 1:2] * continuity)]) < LIMIT
    assert largest([found[2] - (along(energy, z, 1) + along(flux, z, 0))]) < LIMIT


def test_reaction_agrees_with_forward_differentiation_and_with_differences():
    x, net = points("diffusion-reaction", 50), Fields(3, 2)
    z = x.detach()
    u, v = net(z).split(1, 1)
    laplace = twice_along(net, z, 0) + twice_along(net, z, 1)
    rate = along(net, z, 2)
    reactions = torch.cat([u - u**3 - 0.005 - v, u - v], 1)
    wanted = rate - torch.tensor([1e-3, 5e-3], dtype=torch.float64) * laplace - reactions
    found = torch.cat(residuals.diffusion_reaction(x, net(x)), 1)
    assert largest([found - wanted]) < LIMIT
    h = 1e-3
    steps = torch.eye(3, dtype=torch.float64) * h
    differences = (net(z + steps[0]) + net(z - steps[0]) + net(z + steps[1]) + net(z - steps[1]) - 4 * net(z)) / h**2
    assert torch.allclose(differences, laplace, rtol=0, atol=1e-5)


# -- the published ones ------------------------------------------------------------------------------------------------


def literal_flow(x, y):
    """The published flow residual with its broadcast written out: n x n values."""
    gamma = residuals.GAMMA
    d, v, p = y.split(1, 1)
    energy = (p / (gamma - 1) + 0.5 * d * v**2).unsqueeze(1)  # (n, 1, 1): the mistake
    pairs = v * (energy + p)

    def slope(z, j):
        return torch.autograd.grad(z, x, torch.ones_like(z), create_graph=True)[0][:, j : j + 1]

    assert pairs.shape == (len(x), len(x), 1)
    one = slope(d, 1) + slope(d * v, 0)
    two = d * (slope(v, 1) + v * slope(v, 0)) - slope(p, 0)
    return one + two + (slope(energy, 1) + slope(pairs, 0))


@pytest.mark.parametrize("n", [1, 2, 23])
def test_the_published_flow_is_the_literal_one_without_its_n_squared_values(n):
    x, net = points("cfd", n), Fields(2, 3)
    y = net(x)
    wanted = literal_flow(x, y)
    (found,) = residuals.published_compressible_flow(x, y)
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12 * n)
    grads = [torch.autograd.grad(r.square().mean(), net.parameters(), retain_graph=True) for r in (found, wanted)]
    for a, b in zip(*grads, strict=True):
        if a is not None:
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_the_published_flow_leaves_twice_the_pressure_gradient_of_an_exact_solution():
    """With one point its flux is right, and what is left is the sign of p_x."""
    x = points("cfd", 1)
    y = exact.simple_wave(x)
    (found,) = residuals.published_compressible_flow(x, y)
    p_x = torch.autograd.grad(y[:, 2].sum(), x)[0][0, 0]
    assert abs(p_x) > 0.05
    assert float(found.detach()) == pytest.approx(-2 * float(p_x), rel=1e-9)


def test_the_published_flux_grows_with_the_number_of_points():
    sizes = []
    for n in (10, 100, 1000):
        x = points("cfd", n)
        (found,) = residuals.published_compressible_flow(x, exact.simple_wave(x))
        sizes.append(float(found.detach().square().mean().sqrt()))
    assert 5 < sizes[1] / sizes[0] < 20 and 5 < sizes[2] / sizes[1] < 20
    assert sizes[0] > 1  # the exact residual is 0


def test_the_published_reaction_takes_a_state_for_a_solution_in_which_two_errors_cancel():
    x = points("diffusion-reaction")
    u = 1.0
    v = u - (u**3 + residuals.FEED) / 2
    zero = 0 * (x**3).sum(1, keepdim=True)
    y = torch.cat([zero + u, zero + v], 1)
    first, second = residuals.diffusion_reaction(x, y)
    (published,) = residuals.published_diffusion_reaction(x, y)
    assert largest([published]) < LIMIT
    assert float(first.detach().mean()) == pytest.approx(-float(second.detach().mean()), abs=1e-12)
    assert math.sqrt(float(first.detach().square().mean())) == pytest.approx(0.5025, abs=1e-4)


def test_the_old_advection_data_moves_at_twice_the_speed_of_the_equation():
    x = points("advection")
    wrong = torch.stack([x[:, 0], 2 * x[:, 1]], 1)
    left = residuals.advection(x, exact.advected_waves(wrong))[0]
    slope = torch.autograd.grad(exact.advected_waves(wrong).sum(), x)[0][:, :1]
    assert largest([left + residuals.BETA * slope]) < LIMIT
    assert float(left.detach().square().mean().sqrt()) > 0.5
