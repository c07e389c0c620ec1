"""The process that reads what was written: started early, used once, and never left behind."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from dcsurgery import files
from dcsurgery.cli.app import app
from dcsurgery.errors import BadInput
from dcsurgery.files import checkpoints
from dcsurgery.files.reading import import_named
from dcsurgery.fresh_process import FreshProcess


@pytest.fixture
def started(monkeypatch):
    """Every process that is started, in order."""
    real, processes = subprocess.Popen, []

    def start(*arguments, **options):
        processes.append(real(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return processes


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_a_process_started_beforehand_does_the_job_and_is_gone(model, started):
    read = files.read(model)
    with FreshProcess(model).start() as process:
        assert started[0].poll() is None
        files.write(read.model, model.with_name("out.pt"), like=read, process=process)
        assert started[0].poll() is not None
    assert len(started) == 1
    assert torch.equal(files.load(model.with_name("out.pt"))[0].weight, read.model[0].weight)


def test_an_error_ends_the_process(model, started):
    with pytest.raises(RuntimeError, match="surprise"), FreshProcess(model).start():
        raise RuntimeError("surprise")
    assert started[0].poll() is not None


def test_a_process_whose_parent_is_gone_ends():
    # Whatever ends the parent closes the other end of the pipe.
    command = [sys.executable, "-m", "dcsurgery.fresh_process"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        process.stdin.close()
        assert process.wait(timeout=120) == 1


def test_a_process_that_died_early_is_replaced(model, started):
    read = files.read(model)
    with FreshProcess(model).start() as process:
        started[0].kill()
        started[0].wait()
        assert files.write(read.model, model.with_name("out.pt"), like=read, process=process).exists()
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)


def test_a_process_that_cannot_be_started_early_is_started_late(model, monkeypatch):
    real, attempts = subprocess.Popen, []

    def fail_once(*arguments, **options):
        attempts.append(arguments)
        if len(attempts) == 1:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return real(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", fail_once)
    read = files.read(model)
    assert files.write(read.model, model.with_name("out.pt"), like=read).exists()
    assert len(attempts) == 2


def test_a_process_that_cannot_be_started_at_all_is_one_clear_line(model, monkeypatch):
    def fail(*arguments, **options):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fail)
    read = files.read(model)
    with pytest.raises(BadInput, match="could not be started: Resource temporarily unavailable"):
        files.write(read.model, model.with_name("out.pt"), like=read)
    assert sorted(path.name for path in model.parent.iterdir()) == ["model.pt"]


@pytest.mark.parametrize(
    ("arguments", "code", "count"),
    [
        (("model.pt", "--irelu", "--include", "nothing"), 3, 1),  # fails after the start
        (("model.pt", "--irelu", "--dry-run"), 0, 0),  # writes nothing
        (("missing.pt", "--irelu"), 2, 0),  # fails before it
    ],
)
def test_a_command_leaves_no_process_behind(arguments, code, count, model, started, monkeypatch):
    monkeypatch.chdir(model.parent)
    result = CliRunner().invoke(app, ["transform", *arguments])
    assert result.exit_code == code, result.output
    assert len(started) == count
    assert all(process.poll() is not None for process in started)


def test_a_damaged_file_fails_as_it_would_without_the_process(model, started, monkeypatch):
    monkeypatch.chdir(model.parent)
    model.write_bytes(model.read_bytes()[:-200])
    result = CliRunner().invoke(app, ["transform", "model.pt", "--irelu"])
    assert result.exit_code == 2
    told = "model.pt: is a truncated or damaged archive: its end is missing (copy or save it again)"
    assert result.stderr == f"dcsurgery: {told}\n"
    assert all(process.poll() is not None for process in started)


def test_preparing_imports_nothing_that_reading_would_refuse(tmp_path, monkeypatch):
    (tmp_path / "not_installed_here.py").write_text("class Thing: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "not_installed_here", raising=False)
    thing = __import__("not_installed_here").Thing()
    (tmp_path / "thing.pkl").write_bytes(pickle.dumps([nn.Tanh, thing]))
    monkeypatch.delitem(sys.modules, "not_installed_here")
    import_named(tmp_path / "thing.pkl")
    assert "not_installed_here" not in sys.modules
    import_named(tmp_path / "thing.pkl", trust=True)
    assert "not_installed_here" in sys.modules
    sys.modules.pop("not_installed_here")


def test_preparing_loads_nothing(tmp_path, capsys):
    class Loud:
        def __reduce__(self):
            return print, ("loaded",)

    (tmp_path / "loud.pkl").write_bytes(pickle.dumps(Loud()))
    import_named(tmp_path / "loud.pkl", trust=True)
    import_named(tmp_path / "loud.pkl")
    assert capsys.readouterr().out == ""


def test_whether_files_can_be_read_and_written_is_told_without_torch(tmp_path):
    code = (
        "import sys; from dcsurgery.cli.app import main\n"
        "assert main(['transform', 'missing.pt', '--irelu']) == 2\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no such file" in done.stderr


@pytest.fixture
def builds():
    """Every config that a model is built from."""
    seen = []

    def build(config):
        seen.append(config)
        return nn.Linear(2, config["width"])

    checkpoints.register_builder(build)
    yield seen
    checkpoints.register_builder(None)


def checkpoint(path, width):
    model = nn.Linear(2, width)
    torch.save({"config": {"model": "net", "width": width}, "state_dict": model.state_dict(), "epoch": 3}, path)
    return path, model


def test_preparing_for_a_checkpoint_builds_its_model_for_the_first_reading_only(tmp_path, builds):
    path, model = checkpoint(tmp_path / "checkpoint.pt", 2)
    import_named(path)
    assert len(builds) == 1
    first, second = files.load(path), files.load(path)
    assert len(builds) == 2
    assert first is not second
    assert torch.equal(first.weight, model.weight)
    assert torch.equal(second.weight, model.weight)


def test_what_was_built_beforehand_is_not_used_for_another_config_or_by_another_builder(tmp_path, builds):
    path, _ = checkpoint(tmp_path / "checkpoint.pt", 2)
    other, model = checkpoint(tmp_path / "other.pt", 3)
    import_named(path)
    assert torch.equal(files.load(other).weight, model.weight)
    import_named(path)
    checkpoints.register_builder(lambda config: nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(BadInput):  # the weights are of another model
        files.load(path)


def test_preparing_for_other_files_builds_nothing(tmp_path, builds):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    for name in ("weights.pt", "module.pt"):
        import_named(tmp_path / name)
    assert not builds
