"""The closed-form spherical basis, against SciPy and against PyG's symbolic one."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre, spherical_jn

from dcsurgery.zoo.ocp.spherical import SphericalBasis, spherical_bessel_zeros


@pytest.fixture(scope="module")
def points():
    generator = torch.Generator().manual_seed(0)
    dist = torch.rand(30, generator=generator, dtype=torch.float64) * 5.2 + 0.8  # some beyond the cutoff
    angle = torch.rand(80, generator=generator, dtype=torch.float64) * np.pi
    return dist, angle, torch.randint(0, 30, (80,), generator=generator)


def test_zeros_are_the_first_zeros_of_the_spherical_bessel_functions():
    zeros = spherical_bessel_zeros(7, 6)
    for order, row in enumerate(zeros):
        assert np.abs(spherical_jn(order, row)).max() < 1e-12
        fine = spherical_jn(order, np.linspace(1e-3, row[-1] + 0.1, 5000))
        assert (np.diff(np.sign(fine[np.abs(fine) > 1e-12])) != 0).sum() == 6


def test_values_are_products_of_scipys_functions(points):
    dist, angle, idx_kj = points
    basis = SphericalBasis(5, 4, cutoff=5.0).double()(dist, angle, idx_kj).view(-1, 5, 4).numpy()
    x = (dist / 5.0).numpy()
    envelope = np.where(x < 1, 1 / x - 28 * x**5 + 48 * x**6 - 21 * x**7, 0.0)  # exponent 5
    for order, zeros in enumerate(spherical_bessel_zeros(5, 4)):
        harmonic = np.sqrt((2 * order + 1) / (4 * np.pi)) * eval_legendre(order, np.cos(angle.numpy()))
        for n, zero in enumerate(zeros):
            radial = spherical_jn(order, zero * x) * np.sqrt(2) / np.abs(spherical_jn(order + 1, zero))
            assert np.allclose(basis[:, order, n], (envelope * radial)[idx_kj.numpy()] * harmonic, atol=2e-5)


def test_values_and_derivatives_are_those_of_pygs_layer(points):
    from torch_geometric.nn.models.dimenet import SphericalBasisLayer

    dist, angle, idx_kj = points
    results = []
    for layer in (SphericalBasis(3, 2, 5.0, 5), SphericalBasisLayer(3, 2, 5.0, 5)):
        d, a = dist.clone().requires_grad_(), angle.clone().requires_grad_()
        value = layer.double()(d, a, idx_kj)
        first = torch.autograd.grad(value.pow(2).sum(), (d, a), create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), (d, a))
        results.append((value, *first, *second))
    for own, theirs in zip(*results, strict=True):
        assert torch.allclose(own, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


def test_it_pickles_copies_and_adds_nothing_to_the_state_dict(points):
    basis = SphericalBasis(3, 2)
    assert not basis.state_dict()
    points = (points[0].float(), points[1].float(), points[2])
    for other in (copy.deepcopy(basis), pickle.loads(pickle.dumps(basis))):
        assert torch.equal(other(*points), basis(*points))
