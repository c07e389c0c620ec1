"""``zoo data``: what the commands print and write, and their exit codes."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from dcsurgery.cli.zoo_data import app
from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.chains import generate_chains
from dcsurgery.zoo.data.loading import load
from dcsurgery.zoo.data.molecules import ethanol, ethanol_path
from dcsurgery.zoo.data.splits import Split
from dcsurgery.zoo.data.xtb import Settings, generate

SHORT = Settings("Cu111+O", frames=5, seed=1, interval=3, equilibration=4, method="EMT", temperature=300.0)
EMT = ["emt", "Cu111+O", "--frames", "5", "--seed", "1", "--interval", "3", "--equilibration", "4"]


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_stats_print_the_papers_values_beside_those_of_the_file():
    code, out, _ = run("stats", ethanol_path())
    assert code == 0
    row = next(line for line in out.splitlines() if "Eth." in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "Eth.",
        "Ethanol",
        "C2H6O",
        "9",
        "9",
        "600",
        "555092",
    ]
    code, out, _ = run("stats", "--json", "--to", "eV", ethanol_path())
    (found,) = json.loads(out)["sets"]
    assert found["energy_unit"] == "eV"
    assert found["paper"]["conformations"] == 555092


def test_convert_and_split_write_files_that_load(tmp_path):
    code, _, err = run("convert", ethanol_path(), "--to", "eV", "-o", tmp_path / "e.extxyz")
    assert (code, err.strip()) == (0, f"wrote {tmp_path}/e.extxyz: 600 structures in eV, Angstrom")
    data = load(tmp_path / "e.extxyz")
    code, _, err = run("split", tmp_path / "e.extxyz", "--sizes", "400,100,100", "-o", tmp_path / "s.json")
    assert code == 0
    assert "400 train, 100 validation, 100 test" in err
    assert len(Split.load(tmp_path / "s.json").apply(data)["test"]) == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stats", "none.npz"], "none.npz: no such file"),
        (["stats", "--units", "foot", "{data}"], "unknown unit of energy 'foot'"),
        (["stats", "--units", "eV", "bare.npz"], "these can hardly be eV"),
        (["split", "{data}", "--sizes", "600,1", "-o", "s.json"], "cannot draw 600 + 1 of 600"),
        (["split", "{data}", "--sizes", "many", "-o", "s.json"], "cannot read sizes"),
        (["convert", "{data}", "-o", "x.foo"], "cannot write .foo"),
        (["convert", "{data}", "--to", "kcal/mol", "-o", "x.traj"], ".traj is ASE's own format, in eV"),
        (["convert", "{data}", "-o", "no/x.npz"], "no folder no"),
        (["xtb", "etanol", "-o", "x.npz"], "did you mean ethanol"),
        (["xtb", "ethanol", "--method", "GFN9", "-o", "x.npz"], "unknown method 'GFN9'"),
        (["emt", "Cu111", "--size", "big", "-o", "x.npz"], "cannot read size 'big'"),
        (["emt", "Cu111", "--chains", "0", "-o", "x.npz"], "chains must be at least 1"),
        (["emt", "Cu111", "--frames", "2", "--chains", "3", "-o", "x.npz"], "3 chains cannot share 2 frames"),
        (["sgdml", "{data}", "-o", "x.npz"], "give an sGDML force field"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ethanol()[:60]
    np.savez("bare.npz", R=data.positions, E=data.energies, F=data.forces, z=data.numbers)
    code, out, err = run(*[argument.format(data=ethanol_path()) for argument in arguments])
    assert code == 2
    assert not out
    assert len(err.splitlines()) == 1
    assert message in err
    assert [one.name for one in tmp_path.iterdir()] == ["bare.npz"]


def test_slabs_keep_their_cell_and_fixed_atoms_stay(tmp_path):
    data = load(generate(SHORT, tmp_path / "s.npz"))
    assert data.pbc.all()
    assert data.cells[0].any()
    positions = data.positions.reshape(len(data), -1, 3)
    fixed = data.fixed.reshape(len(data), -1)[0]
    assert np.ptp(positions[:, fixed], axis=0).max() < 1e-12
    assert np.ptp(positions[:, ~fixed], axis=0).max() > 1e-3
    with np.load(tmp_path / "s.npz") as file:
        for k, frame in enumerate(file["fd_frame"][::2]):
            step = file["fd_R"][2 * k] - file["fd_R"][2 * k + 1]
            slope = -(file["fd_E"][2 * k] - file["fd_E"][2 * k + 1])
            assert slope == pytest.approx((file["F"][frame] * step).sum(), rel=1e-2, abs=1e-4)


def test_the_number_of_workers_changes_nothing_and_an_interrupted_run_goes_on(tmp_path):
    one = generate_chains(SHORT, tmp_path / "one.npz", chains=3, workers=1)

    def interrupt(done):
        if done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_chains(SHORT, tmp_path / "two.npz", chains=3, workers=1, progress=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npz", "two.npz.parts"]
    with pytest.raises(BadInput, match="unfinished run with other settings"):
        generate_chains(SHORT, tmp_path / "two.npz", chains=2, workers=2)
    two = generate_chains(SHORT, tmp_path / "two.npz", chains=3, workers=2)
    assert two.read_bytes() == one.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npz", "two.npz"]
    single = load(generate(Settings(**{**vars(SHORT), "frames": 2}), tmp_path / "single.npz"))
    joined = load(one)
    assert np.array_equal(joined.positions[: len(single.positions)], single.positions)  # chain 0 is the plain run
    assert len(np.unique(joined.energies)) == 5


@pytest.mark.exam
def test_a_killed_run_goes_on_to_the_same_file(tmp_path):
    command = [sys.executable, "-c", "from dcsurgery.cli.zoo_data import app; app()", *EMT, "--chains", "3"]
    command += ["--frames", "60", "--workers", "1"]
    subprocess.run([*command, "-o", str(tmp_path / "whole.npz")], check=True, timeout=300)
    process = subprocess.Popen([*command, "-o", str(tmp_path / "part.npz")], start_new_session=True)
    deadline = time.monotonic() + 200
    while not (tmp_path / "part.npz.parts" / "chain-000.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()  # the parent alone: its worker notices and ends
    process.wait()
    assert not (tmp_path / "part.npz").exists()
    subprocess.run([*command, "-o", str(tmp_path / "part.npz")], check=True, timeout=300)
    assert (tmp_path / "part.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    with pytest.raises(ProcessLookupError):
        time.sleep(2)
        os.killpg(process.pid, signal.SIGKILL)  # nobody of that run is left


@pytest.mark.exam
def test_gfn1_labels_an_oxide_slab(tmp_path):
    pytest.importorskip("tblite.ase")
    settings = Settings("MgO100+CO", frames=1, interval=1, equilibration=0, method="GFN1-xTB", size=(2, 2, 2))
    data = load(generate(settings, tmp_path / "s.npz"))
    with np.load(tmp_path / "s.npz") as file:
        step = file["fd_R"][0] - file["fd_R"][1]
        slope = -(file["fd_E"][0] - file["fd_E"][1])
    assert data.pbc.all()
    assert slope == pytest.approx((data.forces * step).sum(), abs=0.3 * np.linalg.norm(step))
