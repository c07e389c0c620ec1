"""Files: what is read, what is refused in one clear line, and what a written file proves before it is kept."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dcsurgery import files
from dcsurgery.errors import BadInput, PlanMismatch, Refused, UnsafeFile
from dcsurgery.files import checkpoints, destination, kinds, proof, recheck, writing
from dcsurgery.files.kinds import Kind


class Net(nn.Module):
    """A model of this test module: no installed package has it."""

    def __init__(self, width=3):
        super().__init__()
        self.width = width
        self.linear = nn.Linear(2, width)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x):
        return torch.tanh(self.norm(self.linear(x)))


class Forgetful(nn.Linear):
    """Its own pickling loses the bias."""

    def __getstate__(self):
        state = dict(vars(self))
        state["_parameters"] = {**state["_parameters"], "bias": nn.Parameter(torch.zeros(self.out_features))}
        return state


class Restless(nn.Linear):
    """Gives other outputs at every call."""

    calls = 0

    def forward(self, x):
        Restless.calls += 1
        return super().forward(x) + Restless.calls


def build_net(config):
    """Build the models of these tests' checkpoints."""
    if config["model"] != "net":
        raise BadInput(f"unknown model {config['model']!r}", fix="there are: net")
    return Net(**{key: value for key, value in config.items() if key != "model"})


def replay_net(model, plan):
    """Replay these tests' plans: delete the norm."""
    if plan != "delete: norm":
        raise PlanMismatch("the plan was made for another model")
    model.norm = nn.Identity()
    return model


@pytest.fixture
def registry():
    checkpoints.register_builder(build_net)
    checkpoints.register_replay(replay_net)
    yield
    checkpoints.register_builder(None)
    checkpoints.register_replay(None)


@pytest.fixture
def same_process(monkeypatch):
    """Read written files again in this process, which is faster; some tests use the fresh one."""
    monkeypatch.setattr(writing, "needs_this_process", lambda *_: True)


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Tanh())
    torch.save(net, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def checkpoint(path, prefix="", **changes):
    torch.manual_seed(0)
    net = Net()
    weights = {f"{prefix}{key}": value for key, value in net.state_dict().items()}
    entries = {"config": {"model": "net", "width": 3}, "state_dict": weights, "epoch": 7, "optimizer": {"lr": 0.1}}
    torch.save({**entries, **changes}, path)
    return path


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def is_one_line(error, path):
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    assert error.value.fix
    assert error.value.exit_code == 2
    return True


# -- files that hold no model -----------------------------------------------------------------------------------------


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def protobuf(*fields):
    return b"".join(
        varint(number << 3) + varint(value)
        if isinstance(value, int)
        else varint(number << 3 | 2) + varint(len(value)) + value
        for number, value in fields
    )


def zipped(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return stream.getvalue()


def saved(value, **options):
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def arrays(**named):
    stream = io.BytesIO()
    np.savez(stream, **named)
    return stream.getvalue()


SAVED = saved(nn.Linear(64, 64))
LEGACY = saved(nn.Linear(64, 64), _use_new_zipfile_serialization=False)
NO_MODEL = {
    "empty": (b"", Kind.EMPTY, "is empty"),
    "text": ("hello, größe\n".encode(), Kind.TEXT, "is a text file"),
    "a pickle by accident": (b"hello.", Kind.TEXT, "is a text file"),
    "long text": (("ü" * 5000).encode(), Kind.TEXT, "is a text file"),
    "random bytes": (bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)), Kind.UNKNOWN, "no format"),
    "truncated archive": (SAVED[: len(SAVED) // 2], Kind.TRUNCATED_ZIP, "truncated"),
    "other archive": (zipped("a/b.txt"), Kind.ZIP, "torch.save did not write"),
    "numpy": (arrays(x=np.ones(2)), Kind.NPZ, "NumPy archive"),
    "package": (zipped("p/.data/extern_modules", "p/model.pkl"), Kind.PACKAGE, "torch.package"),
    "old exported program": (
        zipped("serialized_exported_program.json"),
        Kind.PT2,
        "serialized_exported_program.json is not JSON",
    ),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), Kind.HDF5, "HDF5"),
    "safetensors": ((16).to_bytes(8, "little") + b'{"w":{}}        ', Kind.SAFETENSORS, "only weights"),
    "onnx": (protobuf((1, 9), (2, b"pytorch"), (7, protobuf((1, b"node"))), (8, b"\x10\x11")), Kind.ONNX, "ONNX"),
    "other protocol buffer": (protobuf((1, 9), (40, b"text")), Kind.UNKNOWN, "no format"),
}


@pytest.mark.parametrize("name", list(NO_MODEL))
def test_a_file_of_another_kind_is_one_clear_line(name, tmp_path):
    data, kind, message = NO_MODEL[name]
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    assert kinds.kind_of(io.BytesIO(data)) is kind
    for trust in (False, True):
        with pytest.raises(BadInput, match=message) as error:
            files.read(path, trust=trust)
        assert is_one_line(error, path)
    assert path.read_bytes() == data


@pytest.mark.parametrize("data", [SAVED, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("trust", [False, True])
def test_damaged_files_are_one_clear_line(data, trust, tmp_path):
    path = tmp_path / "model.pt"
    for cut in range(1, 20):
        path.write_bytes(data[: cut * len(data) // 20])
        with pytest.raises(BadInput) as error:
            files.read(path, trust=trust)
        assert is_one_line(error, path)
    generator = np.random.default_rng(0)
    for _ in range(0 if trust else 40):  # damage could spell a function, which trust would call
        damaged = np.frombuffer(data, dtype=np.uint8).copy()
        damaged[generator.integers(0, min(len(data), 900), 8)] = generator.integers(0, 256, 8)
        path.write_bytes(damaged.tobytes())
        with contextlib.suppress(BadInput):  # damage to a number is no damage to the file; nothing else may come out
            files.read(path, trust=trust)


def test_places_that_are_no_files_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no such file") as error:
        files.read(tmp_path / "missing.pt")
    assert is_one_line(error, "missing.pt")
    with pytest.raises(BadInput, match="directory"):
        files.read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="regular file"):
        files.read(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="no such file"):
        files.read(tmp_path / "dangling")


@pytest.mark.parametrize(
    ("error", "message"), [(PermissionError(13, "denied"), "permission"), (OSError(5, "Input/output error"), "output")]
)
def test_files_that_cannot_be_opened_are_refused(model, monkeypatch, error, message):
    def fail(*_):
        raise error

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(BadInput, match=message):
        files.read(model)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "holds a list"),
        ("hello", "holds a str"),
        (torch.ones(2), "holds a torch.Tensor"),
        ({}, "holds a dict"),
        ({"a": 1}, "holds a dict"),
        (nn.Linear(2, 2).state_dict(), r"only weights \(2 tensors, e\.g\. 'weight'\)"),
        ({"state_dict": {"w": torch.ones(1)}, "epoch": 1}, r"only weights \(1 tensor, e\.g\. 'w'\)"),
        ({"state_dict": {"w": torch.ones(1)}, "config": "x.yml"}, "'config' entry is a str"),
        ({"model": nn.Linear(1, 1), "epoch": 3}, "entry 'model' is the model"),
    ],
)
@pytest.mark.parametrize("plain", [False, True])
def test_values_that_are_no_model_are_named(value, message, plain, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(value) if plain else saved(value))
    with pytest.raises(BadInput, match=message) as error:
        files.read(path)
    assert is_one_line(error, path)


def test_missing_modules_and_attributes_are_named_with_trust(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"\x80\x02cno_such_module_xyz\nNet\n.")
    with pytest.raises(BadInput, match="no_such_module_xyz") as error:
        files.read(path, trust=True)
    assert "--import no_such_module_xyz.py" in error.value.fix
    path.write_bytes(b"\x80\x02ctorch.nn\nNoSuchNet\n.")
    with pytest.raises(BadInput, match="NoSuchNet"):
        files.read(path, trust=True)


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep")])
def test_running_out_of_memory_is_one_clear_line(model, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(BadInput) as caught:
        files.read(model)
    assert is_one_line(caught, model)


# -- reading ----------------------------------------------------------------------------------------------------------


def test_a_module_is_read_in_the_mode_it_was_saved_in_and_its_file_stays(model):
    before = model.read_bytes(), model.stat().st_mtime_ns
    read = files.read(model)
    assert (read.kind, read.entries, read.key_prefix) == ("module", {}, "")
    assert read.model.training
    assert files.load(str(model))[0].weight.device.type == "cpu"
    assert before == (model.read_bytes(), model.stat().st_mtime_ns)


def test_no_file_stays_open(model):
    folder = Path("/dev/fd")
    before = len(list(folder.iterdir()))
    kept = [files.read(model).model for _ in range(5)]
    with pytest.raises(BadInput):
        files.read(model.parent / "missing.pt")
    assert len(list(folder.iterdir())) == before
    assert kept


def test_reading_a_checkpoint_draws_no_random_numbers(registry, tmp_path):
    path = checkpoint(tmp_path / "c.pt")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    files.read(path)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_checkpoints_are_rebuilt_and_keep_their_other_entries(registry, prefix, tmp_path):
    read = files.read(checkpoint(tmp_path / "c.pt", prefix))
    assert (read.kind, read.key_prefix) == ("checkpoint", prefix)
    assert read.entries == {"config": {"model": "net", "width": 3}, "epoch": 7, "optimizer": {"lr": 0.1}}
    torch.manual_seed(0)
    assert recheck.describe_weights(read.model.state_dict()) == recheck.describe_weights(Net().state_dict())


@pytest.mark.parametrize("dtypes", [[torch.float64], [torch.bfloat16], [torch.float32, torch.float64, torch.bfloat16]])
def test_a_checkpoint_of_another_precision_is_not_rounded(registry, dtypes, tmp_path):
    turn = itertools.cycle(dtypes)
    weights = {k: (v + 1 / 3).to(next(turn)) if v.is_floating_point() else v for k, v in Net().state_dict().items()}
    read = files.read(checkpoint(tmp_path / "c.pt", state_dict=weights))
    assert recheck.describe_weights(read.model.state_dict()) == recheck.describe_weights(weights)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_that_do_not_fit_are_named(registry, prefix, tmp_path):
    weights = {f"{prefix}{key}": value for key, value in Net().state_dict().items() if key != "linear.bias"}
    path = checkpoint(tmp_path / "c.pt", state_dict={**weights, f"{prefix}extra": torch.ones(1)})
    with pytest.raises(BadInput, match=r"1 missing \(linear\.bias\) and 1 unexpected \(extra\)") as error:
        files.read(path)
    assert is_one_line(error, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"model": "net", "width": 4}}, "size mismatch"),
        ({"config": {"model": "other"}}, "unknown model 'other'"),
        ({"config": {"model": "net", "depth": 4}}, "TypeError"),
        ({"state_dict": [1]}, "is a list, not a table"),
        ({"dcsurgery": 3}, "not a record of surgery"),
        ({"dcsurgery": {"format": 1, "surgeries": [{}]}}, "not a record of surgery"),
        ({"dcsurgery": {"format": 99, "surgeries": []}}, "format 99"),
        ({"dcsurgery": {"format": 1, "surgeries": [{"plan": "x"}]}}, "cannot be replayed: the plan was made"),
    ],
)
def test_checkpoints_that_cannot_be_rebuilt_are_one_clear_line(registry, changes, message, tmp_path):
    path = checkpoint(tmp_path / "c.pt", **changes)
    with pytest.raises(BadInput, match=message) as error:
        files.read(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_checkpoints_are_as_safe_as_modules(registry, tmp_path):
    with pytest.raises(UnsafeFile, match=r"builtins\.print"):
        files.read(checkpoint(tmp_path / "c.pt", hook=print))


def test_weights_of_a_model_whose_own_keys_begin_with_module():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(1, 1)

    weights = Wrapper().state_dict()
    assert checkpoints.load_weights(Wrapper(), weights, "") == ""
    assert checkpoints.load_weights(Wrapper(), {f"module.{k}": v for k, v in weights.items()}, "") == "module."
    with pytest.raises(BadInput, match=r"1 missing \(module\.bias\)"):
        checkpoints.load_weights(Wrapper(), {"module.weight": weights["module.weight"]}, "")


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_written_model_was_read_in_a_fresh_process_with_equal_bits(model, tmp_path, monkeypatch):
    started = []
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a) or real(*a, **k))
    read = files.read(model)
    before = recheck.describe(read.model)
    torch.manual_seed(3)
    out = files.write(read.model, tmp_path / "out.pt", like=read, example_inputs=torch.ones(4, 2))
    following = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), following)  # checking draws none of the caller's random numbers
    assert recheck.describe(read.model) == before  # batch statistics too, although it ran in train mode
    assert [arguments[0][-1] for arguments in started] == ["dcsurgery.fresh_process"]
    assert not recheck.differences(before, recheck.describe(files.load(out)))
    assert names_in(tmp_path) == ["model.pt", "out.pt"]
    assert out.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_edited_checkpoint_keeps_its_layout_and_replays_in_a_fresh_process(registry, tmp_path):
    read = files.read(checkpoint(tmp_path / "c.pt", "module."))
    edited = replay_net(read.model, "delete: norm")
    record = {"plan": "delete: norm", "key_map": {"norm.weight": None}}
    out = files.write(edited, tmp_path / "out.pt", like=read, record=record, example_inputs=(torch.ones(2, 2),))
    entries = torch.load(out, weights_only=True)
    assert list(entries) == ["config", "state_dict", "epoch", "optimizer", "dcsurgery"]
    assert list(entries["state_dict"]) == ["module.linear.weight", "module.linear.bias"]
    assert entries["dcsurgery"]["surgeries"] == [record]
    again = files.read(out)
    assert isinstance(again.model.norm, nn.Identity)
    assert torch.equal(again.model.linear.weight, edited.linear.weight)


def test_a_second_surgery_is_recorded_behind_the_first(registry, same_process, tmp_path):
    read = files.read(checkpoint(tmp_path / "c.pt"))
    first = files.write(
        replay_net(read.model, "delete: norm"), tmp_path / "1.pt", like=read, record={"plan": "delete: norm"}
    )
    again = files.read(first)
    second = files.write(again.model, tmp_path / "2.pt", like=again, record={"plan": "delete: norm", "n": 2})
    assert [s.get("n") for s in torch.load(second, weights_only=True)["dcsurgery"]["surgeries"]] == [None, 2]
    assert len(again.entries["dcsurgery"]["surgeries"]) == 1  # what was read is not changed by writing


def test_a_checkpoint_without_the_record_of_its_edits_is_refused(registry, same_process, tmp_path):
    read = files.read(checkpoint(tmp_path / "c.pt"))
    read.model.norm = nn.Identity()
    with pytest.raises(BadInput, match="could not be read again: its weights do not fit"):
        files.write(read.model, tmp_path / "out.pt", like=read)
    with pytest.raises(BadInput, match="needs its plan"):
        files.write(read.model, tmp_path / "out.pt", like=read, record={"key_map": {}})
    assert names_in(tmp_path) == ["c.pt"]


def test_a_model_that_comes_back_different_is_not_kept(same_process, tmp_path):
    with pytest.raises(BadInput, match=r"differs in 1 tensor \(bias\)") as error:
        files.write(Forgetful(2, 2), tmp_path / "out.pt")
    assert is_one_line(error, "out.pt")
    assert names_in(tmp_path) == []


def test_a_patched_forward_that_pickle_would_lose_is_noticed(same_process, tmp_path):
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    other = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    other.forward = torch.relu
    assert "forward" in str(recheck.differences(recheck.describe(net), recheck.describe(other)))


def test_differences_are_seen_in_every_part():
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.Tanh()))
    other = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.Tanh()))
    other.load_state_dict(graph.state_dict())
    assert recheck.describe(graph) == recheck.describe(other)
    node = next(node for node in other.graph.nodes if node.target == "1")
    node.replace_all_uses_with(node.args[0])
    other.graph.erase_node(node)
    other.recompile()
    assert recheck.differences(recheck.describe(graph), recheck.describe(other))
    net = nn.Linear(2, 2)
    assert recheck.differences(recheck.describe(net), recheck.describe(nn.Linear(2, 2).requires_grad_(True)))
    expected = recheck.describe(net, torch.ones(2))
    net.eval()
    assert recheck.differences(expected, recheck.describe(net, torch.ones(2)))
    assert recheck.differences(expected, recheck.describe(net.train(), torch.zeros(2))) == ["1 output (0)"]
    double = nn.Linear(2, 2).to(torch.float64)
    assert recheck.describe(double)["tensor"] != recheck.describe(double.to(torch.float32))["tensor"]


def test_negative_zero_and_nan_are_compared_by_their_bits():
    digest = recheck.describe_weights({"a": torch.tensor([0.0]), "b": torch.tensor([-0.0])})
    assert digest["a"] != digest["b"]
    nan = torch.tensor([float("nan")])
    assert recheck.describe_weights({"a": nan}) == recheck.describe_weights({"a": nan.clone()})
    sparse = torch.eye(2).to_sparse()
    assert recheck.describe_weights({"a": sparse}) == recheck.describe_weights({"a": torch.eye(2)})


def test_a_model_that_never_repeats_itself_is_compared_by_its_weights(same_process, tmp_path):
    assert files.write(Restless(2, 2), tmp_path / "out.pt", example_inputs=torch.ones(1, 2)).exists()


def test_what_the_check_raises_stops_the_writing(same_process, model, tmp_path):
    read, seen = files.read(model), []

    def check(edited, reread):
        seen.append((edited, reread))
        raise Refused("not good enough")

    with pytest.raises(Refused, match="not good enough"):
        files.write(read.model, tmp_path / "out.pt", like=read, check=check)
    assert seen[0][0] is read.model
    assert seen[0][1] is not read.model
    assert names_in(tmp_path) == ["model.pt"]


def test_a_class_that_the_reader_would_refuse_is_refused_by_the_writer(model, tmp_path):
    read = files.read(model)
    read.model.add_module("net", Net())
    with pytest.raises(BadInput, match="could not be read again") as error:
        files.write(read.model, tmp_path / "out.pt", like=read)
    assert "Net" in str(error.value)
    assert names_in(tmp_path) == ["model.pt"]


def test_a_checking_process_that_dies_is_reported(model, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(BadInput, match="the checking process failed: exit status 1"):
        files.write(files.load(model), tmp_path / "out.pt")
    assert names_in(tmp_path) == ["model.pt"]


def test_the_checking_process_answers_in_a_file(registry, model, tmp_path):
    job = {
        "path": str(model),
        "answer": str(tmp_path / "answer.json"),
        "inputs": None,
        "weights": False,
        "trust": False,
        "imports": [],
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "builder": "test_files:build_net",
        "replay": None,
    }

    def answer(**changes):
        recheck.answer({**job, **changes})
        return json.loads((tmp_path / "answer.json").read_text())

    assert answer()["description"] == recheck.describe(files.load(model))
    torch.save(torch.ones(3, 2), tmp_path / "inputs.pt")
    with_inputs = answer(inputs=str(tmp_path / "inputs.pt"))["description"]
    assert with_inputs == recheck.describe(files.load(model), torch.ones(3, 2))
    weights = files.load(model).state_dict()
    torch.save(weights, tmp_path / "weights.pt")
    answered = answer(path=str(tmp_path / "weights.pt"), weights=True)
    assert answered["description"] == {"tensor": recheck.describe_weights(weights)}
    assert answer(path=str(tmp_path / "missing.pt"))["error"] == "no such file"
    torch.save("no tensor", tmp_path / "inputs.pt")
    assert answer(inputs=str(tmp_path / "inputs.pt"))["error"].startswith("TypeError: linear")


@pytest.mark.parametrize("format", ["module", "state-dict", "auto"])
def test_formats(format, same_process, model, tmp_path):
    read = files.read(model)
    out = files.write(read.model, tmp_path / "out.pt", format=format)
    value = torch.load(out, weights_only=format == "state-dict")
    weights = value if format == "state-dict" else value.state_dict()
    assert recheck.describe_weights(weights) == recheck.describe_weights(read.model.state_dict())
    with pytest.raises(BadInput, match="not built by the zoo"):
        files.write(read.model, tmp_path / "other.pt", format="checkpoint")
    with pytest.raises(BadInput, match="unknown format 'onnx'"):
        files.write(read.model, tmp_path / "other.pt", format="onnx")
    with pytest.raises(BadInput, match="TorchScript"):
        files.write(read.model, tmp_path / "other.pt", format="torchscript")


def test_graph_modules_stay_graph_modules(same_process, tmp_path):
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.SiLU()))
    torch.save(graph, tmp_path / "graph.pt")
    read = files.read(tmp_path / "graph.pt")
    out = files.write(read.model, tmp_path / "out.pt", like=read, example_inputs=torch.ones(3, 2))
    assert files.read(out).kind == "graph-module"


@pytest.mark.parametrize(
    ("attach", "place"),
    [
        (lambda net: setattr(net[0], "act", lambda x: x), r"0\.act holds a lambda \(.*test_files\.py:\d+\)"),
        (lambda net: setattr(net, "acts", {"a": [torch.tanh, lambda x: x]}), r"acts\['a'\]\[1\] holds a lambda"),
        (lambda net: setattr(net, "stream", open(os.devnull)), r"stream holds a _io\.TextIOWrapper"),  # noqa: SIM115
        (lambda net: net.add_module("local", type("Local", (nn.Module,), {})()), r"local \(Local\) holds its class"),
        (lambda net: setattr(net, "box", type("Box", (), {})()), r"box holds"),
    ],
    ids=["lambda", "in containers", "open file", "local class", "local helper"],
)
def test_what_cannot_be_pickled_is_named(attach, place, model, tmp_path):
    net = files.load(model)
    attach(net)
    with pytest.raises(BadInput, match=place) as error:
        files.write(net, tmp_path / "out.pt")
    assert is_one_line(error, "out.pt")
    assert names_in(tmp_path) == ["model.pt"]
    getattr(net, "stream", io.StringIO()).close()


def test_a_disk_that_fills_up_while_data_settles_is_one_clear_line(model, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(BadInput, match="No space left"):
        files.write(nn.Linear(2, 2), tmp_path / "out.pt")
    assert names_in(tmp_path) == ["model.pt"]


def test_a_full_disk_is_one_clear_line(model, tmp_path, monkeypatch):
    (tmp_path / "full.tmp").symlink_to("/dev/full")
    monkeypatch.setattr(writing, "temporary_beside", lambda _: tmp_path / "full.tmp")
    with pytest.raises(BadInput, match="cannot be written") as error:
        files.write(nn.Linear(500, 500), tmp_path / "out.pt")
    assert is_one_line(error, "out.pt")
    assert names_in(tmp_path) == ["model.pt"]


def test_an_output_that_appears_meanwhile_is_not_overwritten(same_process, model, tmp_path):
    def check(*_):
        (tmp_path / "out.pt").write_text("mine")

    with pytest.raises(BadInput, match="appeared"):
        files.write(files.load(model), tmp_path / "out.pt", check=check)
    assert (tmp_path / "out.pt").read_text() == "mine"
    assert names_in(tmp_path) == ["model.pt", "out.pt"]
    assert files.write(files.load(model), tmp_path / "out.pt", force=True).stat().st_size > 100


def test_example_inputs_that_cannot_be_pickled_are_refused(model, tmp_path):
    with pytest.raises(BadInput, match="example inputs cannot be pickled"):
        files.write(files.load(model), tmp_path / "out.pt", example_inputs=(lambda: 1,))


def test_models_of_a_script_are_checked_in_the_same_process():
    net = Net()
    assert not proof.needs_this_process(nn.Sequential(nn.Linear(1, 1)), None)
    assert not proof.needs_this_process(net, None)  # pytest has put this file's folder on the path
    script = type("Scripted", (nn.Module,), {"__module__": "__main__"})()
    assert proof.needs_this_process(script, None)


# -- save: what the API calls -------------------------------------------------------------------------------------------


def test_a_surgery_of_a_zoo_model_is_saved_as_a_checkpoint_that_replays_it(same_process, tmp_path):
    import dcsurgery as dcs
    from dcsurgery import zoo

    model = zoo.build("cgconv-bn")
    surgery = dcs.apply(model, dcs.plan(model))
    out = files.save(surgery, tmp_path / "edited.pt")
    read = files.read(out)
    assert read.kind == "checkpoint"
    assert read.entries["config"]["model"] == "cgconv-bn"
    assert not recheck.differences(recheck.describe(surgery.model), recheck.describe(read.model))
    assert files.read(files.save(model, tmp_path / "plain.pt")).kind == "checkpoint"


def test_other_models_and_surgeries_are_saved_as_modules(same_process, model, tmp_path):
    import dcsurgery as dcs

    net = files.load(model)
    surgery = dcs.apply(net, dcs.plan(net))
    assert files.read(files.save(surgery, tmp_path / "edited.pt")).kind == "module"
    with pytest.raises(BadInput, match="got int"):
        files.save(3, tmp_path / "x.pt")


def test_a_zoo_model_that_was_edited_by_hand_is_saved_as_a_module(tmp_path):
    from dcsurgery import zoo

    model = zoo.build("cgconv-bn")
    assert writing._can_rebuild(model, None)
    model.extra = nn.Linear(1, 1)
    assert not writing._can_rebuild(model, None)
    model.dcsurgery_config = {"model": "no such model"}
    assert not writing._can_rebuild(model, None)


# -- outputs ------------------------------------------------------------------------------------------------------------


def test_outputs_are_checked_before_any_work(model, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    (tmp_path / "link.pt").symlink_to(model)
    os.link(model, tmp_path / "hard.pt")
    for path, message in [
        (tmp_path, "is a directory"),
        (tmp_path / "missing" / "out.pt", "does not exist"),
        (model / "out.pt", "is a file, not a folder"),
        (tmp_path / "locked" / "out.pt", "permission denied"),
        (tmp_path / "link.pt", "output is the input"),
        (tmp_path / "hard.pt", "output is the input"),
        (tmp_path / "locked" / ".." / "model.pt", "output is the input"),
    ]:
        with pytest.raises(BadInput, match=message) as error:
            files.check_output(path, model, force=True)
        assert is_one_line(error, path)
    other = tmp_path / "other.pt"
    other.write_text("mine")
    with pytest.raises(BadInput, match="exists already"):
        files.check_output(other, model)
    assert files.check_output(other, model, force=True) == other
    assert other.read_text() == "mine"
    assert files.check_output(str(tmp_path / "new.pt"), tmp_path / "missing.pt") == tmp_path / "new.pt"
    assert not (tmp_path / "new.pt").exists()


def test_a_dangling_link_is_an_existing_output(tmp_path):
    (tmp_path / "link.pt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="exists already"):
        files.check_output(tmp_path / "link.pt")


def test_folders_that_only_trying_shows_to_be_read_only(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(destination.os, "open", fail)
    with pytest.raises(BadInput, match="Read-only file system"):
        files.check_output(tmp_path / "out.pt")


# -- example inputs -----------------------------------------------------------------------------------------------------


def test_inputs_are_read_as_they_were_saved(tmp_path):
    from torch_geometric.data import Batch, Data

    graph = Data(x=torch.ones(2, 3), edge_index=torch.tensor([[0, 1], [1, 0]]))
    path = tmp_path / "inputs.pt"
    for value in (torch.arange(3.0), (torch.ones(1), 2.5), {"x": torch.ones(2)}, graph, Batch.from_data_list([graph])):
        torch.save(value, path)
        read = files.read_inputs(path)
        assert type(read) is type(value)
        assert recheck.describe(nn.Module()) is not None
        assert str(read) == str(value)
    torch.save([torch.ones(1), torch.zeros(1)], path)
    assert isinstance(files.read_inputs(path), tuple)


def test_arrays_become_keyword_arguments(tmp_path):
    np.savez(tmp_path / "inputs.npz", x=np.ones((2, 3), dtype=np.float32), n=np.arange(2))
    read = files.read_inputs(tmp_path / "inputs.npz")
    assert list(read) == ["x", "n"]
    assert torch.equal(read["x"], torch.ones(2, 3))
    np.save(tmp_path / "one.npy", np.ones(2))
    with pytest.raises(BadInput, match="arrays cannot be read"):
        files.read_inputs(tmp_path / "one.npy")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(BadInput, match="arrays cannot be read"):
        files.read_inputs(tmp_path / "objects.npz")


def test_pickles_inside_arrays_do_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    np.savez(tmp_path / "evil.npz", x=np.array([Evil()], dtype=object))
    with pytest.raises(BadInput, match="arrays cannot be read"):
        files.read_inputs(tmp_path / "evil.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [("text", "holds a str"), ({1: torch.ones(1)}, "argument names"), ({}, "argument names"), (None, "NoneType")],
)
def test_values_that_are_no_inputs_are_refused(value, message, tmp_path):
    torch.save(value, tmp_path / "inputs.pt")
    with pytest.raises(BadInput, match=message) as error:
        files.read_inputs(tmp_path / "inputs.pt")
    assert is_one_line(error, "inputs.pt")


def test_input_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        files.read_inputs(tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(BadInput, match="not example inputs") as error:
        files.read_inputs(tmp_path / "text.pt")
    assert "tuple of arguments" in error.value.fix
    torch.save(print, tmp_path / "evil.pt")
    with pytest.raises(UnsafeFile, match=r"builtins\.print"):
        files.read_inputs(tmp_path / "evil.pt")
