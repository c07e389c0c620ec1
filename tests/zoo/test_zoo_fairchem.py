"""Models of fairchem-core 1.x from their configs, and their batches, energies and forces."""

import subprocess
import sys

import fairchem_runs as runs
import pytest
import torch

from dcsurgery import zoo
from dcsurgery.errors import BadInput
from dcsurgery.zoo.ocp import fairchem, fairchem_batches

pytestmark = pytest.mark.skipif(
    not (fairchem.version() or "").startswith("1."), reason='fairchem-core 1.x is not installed ("dcsurgery[ocp]")'
)


def build(name, **changes):
    torch.manual_seed(0)
    return fairchem.build({"model": runs.config_of(name, **changes)})


@pytest.mark.filterwarnings("ignore:Using torch.cross:UserWarning", "ignore:.*torch.cuda.amp.autocast:FutureWarning")
@pytest.mark.parametrize("name", sorted(fairchem.MODELS))
def test_every_model_is_built_and_gives_finite_energies(name):
    model = build(name)
    assert type(model).__module__.startswith(fairchem.MODELS[name].rpartition(".")[0])
    energy = fairchem_batches.energy_of(model, runs.molecules())
    assert energy.shape == (2,)
    assert torch.isfinite(energy).all()
    again = zoo.build_from_config(zoo.config_of(model))
    again.load_state_dict(model.state_dict(), strict=True)


def test_both_layouts_of_a_config_build_the_same_model():
    values = runs.config_of("schnet")
    new = fairchem.build({"model": values, "trainer": "ocp"})
    name = values.pop("name")
    old = fairchem.build({"model": name, "model_attributes": {**values, "scale_file": "gone.pt"}})
    assert zoo.config_of(new) == zoo.config_of(old)
    assert fairchem.is_trainer_config({"model": "schnet", "model_attributes": values, "cmd": {}})
    assert fairchem.is_trainer_config({"model": "schnet", "model_attributes": values})
    assert fairchem.is_trainer_config({"model": "painn", "model_attributes": {}})
    # SchNet of the zoo's own registry.
    assert not fairchem.is_trainer_config({"model": "schnet", "model_attributes": {"cutoff": 5.0}, "optim": {}})
    assert not fairchem.is_trainer_config({"model": "cgconv-bn", "model_attributes": {}})
    assert not fairchem.is_trainer_config({"model": "cgconv-bn", "num_gaussians": 3})


@pytest.mark.parametrize("name", ["schnet", "gemnet_t"])
def test_forces_are_central_differences_of_the_energy(name):
    model = build(name).double()
    batch = runs.molecules(torch.float64)
    forces = fairchem_batches.forces_of(model, batch)
    torch.testing.assert_close(forces, model(batch.clone())["forces"].detach(), rtol=1e-9, atol=1e-12)
    direction = torch.randn(batch.pos.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step, energies = 1e-4, []
    for sign in (1, -1):
        moved = batch.clone()
        moved.pos = batch.pos + sign * step * direction
        energies.append(fairchem_batches.energy_of(model, moved).sum())
    slope = float((energies[0] - energies[1]).detach()) / (2 * step)
    assert float((forces * direction).sum()) == pytest.approx(-slope, rel=1e-6)


def test_forces_by_differentiation_are_right_where_the_models_own_are_not():
    model, batch = build("painn"), runs.molecules()
    mine = fairchem_batches.forces_of(model, batch)
    assert not torch.allclose(mine, model(batch.clone())["forces"], rtol=0.1)


def test_batches_have_the_fields_that_the_models_read():
    from ase.build import bulk, molecule

    batch = fairchem_batches.batch_of([molecule("H2O"), molecule("CO")], torch.float64)
    assert batch.natoms.tolist() == [3, 2]
    assert (batch.pos.dtype, batch.cell.dtype) == (torch.float64, torch.float32)
    assert not batch.pbc.any()
    assert batch.batch.tolist() == [0, 0, 0, 1, 1]
    with pytest.raises(BadInput, match="different periodicity"):
        fairchem_batches.batch_of([molecule("H2O"), bulk("Cu")])
    with pytest.raises(BadInput, match="no structures"):
        fairchem_batches.batch_of([])


def test_nothing_of_fairchem_is_imported_before_a_model_is_built():
    code = (
        "import sys; import dcsurgery.zoo.registry; from dcsurgery.zoo.ocp import fairchem; fairchem.version(); "
        "print('fairchem' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_pickled_model_is_read_where_nothing_was_prepared(tmp_path):
    torch.save(build("schnet"), tmp_path / "model.pt")
    code = "import sys, dcsurgery as dcs; print(type(dcs.load(sys.argv[1])).__name__)"
    for more in ("", ", trust=True"):
        words = [sys.executable, "-c", code.replace("argv[1]", f"argv[1]{more}"), str(tmp_path / "model.pt")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "SchNetWrap", done.stderr
