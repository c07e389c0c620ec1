"""The parts of the demo; the whole of it is run by ``make demo``."""

import re
import subprocess
import sys

import pytest
import torch
from rich.console import Console

import dcsurgery
from dcsurgery import zoo
from dcsurgery.errors import BadInput
from dcsurgery.zoo import demo
from dcsurgery.zoo.data.molecules import ethanol


def load(path):
    checkpoint = torch.load(path, weights_only=True)
    model = zoo.build_from_config(checkpoint["config"])
    model.load_state_dict(checkpoint["state_dict"])
    return model


@pytest.fixture
def commands(monkeypatch):
    """Stand in for the command line: copy the checkpoint to where the edited one belongs."""
    seen = []

    def fake(command, check):
        seen.append(command)
        if "inspect" in command or "diff" in command:
            return subprocess.CompletedProcess(command, 0)
        source = command[command.index("transform") + 1]
        with open(source, "rb") as old, open(source.removesuffix(".pt") + ".dcs.pt", "wb") as new:
            new.write(old.read())
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(demo.subprocess, "run", fake)
    monkeypatch.setattr(dcsurgery, "load", load, raising=False)
    monkeypatch.setattr(demo, "ethanol", lambda: ethanol()[:106])
    return seen


def test_checkpoints_and_inputs_fit_together(tmp_path):
    demo.prepare(tmp_path / "new" / "demo", seed=0)
    z, pos, batch = torch.load(tmp_path / "new" / "demo" / "inputs.pt", weights_only=True)
    assert z.shape == batch.shape == (18,)
    assert pos.dtype == torch.float32
    for patient in demo.PATIENTS:
        energy = load(tmp_path / "new" / "demo" / patient.file).eval()(z, pos, batch)
        assert energy.shape == (2, 1)
        assert energy.abs().min() > 0


def test_the_seed_decides_the_weights(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        demo.prepare(tmp_path / name, seed)
    weights = [load(tmp_path / name / "cgconv_bn.pt").embedding.weight for name in "abc"]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_both_models_are_transformed_and_four_trainings_are_shown(commands, tmp_path):
    console = Console(record=True, width=160)
    demo.run(tmp_path, steps=2, seed=0, console=console)
    text = console.export_text()
    program = [sys.executable, "-m", "dcsurgery.cli.app"]
    assert [command[:4] for command in commands[:4]] == [[*program, "inspect"], [*program, "transform"]] * 2
    assert [command[3] for command in commands[4:]] == ["diff"] * len(commands[4:])
    assert commands[4][-2].endswith("diff.html")
    assert commands[1][5:8] == ["--irelu", "--scope", "output-blocks"]
    assert "--denorm" in commands[3]
    rescale = commands[3][commands[3].index("--rescale") + 1]
    assert rescale.startswith("auto:")
    assert rescale.endswith("ethanol_gfn2.npz")
    rows = [line.split() for line in text.splitlines() if re.match(r" *(dimenet\+\+|cgconv-bn) +(-mean|raw) ", line)]
    assert [row[2] for row in rows] == ["original", "transformed"] * 2
    assert all(re.fullmatch(r"[\d,.]+(e[+-]\d+)?", number) for row in rows for number in row[3:])
    assert [len(row) for row in rows] == [8] * 4
    assert "mean -71" in text


def test_variants_are_trained_alike():
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(zoo.build("schnet"))
    calls = []
    histories = demo.compare(
        dict(zip("ab", models, strict=True)),
        ethanol()[:120],
        steps=3,
        seed=0,
        reference="mean",
        progress=lambda: calls.append(1),
    )
    assert histories["a"].losses == histories["b"].losses
    assert len(calls) == 6


def test_a_failing_command_stops_the_demo(monkeypatch, tmp_path):
    monkeypatch.setattr(demo.subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 1))
    with pytest.raises(BadInput, match="exit code 1"):
        demo.operate(demo.PATIENTS[0], tmp_path, Console(quiet=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--steps", "0"], "steps must be at least 1"), (["--folder", "file/demo"], "cannot make the folder")],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    assert demo.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_the_program_runs_and_stops_cleanly_on_ctrl_c(commands, tmp_path, monkeypatch):
    assert demo.main(["--folder", str(tmp_path), "--steps", "1"]) == 0

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupt)
    assert demo.main([]) == 130
