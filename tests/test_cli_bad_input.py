"""Bad input of the command line: one clear line, exit code 2, nothing written, nothing touched."""

import contextlib
import hashlib
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import dcsurgery as dcs
from dcsurgery.cli.app import app

COMMAND = str(Path(sys.executable).with_name("dcsurgery"))
EDITS = ("--irelu", "--denorm")


class Commands:
    """Pickles as a call of os.system."""

    def __reduce__(self):
        return (os.system, ("touch executed",))


def network(width=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.SiLU())


def varint(field, payload):
    return bytes([field << 3 | 2, len(payload)]) + payload


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Good and bad files of every kind, made once."""
    folder = tmp_path_factory.mktemp("template")
    with contextlib.chdir(folder):
        make_files()
    return folder


@pytest.fixture
def folder(template, tmp_path, monkeypatch):
    """A working folder with a copy of them."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    os.link("model.pt", "link.pt")
    Path("locked").chmod(stat.S_IRUSR | stat.S_IXUSR)
    yield tmp_path
    Path("locked").chmod(stat.S_IRWXU)


def make_files():
    torch.save(network(), "model.pt")
    whole = Path("model.pt").read_bytes()
    Path("directory").mkdir()
    Path("locked").mkdir()
    Path("empty.pt").touch()
    Path("truncated.pt").write_bytes(whole[: len(whole) // 2])
    Path("random.pt").write_bytes(b"\x93\x01\xff" + hashlib.sha512(b"seed").digest() * 9)
    Path("text.pt").write_text("import torch\nmodel = torch.nn.Linear(2, 2)\n")
    # ModelProto: ir_version = 8, producer_name, graph with a name.
    Path("model.onnx").write_bytes(b"\x08\x08" + varint(2, b"pytorch") + varint(7, varint(2, b"main_graph")))
    torch.save(network().state_dict(), "weights.pt")
    torch.save({"epoch": 3, "loss": [0.5]}, "progress.pt")
    Path("list.pkl").write_bytes(pickle.dumps([1, 2, 3]))
    Path("system.pt").write_bytes(pickle.dumps(Commands()))
    torch.save(Commands(), "system_zip.pt")
    with zipfile.ZipFile("archive.pt", "w") as archive:
        archive.writestr("readme.txt", "no model")
    Path("existing.pt").write_text("somebody's result")
    Path("plan.yaml").write_text(dcs.plan(network()).to_yaml())
    Path("other.yaml").write_text(dcs.plan(network(width=5)).to_yaml())
    Path("broken.yaml").write_text("dcsurgery_plan: [1\nedits: {")
    Path("recipe.yaml").write_text("bread: 1\n")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    Path("unknown_pass.yaml").write_text("dcsurgery_plan: 1\nedits: [{site: '2', do: polish}]\n")
    Path("wrong_entry.yaml").write_text("dcsurgery_plan: 1\nedits: [{site: '2', do: replace, wiht: irelu}]\n")
    torch.save((torch.ones(2, 7),), "wrong_inputs.pt")
    Path("labels.csv").write_text("energy\nnan\n")


def state(folder):
    """Return every file with a digest of its content and its time of change."""
    return {
        str(path.relative_to(folder)): (
            path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


FILES = {
    "missing.pt": "missing.pt: no such file.*check the path",
    "no/such/model.pt": "model.pt: no such file.*check the path",
    "directory": "is a directory.*give the file",
    "empty.pt": "is empty.*save it again",
    "truncated.pt": "truncated.*save it again",
    "random.pt": "no format that holds a PyTorch model.*torch.save",
    "text.pt": "text file.*torch.save",
    "archive.pt": "zip archive that torch.save did not write",
    "weights.pt": "only weights.*give me the model.*save the whole model",
    "model.onnx": "ONNX.*save the nn.Module",
    "progress.pt": "holds a dict, not a model.*save the nn.Module",
    "list.pkl": "holds a list, not a model",
    "system.pt": r"(posix|os)\.system; nothing was loaded.*--trust",
    "system_zip.pt": r"(posix|os)\.system; nothing was loaded.*--trust",
}
TRANSFORMS = {
    "missing folder": ("-o no/such/out.pt", "out.pt: the folder no/such does not exist.*mkdir"),
    "read-only folder": ("-o locked/out.pt", "cannot write to the folder locked.*another folder"),
    "output is a folder": ("-o directory", "the output is a directory.*file name"),
    "output is the input": ("-o model.pt --force", "the output is the input.*never changed"),
    "output is the input by another path": ("-o directory/../model.pt --force", "the output is the input"),
    "output is a link to the input": ("-o link.pt --force", "the output is the input"),
    "output is the inputs file": ("--inputs wrong_inputs.pt -o wrong_inputs.pt --force", "the output is the input"),
    "output is the labels file": ("--rescale auto:labels.csv -o labels.csv --force", "the output is the input"),
    "output exists": ("-o existing.pt", "existing.pt: exists already.*--force"),
    "report exists": ("--report existing.pt", "existing.pt: exists already.*--force"),
    "report is the input": ("--report model.pt --force", "the output is the input"),
    "report is the output": ("-o new.pt --report new.pt", "same file"),
    "report in a missing folder": ("--report no/r.json", "the folder no does not exist"),
    "unknown activation": ("--activation ireluu", "no activation is named 'ireluu'.*did you mean 'irelu'"),
    "activation with a wrong setting": ("--activation integrated-silu(beta", "cannot read the settings"),
    "bad regular expression": ("--include re:[", r"bad regular expression '\['.*backslash"),
    "bad regular expression to exclude": ("--exclude re:*", r"bad regular expression '\*'"),
    "empty selector": ("--include=", "an empty selector"),
    "unknown scope": ("--scope heads", "no scope 'heads'.*all, output-blocks"),
    "C is 0": ("--rescale 0", "positive finite number"),
    "C is negative": ("--rescale -1e3", "positive finite number"),
    "C is NaN": ("--rescale nan", "positive finite number"),
    "C is infinite": ("--rescale inf", "positive finite number"),
    "C is not a number": ("--rescale big", "'big'.*positive finite number"),
    "C is empty": ("--rescale=", "positive finite number"),
    "labels are missing": ("--rescale auto:nowhere.npz", "nowhere.npz: no such file"),
    "labels are NaN": ("--rescale auto:labels.csv", "labels.csv.*NaN"),
    "inputs are missing": ("--inputs nowhere.pt", "nowhere.pt: no such file"),
    "inputs are a model": ("--inputs model.pt", "model.pt.*not example inputs"),
    "inputs do not fit": ("--inputs wrong_inputs.pt", "forward raised RuntimeError.*these were"),
    "inputs are text": ("--inputs text.pt", "text.pt.*not example inputs"),
    "imports are missing": ("--import nowhere.py", "nowhere.py"),
    "quiet and verbose": ("--quiet --verbose", "exclude each other"),
    "unknown option": ("--iReLU", "No such option: --iReLU.*--help"),
    "option without value": ("--rescale", "--rescale.*requires an argument.*--help"),
    "two models": ("second.pt", "unexpected extra argument.*--help"),
}
IDLE = {
    "gates": ("--denorm --gates", "--gates.*add --irelu"),
    "outputs": ("--irelu --outputs 0", "--outputs.*add --rescale"),
    "include": ("--rescale 10 --include 2", "--include.*add --irelu or --denorm"),
    "scope": ("--scope output-blocks", "--scope.*add --irelu or --denorm"),
}
PLANS = {
    "missing.yaml": "missing.yaml: no such file.*dcsurgery plan",
    "directory": "is a directory",
    "other.yaml": "does not fit the model.*make a plan for this model",
    "broken.yaml": "broken.yaml: not YAML: line",
    "recipe.yaml": "not a dcsurgery plan",
    "binary.yaml": "not a text file",
    "empty.pt": "not a dcsurgery plan",
    "unknown_pass.yaml": "no pass makes the edit 'polish'",
    "wrong_entry.yaml": "wrong_entry.yaml: the plan's entry 'edits.0.wiht' is wrong",
}
WORDS = {
    "no command": (["--no-such-option"], "No such option"),
    "unknown command": (["tranform", "model.pt"], "No such command 'tranform'.*'transform'"),
    "no model": (["transform"], "Missing argument 'MODEL'.*dcsurgery transform --help"),
    "no plan": (["apply", "model.pt"], "Missing argument 'PLAN'"),
    "plan exists": (["plan", "model.pt", *EDITS, "-o", "existing.pt"], "exists already.*--force"),
    "plan is the model": (["plan", "model.pt", *EDITS, "-o", "model.pt", "--force"], "the output is the input"),
    "plan in a missing folder": (["plan", "model.pt", *EDITS, "-o", "no/plan.yaml"], "the folder no does not exist"),
    "output is the plan": (["apply", "model.pt", "plan.yaml", "-o", "plan.yaml", "--force"], "the output is the input"),
}
CASES = [
    *(pytest.param([c, name, *more], said, id=f"{c} {name}") for name, said in FILES.items()
      for c, more in (("inspect", []), ("transform", EDITS), ("plan", [*EDITS, "-o", "new.yaml"]), ("apply", ["plan.yaml"]))),
    *(pytest.param(["transform", "model.pt", *EDITS, *line.split()], said, id=name) for name, (line, said) in TRANSFORMS.items()),
    *(pytest.param(["transform", "model.pt", *line.split()], said, id=f"{name} without effect") for name, (line, said) in IDLE.items()),
    *(pytest.param(["apply", "model.pt", name, "-o", "out.pt"], said, id=f"apply {name}") for name, said in PLANS.items()),
    *(pytest.param(words, said, id=name) for name, (words, said) in WORDS.items()),
]  # fmt: skip


def check_line(text, said):
    assert text.startswith("dcsurgery: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    assert not re.search(r"unexpected \w+Error", text)  # an error that nobody thought of
    assert re.search(said, text), text


@pytest.mark.parametrize(("arguments", "said"), CASES)
def test_bad_input_is_one_line_and_changes_nothing(folder, arguments, said):
    before = state(folder)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    check_line(result.stderr, said)
    assert state(folder) == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("transform system_zip.pt --irelu", FILES["system_zip.pt"]),
        ("apply model.pt other.yaml -o out.pt", PLANS["other.yaml"]),
    ],
)
def test_the_program_itself_does_the_same(folder, line, said):
    before = state(folder)
    done = subprocess.run([COMMAND, *line.split()], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    check_line(done.stderr, said)
    assert state(folder) == before
