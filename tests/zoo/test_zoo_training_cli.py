"""``zoo train``, ``ablate`` and ``table`` as a user types them."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import dcsurgery as dcs
from dcsurgery import zoo
from dcsurgery.cli.app import main
from dcsurgery.zoo.runs import RunRecord
from dcsurgery.zoo.training.checkpoints import CHECKPOINT, State
from dcsurgery.zoo.training.jobs import restore

QUICK = ["--data", "ethanol", "--steps", "2", "--batch-size", "4", "--limit", "8", "--evaluate-every", "0"]


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(capsys, *words):
    code = main(["zoo", *map(str, words)])
    return code, *capsys.readouterr()


def documents(capsys, *words):
    code, out, _err = run(capsys, *words, "--json")
    return code, json.loads(out)


def test_original_and_transformed_start_from_the_same_weights_and_see_the_same_batches(capsys):
    words = ["--irelu", "--denorm", "--rescale", "auto", "--data", "ethanol", "--steps", "2", "--limit", "8"]
    code, document = documents(capsys, "train", "cgconv-bn", *words)
    assert code == 0
    records = {run["variant"]: run for run in document["runs"]}
    assert set(records) == {"original", "irelu+denorm+rescale"}
    assert all(record["status"] == "finished" for record in records.values())
    assert records["original"]["metrics"]["C"] == 1.0
    assert records["irelu+denorm+rescale"]["metrics"]["C"] == 1e4
    assert records["original"]["data"] == records["irelu+denorm+rescale"]["data"]
    folders = [Path("runs/cgconv-bn") / variant / "seed0" for variant in ("original", "irelu+denorm+rescale")]
    for folder in folders:
        assert {"run.json", "log.csv", CHECKPOINT, "model.pt"} <= {path.name for path in folder.iterdir()}
    (restored, _), saved = restore(folders[1]), dcs.load(folders[1] / "model.pt")
    batch = zoo.example_batch()
    torch.testing.assert_close(zoo.energy(restored, batch), zoo.energy(saved.eval(), batch))
    assert not dcs.inspect(restored).normalizations
    assert dcs.inspect(restore(folders[0])[0]).normalizations


def test_a_run_is_not_done_twice_and_not_resumed_with_other_settings(capsys):
    assert run(capsys, "train", "schnet", "--no-model", *QUICK)[0] == 0
    code, _out, err = run(capsys, "train", "schnet", "--no-model", *QUICK)
    assert code == 2
    assert "holds a run already (finished)" in err
    code, _out, err = run(capsys, "train", "schnet", "--no-model", *QUICK, "--lr", "0.5", "--resume")
    assert code == 2
    assert "other settings: lr: 0.0001 -> 0.5" in err
    before = RunRecord.load("runs/schnet/original/seed0")
    assert run(capsys, "train", "schnet", "--no-model", *QUICK, "--resume")[0] == 0
    assert RunRecord.load("runs/schnet/original/seed0") == before


@pytest.mark.parametrize("unit", ["--steps", "--epochs"])
def test_a_run_that_is_made_longer_ends_as_if_it_had_been_so_from_the_start(capsys, unit):
    quick = [word for word in QUICK if word not in ("--steps", QUICK[QUICK.index("--steps") + 1])]
    train = ("train", "schnet", "--no-model", *quick)
    assert run(capsys, *train, unit, "1", "--out", "parts")[0] == 0
    assert run(capsys, *train, unit, "3", "--out", "parts", "--resume")[0] == 0
    assert run(capsys, *train, unit, "3", "--out", "whole")[0] == 0
    parts, whole = (Path(out) / "schnet/original/seed0" for out in ("parts", "whole"))
    (first, record), (second, expected) = restore(parts), restore(whole)
    assert all(torch.equal(first.state_dict()[key], value) for key, value in second.state_dict().items())
    assert (record.status, record.settings, record.metrics["steps"]) == (
        "finished",
        expected.settings,
        expected.metrics["steps"],
    )
    assert record.metrics["force_mae"] == expected.metrics["force_mae"]
    code, _out, err = run(capsys, *train, unit, "2", "--out", "parts", "--resume")
    assert code == 2
    assert f"other settings: {unit[2:]}: 3 -> 2" in err


def test_a_damaged_checkpoint_stops_a_resume(capsys):
    assert run(capsys, "train", "schnet", "--no-model", *QUICK)[0] == 0
    folder = Path("runs/schnet/original/seed0")
    record = RunRecord.load(folder)
    record.ending("running", {}, wall_time=0.0).save(folder)
    (folder / CHECKPOINT).write_bytes(b"broken")
    code, _out, err = run(capsys, "train", "schnet", "--no-model", *QUICK, "--resume")
    assert code == 2
    assert "the checkpoint is damaged" in err
    assert not RunRecord.load(folder).ended


def test_a_grid_skips_what_ended_and_resumes_what_did_not(capsys):
    grid = ["ablate", "schnet", *QUICK, "--seeds", "0,1", "--variant", "original", "--variant", "rescale"]
    code, document = documents(capsys, *grid)
    assert code == 0
    assert [(r["variant"], r["seed"]) for r in document["runs"]] == [
        ("original", 0), ("rescale", 0), ("original", 1), ("rescale", 1),
    ]  # fmt: skip
    folder = Path("runs/schnet/rescale/seed1")
    record = RunRecord.load(folder)
    record.ending("running", {}, wall_time=0.0).save(folder)
    weights = State.load(folder).model
    stamps = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("run.json")}
    assert run(capsys, *grid)[0] == 0
    changed = [path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp]
    assert changed == [folder / "run.json"]
    assert all(torch.equal(weights[key], tensor) for key, tensor in State.load(folder).model.items())
    code, table = documents(capsys, "table", "1")
    assert code == 0
    assert {row["model"] for row in table["rows"] if row["result"]} == {"schnet"}
    assert {claim["outcome"] for claim in table["claims"]} == {"not run"}
    assert run(capsys, "table", "1", "-o", "table.md")[0] == 0
    assert "ethanol (8 train, 8 test)" in Path("table.md").read_text()


def test_a_run_that_fails_does_not_stop_the_grid(capsys):
    Path("runs/schnet/original/seed0").mkdir(parents=True)
    Path("runs/schnet/original/seed0/run.json").write_text("{")
    grid = ["ablate", "schnet", *QUICK, "--seeds", "0,1", "--variant", "original"]
    code, document = documents(capsys, *grid)
    assert code == 1
    assert [record["seed"] for record in document["runs"]] == [1]
    assert "not a run record" in document["failed"][0]["error"]


def test_a_diverging_run_is_recorded_and_told(capsys):
    code, document = documents(capsys, "train", "schnet", "--no-model", *QUICK, "--lr", "1e30", "--steps", "5")
    assert code == 1
    (record,) = document["runs"]
    assert record["status"] == "diverged"
    assert "the loss is" in record["note"]
    assert "energy_mae" not in record["metrics"]
    assert Path("runs/schnet/original/seed0/nonfinite_batch.pt").exists()
    _code, table = documents(capsys, "table", "1")
    (row,) = [row for row in table["rows"] if row["result"]][:1]
    assert row["result"]["energy_mae"] is None
    assert row["result"]["diverged"] == [0]


def test_periodic_structures_train_with_and_without_their_cells(capsys):
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.io import write

    frames = []
    for seed in range(6):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    write("copper.traj", frames)
    words = [
        "train",
        "schnet",
        "--no-model",
        "--data",
        "copper.traj",
        "--steps",
        "1",
        "--batch-size",
        "2",
        "--sizes",
        "4,1,1",
    ]
    _code, periodic = documents(capsys, *words)
    code, other = documents(capsys, *words, "--non-periodic", "--out", "other")
    assert code == 0
    assert periodic["runs"][0]["data"]["periodic"]
    assert not other["runs"][0]["data"]["periodic"]
    assert periodic["runs"][0]["metrics"]["loss"] != other["runs"][0]["metrics"]["loss"]
    code, _out, err = run(capsys, *words, "--resume", "--non-periodic")
    assert code == 2
    assert "data periodic: True -> False" in err


def test_a_limit_takes_structures_of_every_system():
    from dcsurgery.zoo.data.loading import load
    from dcsurgery.zoo.data.molecules import ethanol_path
    from dcsurgery.zoo.training.parts import DataChoice, load_parts

    data = load(ethanol_path())
    Path("systems").mkdir()
    for system in range(4):
        part = data.subset(slice(20 * system, 20 * system + 20))
        shape = (20, 9, 3)
        arrays = {"R": part.positions.reshape(shape), "F": part.forces.reshape(shape), "E": part.energies}
        np.savez(f"systems/{system}.npz", z=part.numbers[:9], **arrays)
    choice = DataChoice("systems", sizes=(2, 1, 1), by_system=True)
    whole, some, fewer = (load_parts(replace(choice, limit=limit)) for limit in (None, 16, 8))
    assert [len(whole.train), len(whole.valid), len(whole.test)] == [40, 20, 20]
    assert len(set(some.train.systems)) == 2
    assert set(fewer.train.energies) < set(some.train.energies) < set(whole.train.energies)
    assert not {*whole.train.systems} & {*whole.test.systems}


def test_a_saved_split_is_used_and_one_of_other_data_is_refused(capsys):
    from dcsurgery.zoo.data.loading import load
    from dcsurgery.zoo.data.molecules import ethanol_path
    from dcsurgery.zoo.data.splits import Split

    data = load(ethanol_path())
    Split.draw(data, (6, 2, 3), 5).save("split.json")
    words = ["train", "schnet", "--no-model", "--data", "ethanol", "--split", "split.json", "--steps", "1"]
    code, document = documents(capsys, *words)
    assert code == 0
    assert [document["runs"][0]["data"][key] for key in ("train", "valid", "test")] == [6, 2, 3]
    Split.draw(data.subset(slice(0, 20)), (6, 2, 3), 5).save("split.json")
    code, _out, err = run(capsys, *words, "--out", "other")
    assert code == 2
    assert "the split was drawn for" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "schnet", "--no-model", *QUICK, "--device", "cuda"], "cannot train on cuda"),
        (["train", "schnet", "--no-model", *QUICK, "--sizes", "1000,10,10"], "600"),
        (["train", "schnet", "--no-model", *QUICK, "--sizes", "600,0,0"], "training and test set need at least one"),
        (["train", "schnet", "--no-model", *QUICK, "--sizes", "a,b"], "--sizes must be three whole numbers"),
        (["train", "schnet", "--no-model", *QUICK, "--limit", "0"], "limit must be at least 1"),
        (["train", "schnett", *QUICK], "did you mean schnet"),
        (["train", "schnet", "--data", "missing.npz"], "no such file"),
        (["train", "schnet", "--no-model", *QUICK, "--rescale", "-3"], "scale"),
        (["train", "schnet", "--no-model", *QUICK, "--rescale", "much"], "--rescale must be auto or a number"),
        (["train", "schnet", "--no-model", *QUICK, "--denorm"], "othing"),
        (["train", "schnet", "--no-model", *QUICK, "--recipe", "mine", "--irelu"], "unknown recipe 'mine'"),
        (["ablate", "schnet", *QUICK, "--seeds", "1,1"], "--seeds must be different"),
        (["ablate", "schnet", *QUICK, "--variant", "irelu+norm"], "unknown variant 'irelu+norm'"),
        (["ablate", "schnet", *QUICK, "--workers", "0"], "workers must be at least 1"),
        (["table", "1", "--runs", "none"], "no such folder of runs"),
        (["table", "11"], "no table 11"),
        (["figure", "1", "--runs", "."], "no finished runs of schnet original"),
    ],
)
def test_bad_input_is_one_line(capsys, words, message):
    code, out, err = run(capsys, *words)
    assert code in (2, 3)
    assert message in err
    assert err.count("\n") == 1
    assert out == ""


def test_labels_that_are_not_numbers_are_refused_before_a_folder_is_made(capsys):
    data = zoo.ethanol()
    energies = data.energies.copy()
    energies[3] = np.nan
    np.savez("bad.npz", R=data.positions, E=energies, F=data.forces, z=data.numbers)
    code, _out, err = run(capsys, "train", "schnet", "--data", "bad.npz", "--steps", "1")
    assert code == 2
    assert "not finite" in err
    assert not Path("runs").exists()


def test_table_6_describes_data_beside_the_papers_molecules(capsys):
    from dcsurgery.zoo.data.molecules import ethanol_path

    code, document = documents(capsys, "table", "6", "--data", ethanol_path())
    assert code == 0
    assert len(document["rows"]) == 9
    assert document["rows"][2] == {
        "name": "ethanol", "formula": "C2H6O", "atoms": 9, "conformations": 555092, "from": "paper",
    }  # fmt: skip
    last = document["rows"][-1]
    assert (last["formula"], last["atoms"], last["conformations"]) == ("C2H6O", 9, 600)


@pytest.mark.exam
def test_two_devices_and_two_workers_give_the_results_of_one(capsys, tmp_path):
    # In a process of its own: a spawned one must be able to import what its parent runs.
    results = {}
    for out, more in {"one": ["--workers", "1"], "workers": ["--workers", "2"], "devices": ["--devices", "2"]}.items():
        words = ["ablate", "schnet", *QUICK, "--precision", "float64", "--seeds", "0,1", "--variant", "irelu+rescale"]
        done = subprocess.run(
            [Path(sys.executable).with_name("dcsurgery"), "zoo", *words, *more, "--out", out, "--json"],
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        results[out] = {record["seed"]: record["metrics"] for record in json.loads(done.stdout)["runs"]}
    for other in ("workers", "devices"):
        for seed in (0, 1):
            assert results[other][seed]["force_mae"] == pytest.approx(results["one"][seed]["force_mae"], rel=1e-9)
