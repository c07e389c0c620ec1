"""SchNet, DimeNet++ and the CGConv model: equal to PyG's, and smooth in the positions."""

import copy

import pytest
import torch
from ase.build import molecule
from torch_geometric.nn import models as pyg
from torch_geometric.nn.models import dimenet

from dcsurgery.zoo import build
from dcsurgery.zoo.ocp import graph
from dcsurgery.zoo.ocp.pyg_models import CGConvNet, DimeNetPlusPlus, SchNet

NAMES = ["schnet", "dimenet++", "cgconv-bn"]
TINY_DIMENET = {
    "hidden_channels": 8,
    "num_blocks": 2,
    "int_emb_size": 4,
    "basis_emb_size": 4,
    "out_emb_channels": 8,
    "num_spherical": 2,
    "num_radial": 2,
    "output_initializer": "glorot_orthogonal",
}


def atoms_of(*names, dtype=torch.float64):
    """Return z, pos, batch of slightly distorted molecules."""
    structures = [molecule(name) for name in names]
    for number, structure in enumerate(structures):
        structure.rattle(0.05, seed=number)
    z = torch.cat([torch.as_tensor(structure.numbers) for structure in structures])
    pos = torch.cat([torch.as_tensor(structure.positions, dtype=dtype) for structure in structures])
    sizes = torch.tensor([len(structure) for structure in structures])
    return z, pos, torch.arange(len(structures)).repeat_interleave(sizes)


def model_of(name, dtype=torch.float64):
    torch.manual_seed(0)
    return build(name).to(dtype).eval()


def energies_and_forces(model, z, pos, batch):
    pos = pos.clone().requires_grad_()
    energy = model(z, pos, batch)
    (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=True)
    return energy, -gradient, pos


@pytest.mark.parametrize("name", NAMES)
def test_each_structure_gets_one_energy_that_depends_on_it_alone(name):
    model = model_of(name)
    z, pos, batch = atoms_of("CH3CH2OH", "H2O", "CH4")
    energy = model(z, pos, batch)
    assert energy.shape == (3, 1)
    assert energy.abs().min() > 0
    for index, single in enumerate(("CH3CH2OH", "H2O", "CH4")):
        own = batch == index
        assert torch.allclose(model(z[own], pos[own]), energy[index : index + 1], rtol=1e-12), single


@pytest.mark.parametrize("name", NAMES)
def test_energy_is_invariant_and_net_force_and_torque_vanish(name):
    model = model_of(name)
    z, pos, batch = atoms_of("CH3CH2OH")
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    energy, force, _ = energies_and_forces(model, z, pos, batch)
    assert torch.allclose(model(z, pos @ rotation.T + 3.0, batch), energy, rtol=1e-9)
    permutation = torch.arange(9).flip(0)
    assert torch.allclose(model(z[permutation], pos[permutation], batch), energy, rtol=1e-9)
    size = force.abs().max()
    assert size > 1e-6
    assert force.sum(0).abs().max() < 1e-9 * size
    assert torch.linalg.cross(pos, force).sum(0).abs().max() < 1e-8 * size


@pytest.mark.parametrize("name", NAMES)
def test_forces_and_their_derivatives_are_those_of_finite_differences(name):
    model = model_of(name)
    z, pos, batch = atoms_of("CH3CH2OH", "H2O")
    _, force, variable = energies_and_forces(model, z, pos, batch)
    direction = torch.randn(pos.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (curvature,) = torch.autograd.grad((force * direction).sum(), variable)
    h = 1e-5
    ahead, behind = (energies_and_forces(model, z, pos + sign * h * direction, batch) for sign in (1, -1))
    work = (force * direction).sum()
    assert torch.allclose(-(ahead[0] - behind[0]).sum() / (2 * h), work, rtol=1e-6, atol=1e-8)
    assert torch.allclose((ahead[1] - behind[1]) / (2 * h), curvature, rtol=1e-5, atol=1e-6 * curvature.abs().max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivatives_are_finite_where_three_atoms_lie_on_a_line(name, dtype):
    model = model_of(name, dtype)
    z, pos = torch.tensor([8, 6, 8]), torch.tensor([[0.0, 0.0, -1.2], [0.0, 0.0, 0.0], [0.0, 0.0, 1.2]], dtype=dtype)
    _, force, variable = energies_and_forces(model, z, pos, torch.zeros(3, dtype=torch.long))
    (second,) = torch.autograd.grad(force.pow(2).sum() + (force * torch.ones_like(force)).sum(), variable)
    assert force.isfinite().all()
    assert second.isfinite().all()


def test_the_curvature_of_dimenet_on_a_line_is_that_beside_the_line():
    model = model_of("dimenet++")
    z, pos = torch.tensor([8, 6, 8]), torch.zeros(3, 3, dtype=torch.float64)
    pos[:, 2] = torch.tensor([-1.2, 0.0, 1.2])
    bend = torch.zeros_like(pos)
    bend[1, 0] = 1.0
    _, force, variable = energies_and_forces(model, z, pos, torch.zeros(3, dtype=torch.long))
    (curvature,) = torch.autograd.grad((force * bend).sum(), variable)
    h = 1e-3
    ahead, behind = (
        energies_and_forces(model, z, pos + s * h * bend, torch.zeros(3, dtype=torch.long)) for s in (1, -1)
    )
    expected = ((ahead[1] - behind[1]) / (2 * h) * bend).sum()
    assert expected.abs() > 1e-2
    assert torch.allclose((curvature * bend).sum(), expected, rtol=1e-3)


@pytest.mark.parametrize("name", ["schnet", "cgconv-bn"])
def test_derivatives_are_finite_where_two_atoms_coincide(name):
    z, pos, batch = atoms_of("H2O")
    pos[1] = pos[0]
    _, force, variable = energies_and_forces(model_of(name), z, pos, batch)
    (second,) = torch.autograd.grad(force.pow(2).sum(), variable)
    assert force.isfinite().all()
    assert second.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_force_loss_reaches_every_parameter_of_the_interactions(name):
    model = model_of(name)
    energy, force, _ = energies_and_forces(model, *atoms_of("CH3CH2OH", "H2O"))
    (force.pow(2).mean() + energy.pow(2).mean()).backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_copies_compute_the_same(name):
    model = model_of(name)
    inputs = atoms_of("CH4")
    assert torch.equal(copy.deepcopy(model)(*inputs), model(*inputs))


def test_schnet_has_the_keys_of_pygs_and_the_energies_of_its_layers():
    settings = {"hidden_channels": 8, "num_filters": 8, "num_interactions": 2, "num_gaussians": 10, "cutoff": 4.0}
    torch.manual_seed(0)
    own = SchNet(**settings).double()
    z, pos, batch = atoms_of("CH3CH2OH", "H2O")

    def all_pairs(pos, batch):
        near = (torch.cdist(pos, pos) < 4.0) & (batch[:, None] == batch) & ~torch.eye(len(pos), dtype=torch.bool)
        j, i = near.nonzero().T
        return torch.stack([j, i]), (pos[j] - pos[i]).norm(dim=-1)

    theirs = pyg.SchNet(**settings, interaction_graph=all_pairs).double()
    assert list(own.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(own.state_dict())
    assert torch.allclose(own(z, pos, batch), theirs(z, pos, batch), rtol=1e-12)


def test_dimenet_has_the_keys_and_the_energies_of_pygs(monkeypatch):
    torch.manual_seed(0)
    own = DimeNetPlusPlus(**TINY_DIMENET).double()
    theirs = pyg.DimeNetPlusPlus(out_channels=1, **TINY_DIMENET).double()
    assert isinstance(own, pyg.DimeNetPlusPlus)
    assert list(own.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(own.state_dict())
    # PyG's forward with PyG's basis; only the index lists, which need compiled extensions there, are ours.
    monkeypatch.setattr(dimenet, "radius_graph", graph.radius_graph)
    monkeypatch.setattr(dimenet, "triplets", graph.triplets)
    inputs = atoms_of("CH3CH2OH", "H2O")
    energy, force, _ = energies_and_forces(own, *inputs)
    reference, reference_force, _ = energies_and_forces(theirs, *inputs)
    assert torch.allclose(energy, reference, rtol=1e-5)
    assert torch.allclose(force, reference_force, rtol=1e-4, atol=1e-5 * reference_force.abs().max().item())


def test_dimenet_is_zero_before_training_as_published_unless_told_otherwise():
    inputs = atoms_of("H2O", dtype=torch.float32)
    published = {**TINY_DIMENET, "output_initializer": "zeros"}
    assert DimeNetPlusPlus(**published)(*inputs).abs().max() == 0
    assert DimeNetPlusPlus(**TINY_DIMENET)(*inputs).abs().max() > 0


def test_one_activation_object_serves_all_of_dimenet():
    model = DimeNetPlusPlus(**TINY_DIMENET)
    assert len({id(module.act) for module in model.modules() if hasattr(module, "act")}) == 1


def test_batch_norm_couples_structures_in_training_only():
    torch.manual_seed(0)
    z, pos, batch = atoms_of("CH4", "CH4")
    for batch_norm in (True, False):
        model = CGConvNet(8, 1, 8, 1, 5, batch_norm=batch_norm).double().train()
        assert any(isinstance(module, torch.nn.BatchNorm1d) for module in model.modules()) is batch_norm
        pos = pos.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(z, pos, batch)[0], pos)
        assert (gradient[batch == 1].abs().max() > 0).item() is batch_norm


def test_pooling_decides_whether_the_energy_grows_with_the_structure():
    z, pos, _ = atoms_of("CH4")
    z, pos = torch.cat([z, z]), torch.cat([pos, pos + 50.0])  # two molecules far apart in one structure
    for pooling, factor in (("mean", 1.0), ("sum", 2.0)):
        torch.manual_seed(0)
        model = CGConvNet(8, 1, 8, 1, 5, pooling=pooling).double().eval()
        pooled = []
        model.head.register_forward_pre_hook(lambda module, args, pooled=pooled: pooled.append(args[0]))
        model(z[:5], pos[:5])
        model(z, pos)
        assert torch.allclose(pooled[1], factor * pooled[0])
