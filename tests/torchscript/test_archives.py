"""What an archive may be and do: bad ones say what is wrong in one line, and none does more than compute."""

import io
import pickle
import warnings
import zipfile
from typing import Tuple  # noqa: UP035

import pytest
import torch
from script_models import MLP, built, inputs_of, rows, scripted
from torch import Tensor, nn

import dcsurgery as dcs
from dcsurgery import files
from dcsurgery.cli.app import main
from dcsurgery.errors import BadInput, UnsafeFile
from dcsurgery.subclass import original_class
from dcsurgery.torchscript import programs
from dcsurgery.torchscript.reading import needed_version


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.save(scripted("mlp"), path)
    return path


def changed(path, change, name="other.pt"):
    """Write an archive with other records; ``change`` maps a record's name and content to its content, or None."""
    old = torch._C.PyTorchFileReader(str(path))
    stream = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(stream)
    for record in old.get_all_records():
        if record in ("version", "byteorder") or record.startswith(".data/"):
            continue
        content = change(record, bytes(old.get_record(record)))
        if content is not None:
            writer.write_record(record, content, len(content))
    writer.write_end_of_file()
    other = path.with_name(name)
    other.write_bytes(stream.getvalue())
    return other


def with_code(path, old, new):
    def change(record, content):
        if record.endswith(".py") and old.encode() in content:
            change.done = True
            return content.replace(old.encode(), new.encode())
        return content

    change.done = False
    other = changed(path, change)
    assert change.done
    return other


def refused(path, message, error=BadInput):
    """The library, the command line, and nothing written."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(error, match=message) as caught:
        dcs.load(path)
    assert "\n" not in str(caught.value)
    assert main(["transform", str(path), "--irelu"]) == 2
    assert sorted(path.parent.iterdir()) == before


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_archives(archive, share):
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * share)])
    refused(archive, "truncated or damaged")


def test_an_archive_of_a_newer_pytorch(archive):
    data = archive.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        entries = {entry.filename: old.read(entry) for entry in old.infolist()}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as new:
        for name, content in entries.items():
            new.writestr(name, b"99\n" if name.endswith(("/version", ".data/version")) else content)
    refused(archive, "newer PyTorch")


def test_missing_code(archive):
    refused(changed(archive, lambda record, content: None if record.startswith("code/") else content), "holds no code")
    part = changed(archive, lambda record, content: None if "batchnorm" in record else content, "part.pt")
    refused(part, "does not have __torch__.torch.nn.modules.batchnorm")


def test_code_that_is_not_python(archive):
    refused(with_code(archive, "def forward", "deff forward"), "its code is damaged")


def test_an_unknown_operator_is_named(archive):
    refused(with_code(archive, "torch.silu(", "torch.silu_of_tomorrow("), r"torch\.silu_of_tomorrow")


def test_an_operator_of_a_package_that_is_not_loaded_is_named(archive):
    refused(
        with_code(archive, "torch.silu(", "ops.torch_scatter.silu("), "torch_scatter::silu, which is not loaded here"
    )


def test_tensor_data_that_is_too_short(archive):
    short = changed(archive, lambda record, content: content[:4] if record == "data/0" else content)
    refused(short, "too short")


def test_a_damaged_pickle(archive):
    damaged = changed(archive, lambda record, content: content[:-20] if record == "data.pkl" else content)
    refused(damaged, r"data\.pkl is damaged")


def test_quantized_layers_are_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates quantized tensors
        layer = torch.ao.nn.quantized.Linear(3, 3)
        torch.jit.save(torch.jit.script(layer), tmp_path / "layer.pt")
    refused(tmp_path / "layer.pt", "quantized")


def multiplied(self, input: Tuple[Tensor], output: Tensor) -> Tensor:  # noqa: UP006 - as TorchScript wants it
    return output * 5


class Inner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + 1


def test_hooks_of_children_run_and_those_of_the_model_are_refused(tmp_path):
    outer, top = Outer(), Outer()
    outer.inner.register_forward_hook(multiplied)
    torch.jit.save(torch.jit.script(outer), tmp_path / "outer.pt")
    assert torch.equal(dcs.load(tmp_path / "outer.pt")(torch.ones(1)), torch.tensor([11.0]))
    top.register_forward_hook(multiplied)
    torch.jit.save(torch.jit.script(top), tmp_path / "top.pt")
    refused(tmp_path / "top.pt", "forward hook of its own, multiplied")


def test_asynchronous_parts_are_refused(tmp_path):
    class Forks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.jit.wait(torch.jit.fork(torch.tanh, x))

    torch.jit.save(torch.jit.script(Forks()), tmp_path / "forks.pt")
    refused(tmp_path / "forks.pt", "asynchronously")


HOSTILE = [
    ("torch.silu(input)", "__import__('os').system('touch hacked')"),
    ("torch.silu(input)", "input.__class__"),
    ("torch.silu(input)", "(lambda: 1)()"),
    ("torch.silu(input)", "[x for x in input]"),
    ("torch.silu(input)", "open('hacked')"),
    ("torch.silu(input)", "getattr(input, '__reduce__')"),
    ("torch.silu(input)", "(input).numpy()"),
    ("torch.silu(input)", "(input).register_hook(input)"),
    ("torch.silu(input)", "torch.__loader__"),
    ("torch.silu(input)", "torch.hub.load(input)"),
    ("torch.silu(input)", "torch.save(input, 'hacked')"),
    ("torch.silu(input)", "torch.from_file('hacked')"),
    ("torch.silu(input)", "ops.prim.__class__"),
    ("inplace : Final[bool] = False", "inplace : Final[bool] = open('hacked')"),
    ("training : bool", "__reduce__ : bool"),
    ("class SiLU(Module):", "class SiLU(Module, metaclass=type):"),
    ("  training : bool\n", "  import os\n"),
]


@pytest.mark.parametrize(("old", "new"), HOSTILE)
def test_code_that_torchscript_does_not_write_is_refused(archive, old, new, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = with_code(archive, old, new)
    with pytest.raises(
        (BadInput, UnsafeFile), match=r"its code is not what TorchScript writes|does not have|name that"
    ):
        dcs.load(path)
    assert not (tmp_path / "hacked").exists()


def test_an_archive_pickle_that_names_a_function_is_refused(archive):
    class Evil:
        def __reduce__(self):
            return print, ("hacked",)

    evil = changed(archive, lambda record, content: pickle.dumps(Evil(), 2) if record == "data.pkl" else content)
    refused(evil, "which TorchScript does not write", UnsafeFile)


def test_format_strings_do_not_follow_attributes():
    fill = programs.namespaces(("torch.format",), trusted=False, where="")[0].format
    assert fill("{} of {}", 1, [2]) == "1 of [2]"
    assert fill("{0.__class__}", 1) == "{0.__class__}"


def test_a_pickle_with_hostile_code_in_an_imported_class_is_refused(tmp_path):
    module = dcs.transform(scripted("mlp"), example_inputs=inputs_of("mlp")).model
    texts, constants, roots = original_class(module)._program.payload
    evil = tuple((file, text.replace("torch.silu(input)", "open('hacked')")) for file, text in texts)
    assert evil != texts

    class Evil:
        def __reduce__(self):
            return programs.imported_class, ((evil, constants, roots), "MLP")

    torch.save(Evil(), tmp_path / "evil.pt")
    with pytest.raises(UnsafeFile, match="not what TorchScript writes"):
        files.load(tmp_path / "evil.pt")


@pytest.mark.parametrize("payload", [None, (), ("a", (), ("b",)), ((), (), ()), ((("a", 1),), (), ("b",))])
def test_a_pickle_with_a_class_without_its_code_is_refused(payload, tmp_path):
    class Odd:
        def __reduce__(self):
            return programs.imported_class, (payload, "MLP")

    torch.save(Odd(), tmp_path / "odd.pt")
    with pytest.raises(BadInput, match="without its code"):
        files.load(tmp_path / "odd.pt")


def test_inputs_that_do_not_fit_are_named(archive, tmp_path):
    torch.save((torch.ones(5, 4, dtype=torch.float64),), tmp_path / "inputs.pt")
    assert main(["transform", str(archive), "--irelu", "--inputs", str(tmp_path / "inputs.pt")]) == 2


def test_operators_say_which_version_they_need():
    assert needed_version(["torch.silu(x)"]) == 3
    assert needed_version(["torch.div(x, y)"]) == 4
    assert needed_version(["torch.gelu(x)"]) == 10


def test_old_archives_keep_their_meaning(tmp_path):
    """Before version 4, dividing integers truncated: torch upgrades such code, and so does the import."""

    class Divides(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.div(x, y)

    path = tmp_path / "new.pt"
    torch.jit.save(torch.jit.script(Divides()), path)
    old = changed(path, lambda _, content: content, "old.pt")  # written as version 3
    x, y = torch.tensor([7, -7]), torch.tensor([2, 2])
    expected = torch.jit.load(old)(x, y)
    assert torch.equal(dcs.load(old)(x, y), expected)
    assert not torch.equal(dcs.load(path)(x, y), expected)


def test_the_user_is_told_once_that_torchscript_is_deprecated(archive, monkeypatch):
    from dcsurgery.torchscript import reading

    monkeypatch.setattr(reading, "_TOLD", set())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        dcs.load(archive)
        dcs.load(archive)
    assert [str(w.message)[:35] for w in told] == ["TorchScript is deprecated in PyTorc"]
    assert told[0].category is FutureWarning


def test_reading_changes_nothing_and_gives_the_model(archive):
    before = archive.read_bytes()
    module = dcs.load(archive)
    assert archive.read_bytes() == before
    assert not isinstance(module, torch.jit.ScriptModule)
    assert torch.equal(module(rows()), built("mlp")(rows()))
    assert isinstance(MLP().double()(rows()), Tensor)
