"""CGCNN and ForceNet: the symmetries of their papers, forces as derivatives, OCP's numbers of parameters and names."""

import math

import pytest
import torch

from dcsurgery import zoo
from dcsurgery.zoo.examples import example_batch
from dcsurgery.zoo.ocp import element_tables, fairchem
from dcsurgery.zoo.ocp.forcenet import ForceNet
from dcsurgery.zoo.ocp.forcenet_basis import spherical_harmonics

MODELS = {
    "cgcnn": {},
    "forcenet, gauss": {},
    "forcenet, powersine": {"basis": "powersine"},
    "forcenet, sphallmul": {"basis": "sphallmul"},
}


def model_of(key):
    torch.manual_seed(0)
    model = zoo.build(key.partition(",")[0], **MODELS[key]).double()
    # Running statistics that are not 0 and 1, so that eval mode is a function of its own.
    zoo.energy(model.train(), example_batch(dtype=torch.float64))
    return model.eval()


def changed(structures, **values):
    other = structures.clone()
    for key, value in values.items():
        setattr(other, key, value)
    return other


def rotation():
    drawn = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    q = torch.linalg.qr(drawn)[0]
    return q * torch.linalg.det(q).sign()


@pytest.mark.parametrize("kind", ["molecule", "slab"])
@pytest.mark.parametrize("key", MODELS)
def test_forces_are_the_differences_of_the_energy(key, kind):
    model, batch = model_of(key), example_batch(kind, dtype=torch.float64)
    _, forces = zoo.energy_and_forces(model, batch)
    assert forces.abs().max() > 1e-4
    step = 1e-4
    for seed in range(3):
        direction = torch.randn(batch.pos.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        ahead, behind = (
            float(zoo.energy(model, changed(batch, pos=batch.pos + sign * step * direction)).sum().detach())
            for sign in (1, -1)
        )
        assert float((forces * direction).sum()) == pytest.approx(-(ahead - behind) / (2 * step), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("kind", ["molecule", "slab"])
@pytest.mark.parametrize("key", MODELS)
def test_energy_and_forces_follow_a_translation_and_a_permutation(key, kind):
    model, batch = model_of(key), example_batch(kind, dtype=torch.float64)
    energy, forces = zoo.energy_and_forces(model, batch)
    moved = zoo.energy_and_forces(model, changed(batch, pos=batch.pos + torch.tensor([11.0, -3.0, 0.5]).double()))
    torch.testing.assert_close(moved, (energy, forces), rtol=1e-9, atol=1e-10)
    order = torch.randperm(batch.pos.shape[0], generator=torch.Generator().manual_seed(0))
    mixed = changed(batch, pos=batch.pos[order], atomic_numbers=batch.atomic_numbers[order], batch=batch.batch[order])
    torch.testing.assert_close(zoo.energy_and_forces(model, mixed), (energy, forces[order]), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", ["molecule", "slab"])
def test_cgcnn_follows_rotations_and_forcenet_as_in_its_paper_does_not(kind):
    batch, turn = example_batch(kind, dtype=torch.float64), rotation()
    turned = changed(batch, pos=batch.pos @ turn.T, cell=batch.cell @ turn.T)
    model = model_of("cgcnn")
    energy, forces = zoo.energy_and_forces(model, batch)
    torch.testing.assert_close(zoo.energy_and_forces(model, turned), (energy, forces @ turn.T), rtol=1e-9, atol=1e-10)
    for key in list(MODELS)[1:]:
        model = model_of(key)
        change = zoo.energy(model, turned) - zoo.energy(model, batch)
        assert change.abs().min() > 1e-5 * zoo.energy(model, batch).abs().max()


@pytest.mark.parametrize("key", MODELS)
def test_an_energy_does_not_depend_on_the_other_structures_in_eval_mode(key):
    model, batch = model_of(key), example_batch(structures=3, dtype=torch.float64)
    alone = torch.cat(
        [model(batch.atomic_numbers[own], batch.pos[own]) for own in (batch.batch == index for index in range(3))]
    )
    torch.testing.assert_close(zoo.energy(model, batch), alone.flatten(), rtol=1e-10, atol=0)


def linear(inputs, outputs):
    return (inputs + 1) * outputs


def test_parameters_at_paper_size_are_as_many_as_ocps():
    """Counted from OCP's layers: CGCNN 3 611 649; ForceNet 12 168 470, or 11 365 284 with OCP's own default basis."""
    a, f, g = 512, 128, 100
    conv = linear(2 * a + g, 2 * a) + 2 * 2 * a + 2 * a  # dense, batch norm, layer norm
    cgcnn = linear(92, a) + 3 * conv + linear(a, f) + 2 * linear(f, f) + linear(f, 1)
    assert sum(p.numel() for p in zoo.build("cgcnn", "paper").parameters()) == cgcnn == 3_611_649
    h, k = 512, 50
    tables = 101 * 9 + 101 + 9 * k  # properties, radii, the atoms' Gaussians
    decoder = linear(h, h) + 2 * h + linear(h, 3)
    for basis, edge, fixed in (("gauss", 7 * k, 7 * k), ("sphallmul", 36, 4 * k + linear(4 * k, 4))):
        block = linear(edge, h) + linear(3 * h, h) + 2 * linear(h, h) + linear(h, h) + h
        block += linear(h, h) + 2 * h + linear(h, h)
        whole = tables + fixed + linear(9 * k, h) + 5 * block + linear(h, h) + decoder + linear(h, 1)
        found = sum(p.numel() for p in zoo.build("forcenet", "paper", basis=basis).parameters())
        assert found == whole == {"gauss": 12_168_470, "sphallmul": 11_365_284}[basis]


def test_weights_have_ocps_names():
    names = set(zoo.build("cgcnn").state_dict())
    assert {"embedding_fc.weight", "convs.0.lin1.bias", "convs.1.bn1.running_var", "conv_to_fc.0.weight"} <= names
    assert {"convs.0.ln1.weight", "fcs.0.weight", "fc_out.bias", "distance_expansion.offset"} <= names
    assert "embedding" not in names
    names = set(zoo.build("forcenet").state_dict())
    assert {"atom_map", "atom_radii", "embedding.0.smearing.offset", "embedding.1.weight"} <= names
    assert {"basis_fun.smearing.offset", "interactions.0.center_W", "interactions.1.mlp_edge.4.bias"} <= names
    assert {"interactions.0.mlp_trans.1.running_mean", "decoder.decoder.3.weight", "energy_mlp.weight"} <= names
    assert "basis_fun.smearing_sine.freq_filter" in set(zoo.build("forcenet", basis="sphallmul").state_dict())


def test_harmonics_are_those_of_scipy():
    special = pytest.importorskip("scipy.special")
    u = torch.nn.functional.normalize(
        torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1
    )
    polar, azimuth = torch.acos(u[:, 2]).numpy(), torch.atan2(u[:, 1], u[:, 0]).numpy()
    values = {(n, m): torch.as_tensor(special.sph_harm_y(n, m, polar, azimuth)) for n in range(3) for m in range(n + 1)}
    high = [(1, 1), (2, 1), (2, 2)]
    columns = [values[n, 0].real for n in range(3)] + [values[k].real for k in high] + [values[k].imag for k in high]
    torch.testing.assert_close(spherical_harmonics(u), torch.stack(columns, dim=1), rtol=1e-12, atol=1e-12)


def test_forcenets_direct_forces_are_not_the_gradient_and_can_be_left_out():
    model, batch = model_of("forcenet, gauss"), example_batch(dtype=torch.float64)
    direct = model.direct_forces(batch.atomic_numbers, batch.pos, batch.batch)
    assert direct.shape == batch.pos.shape
    assert not torch.allclose(direct, zoo.energy_and_forces(model, batch)[1], rtol=0.1)
    without = zoo.build("forcenet", decoder_type="none")
    assert not any("decoder" in name for name in without.state_dict())
    with pytest.raises(ValueError, match="no decoder"):
        without.direct_forces(batch.atomic_numbers, batch.pos.float(), batch.batch)
    loss = sum(value.square().sum() for value in zoo.energy_and_forces(without, example_batch(), create_graph=True))
    loss.backward()
    assert all(
        p.grad is not None for name, p in without.named_parameters() if p.requires_grad and name != "energy_mlp.bias"
    )


def test_the_tables_are_fairchems():
    if not (fairchem.version() or "").startswith("1."):
        pytest.skip("fairchem-core 1.x is not installed")
    fairchem.require()
    from fairchem.core.datasets import embeddings

    assert [int(row.sum()) for row in element_tables.khot()] == [
        sum(embeddings.KHOT_EMBEDDINGS[z]) for z in range(1, 101)
    ]
    for z in ForceNet.elements:
        assert element_tables.properties()[z].tolist() == pytest.approx(embeddings.CONTINUOUS_EMBEDDINGS[z])
        assert float(element_tables.radii()[z]) == pytest.approx(embeddings.ATOMIC_RADII[z] / 100)
    for z in set(range(101)) - set(ForceNet.elements):
        assert math.isnan(embeddings.ATOMIC_RADII[z])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"basis": "sphall"}, "basis must be one of gauss"),
        ({"activation_str": "swoosh"}, "activation must be one of swish"),
        ({"decoder_type": "tree"}, "decoder_type must be"),
    ],
)
def test_wrong_values_of_forcenet_are_named(values, message):
    with pytest.raises(zoo_error(), match=message):
        zoo.build("forcenet", **values)


def zoo_error():
    from dcsurgery.errors import BadInput

    return BadInput
