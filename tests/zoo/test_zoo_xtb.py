"""The generator of labelled dynamics, run with ASE's EMT potential in the place of xTB."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from ase import units
from ase.calculators.emt import EMT

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data import xtb
from dcsurgery.zoo.data.molecules import load_npz
from dcsurgery.zoo.data.xtb import Settings, generate, main

SHORT = Settings("water", frames=4, seed=1, interval=5, equilibration=7)


def test_labels_are_those_of_the_calculator(tmp_path):
    data = load_npz(generate(SHORT, tmp_path / "w.npz", calculator=EMT))
    assert len(data) == 4
    assert data.numbers.tolist() == [8, 1, 1]
    from ase import Atoms

    for positions, energy, forces in zip(data.positions, data.energies, data.forces, strict=True):
        atoms = Atoms(data.numbers, positions, calculator=EMT())
        kcal = units.kcal / units.mol
        assert energy == pytest.approx(atoms.get_potential_energy() / kcal, rel=1e-9)
        assert np.allclose(forces, atoms.get_forces() / kcal, rtol=1e-5, atol=1e-5)
    assert np.abs(np.diff(data.positions, axis=0)).max() > 1e-3


def test_displaced_frames_surround_their_frame(tmp_path):
    with np.load(generate(SHORT, tmp_path / "w.npz", calculator=EMT)) as file:
        for k, frame in enumerate(file["fd_frame"][::2]):
            step = file["fd_R"][2 * k] - file["fd_R"][2 * k + 1]
            assert np.linalg.norm(step) == pytest.approx(2 * xtb.DISPLACEMENT)
            slope = -(file["fd_E"][2 * k] - file["fd_E"][2 * k + 1])
            assert slope == pytest.approx((file["F"][frame] * step).sum(), rel=1e-2, abs=1e-4)


def test_the_seed_decides(tmp_path):
    paths = [
        generate(replace(SHORT, seed=seed), tmp_path / f"{number}.npz", calculator=EMT)
        for number, seed in enumerate((1, 1, 2))
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert not np.array_equal(load_npz(paths[0]).energies, load_npz(paths[2]).energies)


@pytest.mark.parametrize("temperature", [30.0, 300.0])
def test_the_spread_of_the_energy_is_that_of_the_temperature(temperature, tmp_path):
    settings = Settings("H2", 60, 1, temperature, interval=15, equilibration=200, friction=0.05)
    data = load_npz(generate(settings, tmp_path / "h2.npz", calculator=EMT))
    expected = units.kB * temperature * np.sqrt(1 / 2) / (units.kcal / units.mol)  # one harmonic mode
    assert 0.5 * expected < data.energies.std() < 1.5 * expected


def test_an_interrupted_run_goes_on_to_the_same_file(tmp_path):
    def interrupt(done):
        if done == 2:
            raise KeyboardInterrupt

    whole = generate(SHORT, tmp_path / "whole.npz", calculator=EMT)
    with pytest.raises(KeyboardInterrupt):
        generate(SHORT, tmp_path / "part.npz", calculator=EMT, progress=interrupt)
    assert [file.name for file in tmp_path.iterdir() if "part" in file.name] == ["part.npz.partial"]
    seen = []
    part = generate(SHORT, tmp_path / "part.npz", calculator=EMT, progress=seen.append)
    assert seen == [2, 3, 4]
    assert part.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "part.npz.partial").exists()


def test_an_unfinished_run_with_other_settings_and_a_damaged_one_are_refused(tmp_path):
    def interrupt(done):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(SHORT, tmp_path / "w.npz", calculator=EMT, progress=interrupt)
    with pytest.raises(BadInput, match="unfinished run with other settings"):
        generate(replace(SHORT, seed=5), tmp_path / "w.npz", calculator=EMT)
    (tmp_path / "w.npz.partial").write_bytes(b"damaged")
    with pytest.raises(BadInput, match="not an unfinished run"):
        generate(SHORT, tmp_path / "w.npz", calculator=EMT)
    assert not (tmp_path / "w.npz").exists()


def test_an_existing_file_is_kept_unless_forced(tmp_path):
    path = tmp_path / "w.npz"
    path.write_bytes(b"precious")
    with pytest.raises(BadInput, match=r"the file exists.*--force"):
        generate(SHORT, path, calculator=EMT)
    assert path.read_bytes() == b"precious"
    assert len(load_npz(generate(SHORT, path, calculator=EMT, force=True))) == 4


def test_dynamics_that_explode_are_reported(tmp_path):
    class Broken(EMT):
        def get_potential_energy(self, *args, **kwargs):
            return float("nan")

    with pytest.raises(BadInput, match=r"unstable at frame 0.*smaller time step"):
        generate(SHORT, tmp_path / "w.npz", calculator=Broken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 0}, "frames must be at least 1"),
        ({"interval": 0}, "interval must be at least 1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"equilibration": -1}, "equilibration must not be negative"),
        ({"temperature": 0.0}, "temperature must be a positive number"),
        ({"timestep": float("nan")}, "timestep must be a positive number"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(BadInput, match=message):
        replace(SHORT, **change)


def test_missing_packages_are_named_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    with pytest.raises(BadInput, match=r'tblite is not installed \(pip install "dcsurgery\[zoo\]"'):
        generate(SHORT, tmp_path / "w.npz")
    monkeypatch.setitem(sys.modules, "ase.build", None)
    with pytest.raises(BadInput, match="ASE is not installed"):
        generate(SHORT, tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["etanol", "-o", "w.npz"], "unknown molecule 'etanol' (did you mean ethanol"),
        (["water", "-o", "no/w.npz"], "no folder no"),
        (["water", "--frames", "0", "-o", "w.npz"], "frames must be at least 1"),
    ],
)
def test_the_program_reports_bad_input_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not list(tmp_path.iterdir())


def test_the_program_writes_the_file_and_stops_cleanly_on_ctrl_c(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(xtb, "_xtb", lambda method: EMT)
    arguments = ["water", "--frames", "3", "--interval", "2", "--equilibration", "0", "-o", str(tmp_path / "w.npz")]
    assert main(arguments) == 0
    assert len(load_npz(tmp_path / "w.npz")) == 3

    def interrupted(method):
        raise KeyboardInterrupt

    monkeypatch.setattr(xtb, "_xtb", interrupted)
    assert main([*arguments, "--force"]) == 130
    assert "the same command goes on" in " ".join(capsys.readouterr().err.split())
