"""The training loop: what a run leaves, what resuming gives back, and what stops it."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dcsurgery import zoo
from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.structures import StructureSet
from dcsurgery.zoo.training import Pace, Settings, Trainer, evaluate
from dcsurgery.zoo.training.checkpoints import CHECKPOINT, State
from dcsurgery.zoo.training.devices import fabric_for, resolved, telling_memory
from dcsurgery.zoo.training.nonfinite import BATCH_FILE, Diverged
from dcsurgery.zoo.training.order import step_indices


class Springs(nn.Module):
    """E = k/2 sum |pos|^2 + e per structure, with dropout on e if asked."""

    def __init__(self, k=1.0, dropout=0.0):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k))
        self.e = nn.Parameter(torch.tensor(0.0))
        self.dropout = nn.Dropout(dropout)
        self.inner = nn.Softplus()

    def forward(self, z, pos, batch):
        energy = pos.new_zeros(int(batch.max()) + 1).index_add(0, batch, 0.5 * self.k * pos.square().sum(-1))
        return energy + self.dropout(self.e.expand(len(energy))) + self.inner(0 * self.k)


def springs_data(frames=23, k=3.0, atoms=2):
    positions = np.random.default_rng(0).normal(size=(frames, atoms, 3))
    energies, forces = 0.5 * k * (positions**2).sum((1, 2)) + 1.0, -k * positions
    return StructureSet.of_molecule(np.ones(atoms, int), positions, energies, forces, "kcal/mol")


def trainer(model, folder=None, *, steps=12, resume=False, data=None, batch_size=5, **more):
    settings = Settings(steps=steps, batch_size=batch_size, lr=0.01, seed=3)
    data = springs_data() if data is None else data
    return Trainer(fabric_for(), model, data, settings, folder=folder, resume=resume, **more)


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_every_epoch_visits_every_structure_once():
    for epoch in (0, 3):
        seen = np.concatenate([step_indices(23, 5, 7, 5 * epoch + within) for within in range(5)])
        assert sorted(seen) == list(range(23))
    assert not np.array_equal(step_indices(23, 5, 7, 0), step_indices(23, 5, 7, 5))
    assert not np.array_equal(step_indices(23, 5, 7, 0), step_indices(23, 5, 8, 0))


def test_the_last_batch_of_an_epoch_weighs_as_a_mean():
    data = springs_data(6)
    run = trainer(Springs(), steps=2, data=data, batch_size=4)
    run.run()
    last = data.subset(step_indices(6, 4, 3, 1))
    model = Springs()
    model.load_state_dict(Springs().state_dict())
    one = trainer(model, steps=1, data=data, batch_size=4)
    one.run()
    energy = 0.5 * model.k.item() * (last.positions.reshape(2, -1) ** 2).sum(1) + model.e.item() + np.log(2)
    force = -model.k.item() * last.positions
    expected = np.abs(energy - last.energies).mean() + 30 * np.abs(force - last.forces).mean()
    assert run.losses[1] == pytest.approx(expected, rel=1e-5)


def test_a_training_in_two_parts_equals_one_bit_for_bit(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "whole").mkdir()
    whole, first, second = (Springs(dropout=0.5) for _ in range(3))
    trainer(whole, tmp_path / "whole", pace=Pace(log_every=2)).run()
    trainer(first, tmp_path / "parts", steps=7, pace=Pace(log_every=2)).run()
    run = trainer(second, tmp_path / "parts", resume=True, pace=Pace(log_every=2))
    assert run.state.step == 7
    run.run()
    assert torch.equal(weights(whole), weights(second))
    assert not torch.equal(weights(whole), weights(first))
    assert run.losses == trainer_losses(tmp_path / "whole")


def trainer_losses(folder):
    return tuple(State.load(folder).losses)


def test_the_log_has_every_interval_once_after_a_kill_and_a_resume(tmp_path):
    pace = Pace(log_every=2, evaluate_every=1, checkpoint_every=5)
    trainer(Springs(), tmp_path, valid=springs_data(4), pace=pace).run()
    # As if killed between the last checkpoint and the end: what came after it is done again.
    with (tmp_path / "log.csv").open("a") as file:
        file.write("14,2.8")
    state = State.load(tmp_path)
    trainer(Springs(), tmp_path, steps=16, resume=True, valid=springs_data(4), pace=pace).run()
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert state.step == 12
    assert [int(row["step"]) for row in rows] == [2, 4, 5, 6, 8, 10, 12, 14, 15, 16]
    measured = {int(row["step"]): float(row["valid_force_mae"]) for row in rows if row["valid_force_mae"]}
    assert set(measured) == {5, 10, 15}
    assert measured[15] < measured[5]
    assert (tmp_path / "tensorboard").is_dir()


def test_a_damaged_checkpoint_and_one_of_another_model_are_told(tmp_path):
    trainer(Springs(), tmp_path, steps=1).run()
    with pytest.raises(BadInput, match="of another model"):
        trainer(nn.Sequential(Springs()), tmp_path, resume=True)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadInput, match=r"checkpoint is damaged.*delete checkpoint.pt"):
        trainer(Springs(), tmp_path, resume=True)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(BadInput, match="not a checkpoint of a training"):
        trainer(Springs(), tmp_path, resume=True)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_batch(tmp_path):
    class Explodes(Springs):
        def forward(self, z, pos, batch):
            # Only structures with an atom beyond 2.5 Å in x do it.
            return super().forward(z, pos, batch) + self.inner(torch.where(pos[:, 0].max() > 2.5, torch.nan, 0.0))

    data = springs_data(60)
    run = trainer(Explodes(), tmp_path, data=data, steps=100)
    with pytest.raises(Diverged, match=r"first in the output of inner \(Softplus\).*nonfinite_batch.pt"):
        run.run()
    saved = torch.load(tmp_path / BATCH_FILE)
    assert saved["pos"][:, 0].max() > 2.5
    assert torch.equal(saved["energy"], torch.from_numpy(data.energies[saved["indices"]]))
    assert not (tmp_path / CHECKPOINT).exists()


def test_an_interrupt_ends_the_step_and_saves(tmp_path):
    calls = []

    def interrupt(step, total, loss):
        calls.append(step)
        if step == 4:
            signal.raise_signal(signal.SIGINT)

    model, whole = Springs(dropout=0.5), Springs(dropout=0.5)
    with pytest.raises(KeyboardInterrupt):
        trainer(model, tmp_path, progress=interrupt).run()
    assert calls == [1, 2, 3, 4]
    trainer(model, tmp_path, resume=True).run()
    (tmp_path / "whole").mkdir()
    trainer(whole, tmp_path / "whole").run()
    assert torch.equal(weights(model), weights(whole))


def test_precision_sets_weights_and_gives_the_callers_default_back():
    for precision, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        model = zoo.build("schnet")
        settings = Settings(steps=2, batch_size=4, precision=precision)
        data = StructureSet.of_molecule(
            *(getattr(zoo.ethanol(), key) for key in ("numbers", "positions", "energies", "forces")), "kcal/mol"
        )
        run = Trainer(fabric_for(), model, data.subset(slice(0, 8)), settings)
        run.run()
        assert {p.dtype for p in model.parameters()} == {dtype}
        assert run.speed().structures > 0
    assert torch.get_default_dtype() == torch.float32


def test_efwt_counts_structures_whose_energy_and_worst_force_are_within_the_thresholds():
    data = springs_data(4, k=1.0)
    kcal = 23.0605  # kcal/mol in one eV
    energies, forces = data.energies.copy() - 1.0 + np.log(2), data.forces.copy()
    energies[1] += 0.021 * kcal
    forces[4, 2] += 0.031 * kcal  # structure 2
    energies[3] += 0.019 * kcal
    forces[6, 1] += 0.029 * kcal
    errors = evaluate(Springs(1.0).double(), replace(data, energies=energies, forces=forces))
    assert errors.efwt == 0.5
    assert errors.energy == pytest.approx(0.040 * kcal / 4, rel=1e-5)
    assert errors.force == pytest.approx(0.060 * kcal / 24, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size"),
        ({"alpha": 0.0, "beta": 0.0}, "nothing to learn"),
        ({"precision": "float16"}, "unknown precision 'float16'"),
        ({"beta": float("nan")}, "beta must be a number"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(BadInput, match=message):
        Settings(**options)


def test_no_cuda_and_no_memory_are_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match=r"cannot train on cuda: .*--device cpu"):
        resolved("cuda")
    assert resolved("auto") == "cpu"
    with pytest.raises(BadInput, match="unknown device 'tpu'"):
        resolved("tpu")
    told = pytest.raises(BadInput, match=r"CUDA ran out of memory with batches of 20 structures.*--batch-size 10")
    with told, telling_memory(20):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="something else"), telling_memory(20):
        raise RuntimeError("something else")


KILLED = """
import sys
from dcsurgery.zoo.training.jobs import Job, run_job
from dcsurgery.zoo.training.parts import DataChoice
from dcsurgery.zoo.training.settings import Settings
from dcsurgery.zoo.training.trainer import Pace
from dcsurgery.zoo.training.variants import Variant
import torch
torch.set_num_threads(1)
job = Job("schnet", Variant(irelu=True, rescale=True), Settings(steps=int(sys.argv[2]), batch_size=8, lr=1e-3),
          DataChoice("ethanol", limit=40), sys.argv[1], pace=Pace(checkpoint_every=3), keep_model=False)
print(run_job(job, resume=True).status)
"""


@pytest.mark.exam
def test_a_run_killed_with_signal_9_and_resumed_has_the_weights_of_one_that_was_not(tmp_path):
    def start(folder):
        return subprocess.Popen([sys.executable, "-c", KILLED, folder, "40"], stdout=subprocess.PIPE)

    killed = start(tmp_path / "killed")
    checkpoint = tmp_path / "killed" / CHECKPOINT
    deadline = time.monotonic() + 300
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    step = State.load(tmp_path / "killed").step
    assert 0 < step < 40
    for name in ("killed", "whole"):
        done = start(tmp_path / name)
        assert b"finished" in done.communicate()[0]
    first, second = (State.load(tmp_path / name) for name in ("killed", "whole"))
    assert first.losses == second.losses
    assert all(torch.equal(first.model[key], second.model[key]) for key in second.model)


def _one_rank(fabric, folder):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = zoo.build("schnet").double()
    # Seven structures: the last batch of an epoch leaves the second process without any.
    data = StructureSet.of_molecule(
        *(getattr(zoo.ethanol(), key) for key in ("numbers", "positions", "energies", "forces")), "kcal/mol"
    ).subset(slice(0, 7))
    settings = Settings(steps=5, batch_size=3, lr=1e-3, precision="float64", reference="mean")
    run = Trainer(fabric, model, data, settings, folder=folder)
    run.run()
    return run.losses


@pytest.mark.exam
def test_two_processes_give_the_weights_of_one(tmp_path):
    from dcsurgery.zoo.training.devices import launch

    results = {}
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        losses = launch(fabric_for("cpu", devices), _one_rank, folder)
        results[devices] = (losses, State.load(folder).model)
    assert results[1][0] == pytest.approx(results[2][0], rel=1e-10)
    for key, tensor in results[1][1].items():
        torch.testing.assert_close(results[2][1][key], tensor, rtol=1e-9, atol=1e-11)
