"""``zoo train pinn-…``, ``zoo table 3|4|5`` and ``zoo data pde``: what they print, leave, and how they end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dcsurgery.cli.app import main
from dcsurgery.zoo.pde import generators, hdf5, training

SMALL = ["--size", "small", "--steps", "8", "--points", "0.02", "--quiet"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "advection.h5"
    generators.generate(path, "advection", cells=32, frames=21)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *words):
    code = main(["zoo", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_data_set_is_made_and_is_one_document_with_json(here, capsys):
    code, out, _ = run(
        capsys, "data", "pde", "cfd", "-o", "gas.h5", "--samples", 2, "--cells", 16, "--frames", 4, "--json"
    )
    assert code == 0 and json.loads(out)["samples"] == 2
    assert hdf5.count("gas.h5", "cfd") == 2
    code, out, err = run(capsys, "data", "pde", "cfd", "-o", "gas.h5")
    assert code == 2 and "there is such a file" in err and len(err.splitlines()) == 1


def test_a_network_is_edited_trained_and_measured(here, data, capsys):
    code, out, _ = run(capsys, "train", "pinn-advection", "--irelu", "--denorm", "--data", data, *SMALL, "--json")
    document = json.loads(out)
    assert code == 0 and document["variant"] == "irelu" and document["status"] == "finished"
    folder = here / "runs" / "pinn-advection" / "irelu" / "seed0"
    assert Path(document["folder"]) == folder.relative_to(here) and (folder / "field.png").exists()
    assert document["settings"]["steps"] == 8 and "nrmse" in document["metrics"]
    code, _, err = run(capsys, "train", "pinn-advection", "--irelu", "--denorm", "--data", data, *SMALL)
    assert code == 2 and "holds a run already" in err
    code, out, _ = run(capsys, "train", "pinn-advection", "--irelu", "--denorm", "--data", data, *SMALL, "--resume")
    assert code == 0 and "finished after 8 steps" in out


def test_published_physics_lists_its_deviations_first(here, data, capsys):
    words = [word for word in SMALL if word != "--quiet"]
    code, _, err = run(capsys, "train", "pinn-advection", "--data", data, "--physics", "published", *words)
    assert code == 0 and "move at 2 β, not β" in err and "statistics of the batch in evaluation" in err


def test_a_diverging_run_names_term_and_step_and_keeps_what_it_has(here, data, capsys, monkeypatch):
    monkeypatch.setattr(training, "_LOOK_EVERY", 2)
    words = ["train", "pinn-advection", "--data", data, *SMALL, "--lr", "1e30"]
    code, out, err = run(capsys, *words, "--json")
    document = json.loads(out)
    assert code == 1 and document["status"] == "diverged"
    assert "is inf at step" in err or "is nan at step" in err
    assert (here / document["folder"] / "losses.csv").exists()


@pytest.mark.exam
def test_a_table_is_trained_resumed_and_printed(here, data, capsys):
    words = ["table", 3, "--train", "--seeds", 2, "--data", data, *SMALL, "-o", "table3.md"]
    code, out, _ = run(capsys, *words)
    assert code == 0 and "Not comparable" in out
    written = (here / "table3.md").read_text()
    assert written.count("| paper |") == 4 and "±" in written and "steps 8" in written
    records = sorted(here.glob("runs/pinn-advection/*/*/run.json"))
    assert len(records) == 8
    times = [record.stat().st_mtime_ns for record in records]
    code, out, _ = run(capsys, *words, "--json")
    assert code == 0 and [record.stat().st_mtime_ns for record in records] == times
    rows = {row["variant"]: row for row in json.loads(out)["rows"]}
    assert rows["tanh"]["seeds"] == [0, 1] and rows["tanh"]["paper"][0] == 1.59
    assert run(capsys, "table", 3)[1].count("paper") >= 4


@pytest.mark.parametrize(("words", "message"), [
    (["train", "pinn-burgers"], "unknown problem 'pinn-burgers'"),
    (["train", "pinn-cfd", "--device", "cuda:7"], "no device cuda:7"),
    (["train", "pinn-cfd", "--device", "toaster"], "unknown device 'toaster'"),
    (["train", "pinn-cfd", "--physics", "odd"], "unknown physics 'odd'"),
    (["train", "pinn-cfd", "--precision", "float16", "--data", "x.h5"], "no such file"),
    (["train", "pinn-cfd", "--points", "0"], "above 0, got 0"),
    (["train", "pinn-cfd", "--weight", "f"], "cannot read --weight f"),
    (["train", "pinn-cfd", "--irelu", "--activation", "integrated-silu"], "exclude each other"),
    (["train", "pinn-cfd", "--denorm", "--no-batch-norm"], "nothing to delete"),
    (["train", "pinn-cfd", "--activation", "quark"], "no activation is named 'quark'"),
    (["table", "4"], "no such folder of runs"),
    (["table", "5", "--train", "--seeds", "0"], "at least 1 seed"),
    (["data", "pde", "burgers"], "unknown problem 'burgers'"),
])  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(here, capsys, words, message):
    code, out, err = run(capsys, *words)
    assert code == 2 and message in err and len(err.splitlines()) == 1 and not out
    assert not list(here.iterdir())


def test_help_is_the_pinns_own(capsys):
    assert main(["zoo", "train", "pinn-cfd", "--help"]) == 0
    assert "--physics" in capsys.readouterr().out


@pytest.mark.exam
def test_a_killed_run_goes_on_in_a_new_process_to_the_same_result(here, data):
    command = [sys.executable, "-m", "dcsurgery.cli.app", "zoo", "train", "pinn-advection", "--data", str(data)]
    command += ["--size", "small", "--points", "0.02", "--steps", "3000", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = subprocess.run([*command, "--out", "a"], capture_output=True, text=True, check=True, env=environment)
    wanted = json.loads(whole.stdout)
    killed = subprocess.Popen([*command, "--out", "b"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    with pytest.raises(subprocess.TimeoutExpired):
        killed.communicate(timeout=0.6 * max(wanted["wall_time"], 2) + 5)
    killed.kill()
    killed.communicate()
    again = subprocess.run(
        [*command, "--out", "b", "--resume"], capture_output=True, text=True, check=True, env=environment
    )
    found = json.loads(again.stdout)
    for name, value in wanted["metrics"].items():
        if name != "steps_per_second":
            assert found["metrics"][name] == value, name
