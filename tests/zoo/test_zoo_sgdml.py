"""sGDML force fields and the dynamics that they drive, on a small one that is fitted here to a spring model of water."""

import json

import numpy as np
import pytest
import torch

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.loading import load
from dcsurgery.zoo.data.sgdml import ForceField, read_force_field
from dcsurgery.zoo.data.walkers import WalkerSettings, run_walkers

NUMBERS = np.array([8, 1, 1])
REST = np.array([0.96, 0.96, 1.52])  # O-H, O-H, H-H in the order of the lower triangle
STIFF = np.array([900.0, 900.0, 250.0])  # kcal/mol/Å²
PAIRS = np.tril_indices(3, -1)
IDENTITY, SWAPPED = [0, 1, 2], [1, 0, 2]  # pairs when the hydrogens change places
SHORT = WalkerSettings(frames=60, walkers=20, seed=3, interval=5, equilibration=10)


def springs(positions):
    """Return energies and forces of three springs."""
    x = torch.tensor(positions).requires_grad_(True)
    r = (x[:, PAIRS[0]] - x[:, PAIRS[1]]).norm(dim=-1)
    energy = (0.5 * torch.tensor(STIFF) * (r - torch.tensor(REST)) ** 2).sum(1)
    return energy.detach().numpy(), -torch.autograd.grad(energy.sum(), x)[0].numpy()


def geometries(n, seed):
    start = np.array([[0, 0, 0], [0.96, 0, 0], [-0.2434, 0.9286, 0]])
    return start + np.random.default_rng(seed).normal(scale=0.04, size=(n, 3, 3))


def inverse(positions):
    return 1 / np.linalg.norm(positions[:, PAIRS[0]] - positions[:, PAIRS[1]], axis=-1)


@pytest.fixture(scope="module")
def arrays():
    """Return the arrays of a force field in the format of 2018, fitted to the forces of the springs."""
    train = geometries(25, 0)
    points = inverse(train)
    order = np.array([[IDENTITY[k], 3 + SWAPPED[k]] for k in range(3)]).reshape(-1)
    both = np.concatenate([points, points[:, SWAPPED]])
    x = torch.tensor(geometries(120, 1))
    columns = []
    for row, pair in np.ndindex(25, 3):
        weights = np.zeros((25, 3))
        weights[row, pair] = 1
        field = ForceField(NUMBERS, both, np.concatenate([weights, weights[:, SWAPPED]]), 2.0, 0.0)
        columns.append(field(x)[1].numpy().reshape(-1))
    energies, forces = springs(x.numpy())
    weights = np.linalg.lstsq(np.stack(columns, 1), forces.reshape(-1), rcond=1e-10)[0].reshape(25, 3)
    fitted = ForceField(NUMBERS, both, np.concatenate([weights, weights[:, SWAPPED]]), 2.0, 0.0)
    constant = float((energies - fitted(x)[0].numpy()).mean()) - 47_000.0
    return {
        "Rt_desc": points.T, "Rt_d_desc_alpha": weights[:, :, None], "tril_perms_lin": order,
        "sig": np.array(2), "c": np.array(constant), "z": NUMBERS.astype(np.uint8),
        "perms": np.array([[1, 2, 3], [1, 3, 2]]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def field(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("sgdml") / "sgdml_model_water.npz"
    np.savez(path, **arrays)
    return read_force_field(path)


def by_the_formula(arrays, positions):
    """Return the energy as the module's first lines have it, one training point and permutation after another."""
    sigma, total = float(arrays["sig"]), float(arrays["c"])
    d = inverse(positions[None])[0]
    for point, weight in zip(arrays["Rt_desc"].T, arrays["Rt_d_desc_alpha"][:, :, 0], strict=True):
        for order in (IDENTITY, SWAPPED):
            difference = d - point[order]
            D = np.sqrt(5) * np.linalg.norm(difference) / sigma
            total += 5 / (3 * sigma**2) * np.exp(-D) * (1 + D) * (weight[order] @ difference)
    return total


def test_energies_are_those_of_the_formula(field, arrays):
    x = geometries(5, 2)
    energies, _ = field(torch.tensor(x))
    assert np.allclose(energies, [by_the_formula(arrays, one) for one in x], rtol=0, atol=1e-7)


def test_the_fit_is_good_enough_to_test_with(field):
    x = geometries(40, 3)
    energies, forces = springs(x)
    predicted, slopes = field(torch.tensor(x))
    assert np.abs(slopes.numpy() - forces).mean() < 0.02 * np.abs(forces).mean()
    assert np.abs(predicted.numpy() + 47_000 - energies).mean() < 0.05 * energies.std()


def test_forces_are_minus_the_derivative_of_the_energy(field):
    x = torch.tensor(geometries(70, 4))  # more than are computed at a time
    energies, forces = field(x)
    assert energies.shape == (70,)
    h = 1e-4
    for seed in range(3):
        u = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(seed))
        slope = -(field(x + h * u)[0] - field(x - h * u)[0]) / (2 * h)
        assert torch.allclose(slope, (forces * u).sum((1, 2)), rtol=1e-5, atol=1e-3)
    assert forces.sum(1).abs().max() < 1e-9


def test_atoms_of_a_permutation_are_alike_and_turning_changes_nothing(field):
    x = torch.tensor(geometries(4, 5))
    energies, forces = field(x)
    swapped, slopes = field(x[:, [0, 2, 1]])
    assert torch.allclose(energies, swapped, atol=1e-8)
    assert torch.allclose(forces[:, [0, 2, 1]], slopes, atol=1e-8)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=x.dtype, generator=torch.Generator().manual_seed(1)))[0]
    turned, slopes = field(x @ turn + 1.0)
    assert torch.allclose(energies, turned, atol=1e-8)
    assert torch.allclose(forces @ turn, slopes, atol=1e-8)


def test_training_geometries_come_back_from_their_distances(field):
    again = field.training_geometries(np.arange(25)).numpy()
    assert np.allclose(inverse(again), inverse(geometries(25, 0)), atol=1e-9)
    assert field.nearness(torch.tensor(again)).max() < 1e-6


def test_the_later_format_scales_energies_and_states_units(arrays, field, tmp_path):
    later = {
        **arrays, "R_desc": arrays["Rt_desc"], "R_d_desc_alpha": arrays["Rt_d_desc_alpha"][:, :, 0] / 2,
        "std": np.array(2.0), "e_unit": np.array("eV"), "r_unit": np.array("Ang"), "type": np.array("m"), "solver": np.array({"pickled": 1}),
    }  # fmt: skip
    np.savez(tmp_path / "m.npz", **{key: value for key, value in later.items() if not key.startswith("Rt_")})
    other, x = read_force_field(tmp_path / "m.npz"), torch.tensor(geometries(3, 6))
    assert torch.allclose(other(x)[0], field(x)[0], atol=1e-8)
    assert torch.allclose(other(x)[1], field(x)[1], atol=1e-8)
    assert str(other.units) == "eV, Angstrom"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sig": None}, "no array sig; present"),
        ({"z": np.array([8, 1])}, r"2 atoms have 1 pairs, but Rt_desc has shape \(3, 25\)"),
        ({"c": np.array(np.nan)}, "c is not finite"),
        ({"tril_perms_lin": np.arange(6) + 1}, "out of range"),
        ({"alphas_E": np.zeros(3)}, "trained on energies as well"),
        ({"lattice": np.eye(3)}, "periodic"),
    ],
)
def test_bad_force_fields_are_named(arrays, tmp_path, change, message):
    kept = {key: value for key, value in {**arrays, **change}.items() if value is not None}
    np.savez(tmp_path / "m.npz", **kept)
    with pytest.raises(BadInput, match=message):
        read_force_field(tmp_path / "m.npz")


def test_bad_force_field_files_are_named(arrays, tmp_path):
    np.savez(tmp_path / "m.npz", **arrays)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "m.npz").read_bytes()[:500])
    with pytest.raises(BadInput, match="not a readable npz"):
        read_force_field(tmp_path / "cut.npz")
    with pytest.raises(BadInput, match="no such file"):
        read_force_field(tmp_path / "none.npz")
    np.savez(tmp_path / "data.npz", R=np.zeros((1, 3, 3)))
    with pytest.raises(BadInput, match=r"no array .*; present: R"):
        read_force_field(tmp_path / "data.npz")


# -- dynamics -----------------------------------------------------------------------------------------------------


def test_labels_are_those_of_the_force_field_and_the_file_is_a_data_set(field, tmp_path):
    data = load(run_walkers(field, SHORT, tmp_path / "w.npz"))
    assert len(data) == 60
    energies, forces = field(torch.tensor(data.positions.reshape(60, 3, 3)))
    assert np.allclose(energies, data.energies, atol=1e-7)
    assert np.allclose(forces.reshape(-1, 3), data.forces, atol=1e-7)
    with np.load(tmp_path / "w.npz") as file:
        assert json.loads(str(file["provenance"]))["settings"]["walkers"] == 20
    assert [one.name for one in tmp_path.iterdir()] == ["w.npz"]


def test_three_vibrations_share_the_energy_of_the_temperature(field, tmp_path):
    settings = WalkerSettings(1500, 100, 0, 300.0, interval=20, equilibration=300, friction=0.05)
    data = load(run_walkers(field, settings, tmp_path / "w.npz"))
    kT = 0.0019872 * 300
    # Potential energy of n harmonic vibrations: mean n kT / 2, variance n (kT)² / 2.
    assert data.energies.mean() + 47_000 == pytest.approx(1.5 * kT, rel=0.15)
    assert data.energies.std() == pytest.approx(np.sqrt(1.5) * kT, rel=0.15)


def test_an_interrupted_run_goes_on_to_the_same_file(field, tmp_path):
    def interrupt(done):
        if done == 40:
            raise KeyboardInterrupt

    whole = run_walkers(field, SHORT, tmp_path / "whole.npz")
    with pytest.raises(KeyboardInterrupt):
        run_walkers(field, SHORT, tmp_path / "part.npz", progress=interrupt)
    assert (tmp_path / "part.npz.partial").exists()
    seen = []
    part = run_walkers(field, SHORT, tmp_path / "part.npz", progress=seen.append)
    assert seen == [40, 60]
    assert part.read_bytes() == whole.read_bytes()
    other = run_walkers(field, WalkerSettings(60, 20, 4, interval=5, equilibration=10), tmp_path / "other.npz")
    assert other.read_bytes() != whole.read_bytes()


def test_unfinished_runs_of_others_and_existing_files_are_kept(field, tmp_path):
    path = tmp_path / "w.npz"
    path.write_bytes(b"precious")
    with pytest.raises(BadInput, match=r"the file exists.*--force"):
        run_walkers(field, SHORT, path)
    (tmp_path / "w.npz.partial").write_bytes(b"damaged")
    with pytest.raises(BadInput, match="not an unfinished run"):
        run_walkers(field, SHORT, path, force=True)
    assert path.read_bytes() == b"precious"
    with pytest.raises(BadInput, match="no folder"):
        run_walkers(field, SHORT, tmp_path / "no" / "w.npz")
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match=r"there is no CUDA device.*--device cpu"):
            run_walkers(field, SHORT, tmp_path / "c.npz", device="cuda")


def test_walkers_that_leave_what_is_known_are_replaced_or_end_the_run(field, tmp_path):
    hot = WalkerSettings(40, 20, 0, temperature=30_000.0, interval=50, equilibration=0)
    with pytest.raises(BadInput, match=r"walkers left what the force field knows.*lower temperature"):
        run_walkers(field, hot, tmp_path / "hot.npz")
    warm = WalkerSettings(400, 40, 0, temperature=6000.0, interval=50, equilibration=0)
    data = load(run_walkers(field, warm, tmp_path / "warm.npz"), check_units=False)
    with np.load(tmp_path / "warm.npz") as file:
        assert json.loads(str(file["provenance"]))["walkers_replaced"] > 0
    lengths = 1 / inverse(data.positions.reshape(-1, 3, 3))
    assert (lengths[:, :2] < 1.7 * 1.0).all()


@pytest.mark.parametrize("change", [{"frames": 0}, {"walkers": 0}, {"seed": -1}, {"temperature": -1.0}])
def test_bad_settings_are_named(change):
    with pytest.raises(BadInput, match="must"):
        WalkerSettings(**change)
