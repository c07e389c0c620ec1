"""The ASE calculator: eV, derivatives that agree with finite differences, energy that is conserved."""

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.verlet import VelocityVerlet

import dcsurgery as dcs
from dcsurgery import zoo
from dcsurgery.errors import BadInput
from dcsurgery.zoo.calculator import PotentialCalculator
from dcsurgery.zoo.runs import RunRecord
from dcsurgery.zoo.training.checkpoints import CHECKPOINT
from dcsurgery.zoo.training.jobs import Job, run_job
from dcsurgery.zoo.training.parts import DataChoice
from dcsurgery.zoo.training.settings import Settings
from dcsurgery.zoo.training.variants import Variant

KCAL = units.kcal / units.mol  # ASE's own eV per kcal/mol


def ethanol_atoms():
    data = zoo.ethanol()
    return Atoms(numbers=data.numbers, positions=data.positions[0])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A transformed SchNet, trained in float64 for a moment."""
    folder = tmp_path_factory.mktemp("run") / "seed0"
    settings = Settings(steps=6, batch_size=5, lr=5e-3, precision="float64", reference="mean")
    variant = Variant(irelu=True, rescale=True)
    job = Job("schnet", variant, settings, DataChoice("ethanol", limit=20), str(folder))
    record = run_job(job)
    assert (record.status, record.note) == ("finished", "")
    return folder


def test_a_rescaled_model_gives_ev_with_its_reference(run):
    atoms = ethanol_atoms()
    atoms.calc = PotentialCalculator.of_run(run)
    record = RunRecord.load(run)
    C = record.metrics["C"]
    model = atoms.calc.model
    z = torch.as_tensor(atoms.numbers)
    pos = torch.as_tensor(atoms.positions).requires_grad_()
    raw = model(z, pos, torch.zeros_like(z), scaled=True)
    physical = raw.item() * C + record.metrics["reference"]  # kcal/mol
    assert C in (100.0, 1000.0)
    assert atoms.get_potential_energy() == pytest.approx(physical * KCAL, rel=1e-6)
    raw.sum().backward()
    np.testing.assert_allclose(atoms.get_forces(), -pos.grad.numpy() * C * KCAL, rtol=1e-5, atol=1e-9)


def test_a_model_trained_in_float64_is_kept_in_float64(run):
    model = dcs.load(run / "model.pt")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    atoms = ethanol_atoms()
    atoms.calc = PotentialCalculator.of_run(run)
    of_run = atoms.get_forces()
    record = RunRecord.load(run)
    atoms.calc = PotentialCalculator(model, units="kcal/mol", reference=record.metrics["reference"])
    np.testing.assert_array_equal(atoms.get_forces(), of_run)


def test_forces_are_the_gradient(run):
    atoms = ethanol_atoms()
    atoms.calc = PotentialCalculator.of_run(run)
    forces = atoms.get_forces()
    assert np.abs(forces).max() > 0.01
    # IReLU's second derivative jumps, so central differences are right to first order in the step only.
    np.testing.assert_allclose(forces, calculate_numerical_forces(atoms, eps=1e-6), atol=1e-6)


def test_energy_is_conserved_in_an_nve_run(run):
    atoms = ethanol_atoms()
    atoms.calc = PotentialCalculator.of_run(run)
    normal = np.random.default_rng(0).normal(size=(9, 3))
    atoms.set_momenta(normal * np.sqrt(atoms.get_masses() * units.kB * 300.0)[:, None])
    potential, total = [], []
    dynamics = VelocityVerlet(atoms, 0.2 * units.fs)
    for _ in range(60):
        dynamics.run(1)
        potential.append(atoms.get_potential_energy())
        total.append(atoms.get_total_energy())
    assert np.ptp(potential) > 0.01
    assert np.ptp(total) < 2e-3 * np.ptp(potential)


def test_stress_is_the_derivative_with_respect_to_strain():
    torch.manual_seed(0)
    model = zoo.build("schnet", cutoff=3.5).double()
    edited = dcs.transform(
        model,
        denorm=False,
        rescale=100.0,
        example_inputs=zoo.example_inputs(model, zoo.example_batch(dtype=torch.float64)),
    ).model
    atoms = bulk("Cu", cubic=True)
    atoms.positions += np.random.default_rng(0).normal(scale=0.05, size=(4, 3))
    atoms.set_cell(atoms.cell @ (np.eye(3) + np.array([[0, 0.02, 0], [0, 0.01, 0], [0.03, 0, 0]])), scale_atoms=True)
    atoms.calc = PotentialCalculator(edited, units="kcal/mol")
    stress = atoms.get_stress()
    assert np.abs(stress).max() > 1e-3
    np.testing.assert_allclose(stress, calculate_numerical_stress(atoms, eps=1e-5), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)
    atoms.pbc = (True, True, False)
    with pytest.raises(PropertyNotImplementedError, match="not periodic in all directions"):
        atoms.get_stress()


def test_a_run_that_cannot_be_used_is_told(run, tmp_path):
    record = RunRecord.load(run)
    record.ending("diverged", {}, wall_time=0.0).save(tmp_path)
    with pytest.raises(BadInput, match="the run is diverged"):
        PotentialCalculator.of_run(tmp_path)
    record.save(tmp_path)
    with pytest.raises(BadInput, match="has no checkpoint"):
        PotentialCalculator.of_run(tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(b"x")
    with pytest.raises(BadInput, match="checkpoint is damaged"):
        PotentialCalculator.of_run(tmp_path)
    with pytest.raises(BadInput, match="unknown unit"):
        PotentialCalculator(zoo.build("schnet"), units="calories")
