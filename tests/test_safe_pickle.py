"""Hostile pickles must be refused by name, and nothing of them may run; honest models must come back bit for bit."""

from __future__ import annotations

import copyreg
import functools
import importlib
import inspect
import io
import os
import pickle
import struct
import sys
import textwrap
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dcsurgery import files
from dcsurgery.activations import IReLU, irelu
from dcsurgery.errors import BadInput, UnsafeFile
from dcsurgery.files import installed, recheck
from dcsurgery.files.graph_code import check_graph_code
from dcsurgery.files.harmless import is_harmless_function
from dcsurgery.files.installed import is_installed
from dcsurgery.files.safe_globals import Policy
from dcsurgery.files.safe_pickle import safe_unpickle
from dcsurgery.files.safe_rules import Forbidden

# NumPy 2 renamed its core; environments with fairchem-core 1.x have NumPy 1.26.
CORE = "numpy._core" if int(np.__version__.partition(".")[0]) >= 2 else "numpy.core"
MULTIARRAY = importlib.import_module(f"{CORE}.multiarray")
NUMERIC = importlib.import_module(f"{CORE}.numeric")


@pytest.fixture
def marker(tmp_path):
    """A file that hostile code would make; no test may end with it."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists()


class Call:
    """Pickles as a call of ``function`` with ``args``."""

    def __init__(self, function, *args, state=None):
        self.function, self.args, self.state = function, args, state

    def __reduce__(self):
        return (self.function, self.args) if self.state is None else (self.function, self.args, self.state)


# -- a little assembler for pickles that Python's pickler would not write -----------------------------------------


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def stack_name(module, attribute):
    return text(module) + text(attribute) + b"\x93"


def pickled(body):
    return b"\x80\x04" + body + b"."


def written(path, data):
    path.write_bytes(data)
    return path


def as_torch_zip(path, payload):
    """Write an archive as torch.save does, with a pickle of our own in it."""
    writer = torch._C.PyTorchFileWriter(str(path))
    writer.write_record("data.pkl", payload, len(payload))
    writer.write_record("byteorder", b"little", 6)
    writer.write_end_of_file()
    return path


def as_legacy(path, payload):
    head = io.BytesIO()
    torch.save(None, head, _use_new_zipfile_serialization=False)
    stream = io.BytesIO(head.getvalue())
    for _ in range(3):
        pickle.load(stream)
    return written(path, head.getvalue()[: stream.tell()] + payload + pickle.dumps([], protocol=2))


def plain(path, payload):
    return written(path, payload)


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", [as_torch_zip, as_legacy, plain])
@pytest.mark.parametrize("protocol", [2, 4])
def test_os_system_is_named_and_does_not_run(container, protocol, tmp_path, marker):
    path = container(tmp_path / "evil.pt", pickle.dumps(Call(os.system, f"touch {marker}"), protocol=protocol))
    with pytest.raises(UnsafeFile, match=r"os\.system") as caught:
        files.read(path)
    assert "trust" in caught.value.fix
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", [0, 1])
def test_pickles_without_a_header_are_recognised(protocol, tmp_path, marker):
    path = written(tmp_path / "evil.pt", pickle.dumps(Call(os.system, f"touch {marker}"), protocol=protocol))
    with pytest.raises(UnsafeFile, match=r"os\.system"):
        files.read(path)


def test_the_payload_does_run_when_the_file_is_trusted(tmp_path):
    made = tmp_path / "made"
    path = as_torch_zip(tmp_path / "evil.pt", pickle.dumps(Call(os.system, f"touch {made}"), protocol=2))
    with pytest.raises(BadInput, match="holds a int, not a model"):
        files.read(path, trust=True)
    assert made.exists()  # so that the tests around this one show something


def test_every_offending_name_is_in_the_message(tmp_path, marker):
    evil = [Call(os.system, f"touch {marker}"), Call(eval, "1"), nn.Linear(1, 1), Call(torch.hub.load, "a", "b")]
    torch.save(evil, tmp_path / "evil.pt")
    with pytest.raises(UnsafeFile) as caught:
        files.read(tmp_path / "evil.pt")
    for offender in ("os.system", "builtins.eval", "torch.hub.load"):
        assert offender in caught.value.message
    assert "Linear" not in caught.value.message


@pytest.mark.parametrize(
    "function",
    [
        eval,
        exec,
        __import__,
        open,
        compile,
        globals,
        setattr,
        map,
        torch.load,
        torch.save,
        torch.hub.load,
        torch.jit.load,
        torch.from_file,
        torch.compile,
        torch.ops.load_library,
        pickle.loads,
        types.CodeType,
        types.FunctionType,
        functools.cached_property,
        inspect.getattr_static,
        np.load,
        np.memmap,
        np.fromfile,
        sys.exit,
        os.remove,
        Path.unlink,
        torch.fx.GraphModule,
        torch.nn.Module.apply,
    ],
    ids=lambda function: getattr(function, "__qualname__", str(function)),
)
def test_functions_that_do_more_than_compute_can_not_even_be_named(function):
    module = getattr(function, "__module__", None) or "torch"
    with pytest.raises((Forbidden, BadInput)):
        Policy().find(module, function.__qualname__)
    assert not is_harmless_function(function)


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("operator", "attrgetter"),
        ("operator", "methodcaller"),
        ("operator", "call"),
        ("torch.serialization", "os.system"),
        ("torch.nn.modules.linear", "math.floor"),
        ("torch.nn.modules.module", "Module.apply"),
        ("dcsurgery.subclass", "nn.Linear"),
        ("torch.nn.modules.linear", "Linear.__init__"),
        ("torch.nn.modules.linear", "Linear.__init__.__globals__"),
        ("torch.distributed.nn", "RemoteModule"),
        ("torch.fx.graph_module", "_forward_from_src"),
        ("torch.utils.data", "DataLoader"),
        ("torch._C._nn", "_parse_to"),
        ("torch.nn.functional", "handle_torch_function"),
        ("torch.nn.functional", "importlib"),
        ("subprocess", "Popen"),
        ("dcsurgery.files.installed", "import_files"),
        ("dcsurgery.api", "load"),
        ("antigravity", "webbrowser"),
        ("pip.__main__", "sys"),
    ],
)
def test_detours_to_a_name_are_closed(module, attribute, tmp_path):
    path = as_torch_zip(tmp_path / "evil.pt", pickled(stack_name(module, attribute)))
    with pytest.raises(UnsafeFile):
        files.read(path)
    assert "antigravity" not in sys.modules


def test_names_that_the_file_computes_are_refused(tmp_path):
    computed = name("_codecs", "encode") + text("os") + text("latin1") + b"\x86R"
    path = as_torch_zip(tmp_path / "evil.pt", pickled(computed + text("system") + b"\x93"))
    with pytest.raises(UnsafeFile, match="computed"):
        files.read(path)


def test_names_from_the_memo_are_seen(tmp_path, marker):
    body = text("system") + b"\x94" + b"0" + text("posix") + b"h\x00" + b"\x93" + text(f"touch {marker}") + b"\x85R"
    with pytest.raises(UnsafeFile, match=r"os\.system"):
        files.read(as_torch_zip(tmp_path / "evil.pt", pickled(body)))


def test_extension_codes_are_refused(tmp_path, marker):
    copyreg.add_extension("posix", "system", 240)
    try:
        body = b"\x82\xf0" + text(f"touch {marker}") + b"\x85R"
        with pytest.raises(UnsafeFile, match="extension 240"):
            files.read(as_torch_zip(tmp_path / "evil.pt", pickled(body)))
        with pytest.raises(Forbidden, match="extension 240"):
            safe_unpickle(io.BytesIO(pickled(body)), Policy())
    finally:
        copyreg.remove_extension("posix", "system", 240)


@pytest.mark.parametrize("opcode", [b"i", b"o"])
def test_the_old_call_instructions_are_seen(opcode, tmp_path, marker):
    command = text(f"touch {marker}")
    body = b"(" + command + b"iposix\nsystem\n" if opcode == b"i" else b"(" + name("posix", "system") + command + b"o"
    with pytest.raises(UnsafeFile, match=r"os\.system"):
        files.read(plain(tmp_path / "evil.pt", b"\x80\x02" + body + b"."))


def test_a_module_in_the_working_directory_is_not_imported(tmp_path, marker, monkeypatch):
    (tmp_path / "helpful_layers.py").write_text(
        f"from torch import nn\nopen({str(marker)!r}, 'w')\nclass Net(nn.Module): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    body = name("helpful_layers", "Net") + b")\x81}b"
    with pytest.raises(UnsafeFile, match=r"helpful_layers\.Net") as caught:
        files.read(as_torch_zip(tmp_path / "net.pt", pickled(body)))
    assert "--import helpful_layers.py" in caught.value.fix
    assert "helpful_layers" not in sys.modules


def test_only_distributions_count_as_installed(tmp_path, monkeypatch):
    for package in ("torch", "numpy", "torch_geometric", "dcsurgery"):
        assert is_installed(package)
    (tmp_path / "lying_here.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("lying_here")
    # Not even under the name of an installed package, which Python would find here first.
    (tmp_path / "shadowing.py").touch()
    monkeypatch.setattr(installed, "_owners", lambda: {"shadowing": ["torch"]})
    assert not is_installed("shadowing")
    assert not is_installed("os")
    assert not is_installed("no_such_package_at_all")


# -- calls ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [F.relu, torch.tanh, F.silu])
def test_known_functions_can_be_named_and_not_called(function, tmp_path):
    torch.save(function, tmp_path / "named.pt")
    with pytest.raises(BadInput, match="not a model"):
        files.read(tmp_path / "named.pt")
    torch.save([Call(function, torch.ones(1)), Call(F.gelu, torch.ones(1))], tmp_path / "called.pt")
    with pytest.raises(UnsafeFile, match="gelu") as caught:
        files.read(tmp_path / "called.pt")
    assert function is torch.tanh or function.__name__ in caught.value.message


def test_a_function_that_only_claims_to_be_torchs_is_not_known():
    def relu(x):
        return x

    relu.__module__ = "torch.nn.functional"
    assert not is_harmless_function(relu)
    assert is_harmless_function(F.relu)


@pytest.mark.parametrize(
    "call",
    [
        Call(getattr, torch.nn.Linear, "__init__"),
        Call(getattr, torch.Tensor, "numpy"),
        Call(getattr, torch.Tensor, "__reduce_ex__"),
        Call(getattr, nn.Linear(1, 1), "apply"),
        Call(getattr, nn.Linear(1, 1), "__class__"),
        Call(getattr, Call(getattr, nn.Linear(1, 1), "forward"), "__globals__"),
        Call(nn.Linear, 2, 3),
        Call(torch.nn.Parameter, torch.ones(1)),
        Call(type, "X", (), {}),
        Call(type, 1),
        Call(functools.partial(F.relu), torch.ones(1)),
        Call(functools.partial, 3),
        Call(functools.reduce, getattr, (int, str)),
        Call(functools.reduce, __import__("operator").or_, (1, 2)),
        Call(set, "abc"),
        Call(torch.Size, "abc"),
        Call(torch.device, ["cpu"]),
        Call(inspect._ParameterKind, 77),
        Call(np.dtype, "O"),
        Call(torch._utils._rebuild_parameter, nn.Linear(1, 1), True, None),
        Call(torch._utils._rebuild_parameter, torch.ones(1), True, {0: F.relu}),
        Call(torch._tensor._rebuild_from_type_v2, F.relu, torch.Tensor, (torch.ones(1),), {}),
        Call(torch.fx.graph_module.reduce_graph_module, 1, 2),
        Call(copyreg._reconstructor, dict, dict, {}),
        Call(torch._utils._rebuild_parameter_with_state, nn.Linear(1, 1), True, None, {}),
        Call(MULTIARRAY._reconstruct, dict, (0,), b"b"),
        Call(MULTIARRAY.scalar, np.dtype("i4"), "text"),
        Call(NUMERIC._frombuffer, b"", "i4", (0,), "C"),
        Call(types.GenericAlias, 1, 2),
        Call(pickle._codecs.encode if hasattr(pickle, "_codecs") else __import__("_codecs").encode, "x", "rot13"),
    ],
    ids=lambda call: f"{getattr(call.function, '__name__', 'partial')}-{len(str(call.args))}",
)
def test_listed_functions_refuse_arguments_they_would_never_get(call, tmp_path):
    torch.save([call], tmp_path / "evil.pt")
    with pytest.raises(UnsafeFile):
        files.read(tmp_path / "evil.pt")


def test_a_factory_that_is_a_function_is_refused(tmp_path):
    body = name("collections", "defaultdict") + name("torch.nn.modules.linear", "Linear") + b"\x85R"
    with pytest.raises(UnsafeFile, match="factory"):
        files.read(as_torch_zip(tmp_path / "evil.pt", pickled(body)))


def test_operator_getitem_makes_annotations_only(tmp_path):
    evil = name("operator", "getitem") + name("typing", "List") + text("__import__('os')") + b"\x86R"
    with pytest.raises(UnsafeFile, match="annotation"):
        files.read(as_torch_zip(tmp_path / "evil.pt", pickled(evil)))


def test_a_storage_cannot_hold_another_program(tmp_path, marker):
    inner = io.BytesIO()
    torch.save(Call(os.system, f"touch {marker}"), inner)
    body = name("torch.storage", "_load_from_bytes") + b"B" + struct.pack("<I", len(inner.getvalue()))
    with pytest.raises(UnsafeFile):
        files.read(plain(tmp_path / "evil.pt", pickled(body + inner.getvalue() + b"\x85R")))
    with pytest.raises(UnsafeFile, match="tensor data"):
        torch.save(nn.Linear(1, 1), other := io.BytesIO())
        body = name("torch.storage", "_load_from_bytes") + b"B" + struct.pack("<I", len(other.getvalue()))
        files.read(plain(tmp_path / "evil.pt", pickled(body + other.getvalue() + b"\x85R")))


# -- making and filling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        name("torch.nn.modules.linear", "Linear"),
        name("torch.nn.functional", "relu"),
        name("collections", "OrderedDict"),
        name("inspect", "_ParameterKind") + b"K\x00\x85R",
    ],
    ids=["class", "function", "container class", "enumeration member"],
)
@pytest.mark.parametrize("state", [b"}" + text("forward") + b"K\x01s", b"N}" + text("forward") + b"K\x01s\x86"])
def test_only_what_the_file_made_can_be_filled(target, state, tmp_path):
    before = (nn.Linear.forward, dict(vars(F.relu)), dict(vars(inspect._ParameterKind)))
    with pytest.raises(UnsafeFile):
        files.read(as_torch_zip(tmp_path / "evil.pt", pickled(target + state + b"b")))
    assert before == (nn.Linear.forward, dict(vars(F.relu)), dict(vars(inspect._ParameterKind)))


def test_a_setstate_that_the_file_planted_is_not_called(tmp_path):
    made = name("types", "SimpleNamespace") + b")R"
    plant = b"}" + text("__setstate__") + name("torch.nn.functional", "relu") + b"sb"
    value = safe_unpickle(io.BytesIO(pickled(made + plant + b"}" + text("x") + b"K\x07sb")), Policy())
    assert value.x == 7
    assert vars(value)["__setstate__"] is F.relu


@pytest.mark.parametrize(
    "body",
    [
        name("copyreg", "__newobj__") + name("collections", "OrderedDict") + b"\x85R",
        name("copyreg", "__newobj__") + b")R",
        name("torch.nn.modules.linear", "Linear") + b"K\x02K\x03\x86\x81",
        name("torch.fx._symbolic_trace", "Tracer") + b")\x81",
        name("torch", "Tensor") + b")\x81",
        name("torch", "FloatStorage") + b"K\x02\x85\x81",
        name("inspect", "_ParameterKind") + b"K\x00\x85\x81",
        name("builtins", "object") + b")\x81",
        name("torch.nn.modules.linear", "Linear") + b")}\x92" + b"K\x01b",
    ],
    ids=[
        "container",
        "nothing",
        "with arguments",
        "tracer",
        "tensor",
        "storage",
        "enumeration",
        "object",
        "state is no table",
    ],
)
def test_only_module_classes_are_made_and_only_empty(body, tmp_path):
    with pytest.raises((UnsafeFile, BadInput)):
        files.read(as_torch_zip(tmp_path / "evil.pt", pickled(body)))


def test_containers_are_filled_and_other_objects_are_not(tmp_path):
    linear = name("torch.nn.modules.container", "ModuleList") + b")\x81"
    for fill in (b"K\x01a", b"(K\x01e", text("a") + b"K\x01s", b"(" + text("a") + b"K\x01u", b"(K\x01\x90"):
        with pytest.raises(UnsafeFile, match="container"):
            files.read(as_torch_zip(tmp_path / "evil.pt", pickled(linear + fill)))


def test_array_types_cannot_point_outside_their_memory():
    array = pickle.dumps(np.zeros(2, dtype=[("a", "i4")]), protocol=2)
    with pytest.raises(Forbidden, match="dtype"):
        safe_unpickle(io.BytesIO(array), Policy())
    with pytest.raises(Forbidden, match="dtype"):
        safe_unpickle(io.BytesIO(pickle.dumps(np.array([[], 1], dtype=object), protocol=2)), Policy())


def test_the_state_of_an_array_cannot_point_outside_its_memory():
    dtype = name("numpy", "dtype") + text("i4") + b"\x89\x88\x87R"
    plain = b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    assert safe_unpickle(io.BytesIO(pickled(dtype + plain)), Policy()) == np.dtype("i4")
    # A field of four bytes that begins at byte 4000.
    fields = b"}" + text("a") + dtype + b"M\xa0\x0f\x86s"
    wide = b"(K\x03" + text("<") + b"N" + text("a") + b"\x85" + fields + b"K\x04K\x01K\x10tb"
    with pytest.raises(Forbidden, match="memory"):
        safe_unpickle(io.BytesIO(pickled(dtype + wide)), Policy())
    array = name("numpy._core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    objects = b"(K\x01K\x01\x85" + dtype + b"\x89]K\x01atb"
    with pytest.raises(Forbidden, match="memory"):
        safe_unpickle(io.BytesIO(pickled(array + objects)), Policy())


def test_tensors_get_no_state_of_their_own(tmp_path):
    torch.save(Call(torch._utils._rebuild_parameter, torch.ones(1), True, None, state={"a": 1}), tmp_path / "evil.pt")
    with pytest.raises(UnsafeFile, match="memory"):
        files.read(tmp_path / "evil.pt")


def test_a_plain_pickle_has_no_data_outside_itself():
    with pytest.raises(BadInput, match="outside"):
        safe_unpickle(io.BytesIO(pickled(text("x") + b"Q")), Policy())


def test_an_edit_cannot_name_code_that_is_not_installed(tmp_path, monkeypatch):
    from dcsurgery.rewriting import CallEdit, RewriteCalls
    from dcsurgery.sites import CallStep
    from dcsurgery.subclass import rebuild

    chains = ((CallStep("lying_about:f", 1, (1, 1)),),)
    edit = RewriteCalls((CallEdit(chains, "relu", "irelu"),), (("lying_about:f", 1, "0"),))
    (tmp_path / "lying_about.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(Call(rebuild, nn.ReLU, (edit,)), tmp_path / "evil.pt")
    with pytest.raises(UnsafeFile, match="lying_about:f"):
        files.read(tmp_path / "evil.pt")
    torch.save(Call(rebuild, nn.ReLU, (nn.ReLU(),)), tmp_path / "evil.pt")
    with pytest.raises(UnsafeFile, match="not an edit"):
        files.read(tmp_path / "evil.pt")
    assert "lying_about" not in sys.modules


# -- GraphModules are programs ----------------------------------------------------------------------------------------

IMPORTS = "import torch\nfrom torch import device\nNoneType = type(None)\n"


def evil_graph(tmp_path, code, imports=IMPORTS, **body):
    graph = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    attributes = {**graph.__reduce__()[1][0], "_code": textwrap.dedent(code), **body}
    torch.save(Call(torch.fx.graph_module.reduce_graph_module, attributes, imports), tmp_path / "graph.pt")
    return tmp_path / "graph.pt"


@pytest.mark.parametrize(
    "line",
    [
        "__import__('os').system('touch {marker}')",
        "open('{marker}', 'w')",
        "eval('1')",
        "torch.save(1, '{marker}')",
        "torch.load('{marker}')",
        "torch.from_file('{marker}', True, 1)",
        "torch.ops.aten.from_file('{marker}', True, 1)",
        "torch.ops.load_library('{marker}')",
        "torch.os.system('touch {marker}')",
        "torch.nn.functional.__globals__",
        "torch.nn.functional.relu.__globals__['os'].system('touch {marker}')",
        "torch.nn.functional.importlib.import_module('os').system('touch {marker}')",
        "torch.zeros(1).numpy().tofile('{marker}')",
        "torch.zeros(1).untyped_storage().from_file('{marker}', True, 1)",
        "getattr(torch.zeros(1), 'numpy')().tofile('{marker}')",
        "getattr(torch, 'load')('{marker}')",
        "self.to_folder('{marker}')",
        "self.apply(torch.nn.functional.relu)",
        "self.__class__",
        "getattr(self, '0').load_state_dict({{}})",
        "getattr(self, '0').__init__.__globals__",
        "x.__class__.__mro__",
        "getattr(self, '0').weight.data.__class__",
        "getattr(self, '0').weight.numpy()",
        "getattr(self, '0').in_features.real",
        "getattr(self, '9')",
        "getattr(x, 'a', 'b')",
        "getattr(x + 1, '__class__')",
        "(x + 1).__class__",
        "(x + 1).numpy()",
        "self",
        "unknown",
        "len.__self__",
        "torch.no_such_name",
        "torch.nn.Linear(1, 1)",
        "[torch.load for _ in (1,)]",
        "(lambda: torch.load('{marker}'))()",
        "f'{{x!r}}'",
        "x if x else torch.load",
        "(y := torch.load)",
        "torch.fx._pytree.torch",
    ],
)
def test_graph_code_that_torch_fx_does_not_write_is_refused(line, tmp_path, marker):
    line = line.format(marker=marker)
    path = evil_graph(tmp_path, f"def forward(self, x):\n    a = {line}\n    return x\n")
    with pytest.raises(UnsafeFile):
        files.read(path)


@pytest.mark.parametrize(
    "code",
    [
        "def forward(self, x=__import__('os').system('touch {marker}')):\n    return x\n",
        "def forward(self, x: __import__('os').system('touch {marker}')):\n    return x\n",
        "def forward(self, x) -> open('{marker}', 'w'):\n    return x\n",
        "@torch.compile\ndef forward(self, x):\n    return x\n",
        "import os\ndef forward(self, x):\n    return x\n",
        "def forward(self, x):\n    import os\n    return x\n",
        "def forward(self, x):\n    return x\nopen('{marker}', 'w')\n",
        "def forward(self, x):\n    self.a = x\n    return x\n",
        "def forward(self, x):\n    getattr = torch.load\n    return x\n",
        "def forward(self, getattr):\n    return getattr\n",
        "def forward(self, x):\n    len = torch.load\n    return len('{marker}')\n",
        "def forward(self, x):\n    a = torch.load\n    return a('{marker}')\n",
        "def forward(self, x):\n    while True: pass\n",
        "def backward(self, x):\n    return x\n",
        "def forward():\n    return 1\n",
        "def forward(self, x):\n    a : open('{marker}', 'w') = x\n    return a\n",
        "def forward(torch, x):\n    return x\n",
        "no python at all",
        "def forward(self, x: torch.nn.functional.relu):\n    return x\n",
        "def forward(self, x: torch.Tensor['a']):\n    return x\n",
    ],
)
def test_graph_functions_of_another_shape_are_refused(code, tmp_path, marker):
    with pytest.raises(UnsafeFile, match="GraphModule"):
        files.read(evil_graph(tmp_path, code.format(marker=marker)))


@pytest.mark.parametrize(
    "imports",
    [
        "import os",
        "import subprocess as torch",
        "from os import system",
        "from torch import load as getattr",
        "from torch import load as len",
        "from . import x",
        "import torch.utils.bottleneck.__main__",
        "import antigravity",
        "print(1)",
        "NoneType = open('{marker}', 'w')",
        "torch = __import__('os')",
    ],
)
def test_graph_imports_of_anything_else_are_refused(imports, tmp_path, marker):
    code = "def forward(self, x):\n    return x\n"
    with pytest.raises(UnsafeFile):
        files.read(evil_graph(tmp_path, code, IMPORTS + imports.format(marker=marker)))
    assert "antigravity" not in sys.modules


def test_a_child_cannot_hide_a_method_of_the_graph_module(tmp_path):
    code = "def forward(self, x):\n    return self.to_folder(x)\n"
    modules = {"0": nn.Linear(2, 2), "1": nn.ReLU(), "to_folder": nn.ReLU()}
    with pytest.raises(UnsafeFile, match="to_folder"):
        files.read(evil_graph(tmp_path, code, _modules=modules))


@pytest.mark.parametrize(
    "body", [{"_tracer_extras": {"a": 1}}, {"_graphmodule_cls_name": "a b"}, {"_code": 3}, {"_tracer_cls": nn.Linear}]
)
def test_the_other_parts_of_a_pickled_graph_module_are_checked(body):
    whole = {"_code": "def forward(self, x):\n    return x\n", **body}
    with pytest.raises(Forbidden, match="GraphModule"):
        check_graph_code(whole, IMPORTS, lambda _: False)


class Everything(nn.Module):
    """Writes one of every form of code that torch.fx generates."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.ones(4))
        self.layers = nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, x, y=None, n=3, *, z=1.5):
        a = F.silu(self.linear(x)) * z + torch.tensor(2.0)
        b = F.gelu(a, approximate="tanh")[..., 0:2, None]
        c = x.clamp(min=-float("inf")).size(-1) // 2
        d = torch.where(x > 0, self.layers[0](x), self.weight)
        e = torch.special.expit(x) + torch.ops.aten.silu.default(x) @ x.T.to(torch.float32)
        f = F.linear(d, self.linear.weight).contiguous(memory_format=torch.contiguous_format)
        return {"a": b, "b": (c, [irelu(d)]), "e": e}, F.max_pool2d(x[None], 2), ~(f > 1), torch.einsum("ij->i", x)


@pytest.mark.parametrize(
    "code",
    [
        "def forward(self, x : typing_List[torch.Tensor], y : int = None, *rest, **more) -> (str, None):\n    return x\n",
        "def forward(self, x):\n    a : torch.Tensor = (x + 1).shape;  a, b = x, x\n    return getattr(x + b, 'shape')\n",
        "def forward(self, x):\n    'text'\n    x.relu_()\n    w = getattr(self, '0').weight.T\n    return {'a': [len(x), -x[0:1, ...], w]}\n",
    ],
)
def test_graph_code_that_torch_fx_can_write_is_accepted(code):
    body = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU())).__reduce__()[1][0]
    imports = IMPORTS + "from typing import List as typing_List\n"
    check_graph_code({**body, "_code": code}, imports, lambda _: False)


Everything.forward.__annotations__ = {"y": torch.Tensor, "n": int}


def test_graph_modules_come_back_and_compute_the_same(tmp_path):
    graph = torch.fx.symbolic_trace(Everything())
    torch.save(graph, tmp_path / "graph.pt")
    read = files.read(tmp_path / "graph.pt")
    assert read.kind == "graph-module"
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    assert not recheck.differences(recheck.describe(graph, x), recheck.describe(read.model, x))


# -- honest models ----------------------------------------------------------------------------------------------------


def _activations():
    model = nn.Sequential(nn.Linear(2, 2), IReLU())
    model.act = torch.tanh
    model.acts = [
        F.gelu,
        torch.special.expit,
        torch.Tensor.relu,
        irelu,
        functools.partial(F.leaky_relu, negative_slope=0.1),
    ]
    model.types = {
        "a": int | None,
        "b": list[int],
        "c": (torch.float16, torch.strided, torch.Size([2]), torch.device("cpu")),
    }
    model.numbers = np.float64(3.5), np.arange(6.0).reshape(2, 3), 2j, {1, 2}, frozenset({3}), slice(1, 2), range(3)
    model.weight = nn.Parameter(torch.ones(2))
    model.weight.note = "kept"
    return model


def _weight_norm():
    with pytest.warns(FutureWarning):
        return torch.nn.utils.weight_norm(nn.Linear(2, 2))


def _resnet():
    class_ = nn.Sequential
    return class_(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _pyg(build):
    def make():
        import torch_geometric.nn as pyg

        return build(pyg)

    return make


def _dde(build):
    def make():
        os.environ.setdefault("DDE_BACKEND", "pytorch")
        from dcsurgery.files.installed import import_module

        return build(import_module("deepxde.nn.pytorch"))

    return make


MODELS = {
    "activations": _activations,
    "weight norm": _weight_norm,
    "resnet": _resnet,
    "transformer": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 1, enable_nested_tensor=False),
    "lstm": lambda: nn.LSTM(2, 3),
    "half": lambda: nn.Linear(2, 2).to(torch.bfloat16),
    "schnet": _pyg(lambda g: g.SchNet(8, 8, 1, 4)),
    "gin": _pyg(lambda g: g.GIN(4, 8, 2, norm="batch_norm")),
    "gat": _pyg(lambda g: g.GAT(4, 8, 2, heads=2, norm="layer_norm")),
    "pna": _pyg(lambda g: g.PNA(4, 8, 2, aggregators=["mean", "std"], scalers=["identity"], deg=torch.tensor([1, 2]))),
    "attentive fp": _pyg(lambda g: g.AttentiveFP(4, 8, 1, 2, 1, 1)),
    "graph u-net": _pyg(lambda g: g.GraphUNet(4, 8, 1, 2)),
    "visnet": _pyg(lambda g: g.ViSNet(hidden_channels=8, num_layers=1, num_heads=2, num_rbf=4)),
    "cgcnn": _pyg(lambda g: nn.Sequential(g.CGConv(4, 2, batch_norm=True), g.GraphNorm(4))),
    "pinn": _dde(lambda d: d.FNN([2, 4, 1], "silu", "Glorot uniform")),
    "deeponet": _dde(lambda d: d.DeepONetCartesianProd([4, 4], [2, 4], "tanh", "Glorot normal")),
}


@pytest.mark.parametrize("model", list(MODELS))
def test_models_of_installed_packages_come_back_whole(model, tmp_path):
    original = MODELS[model]().eval()
    expected = recheck.describe(original)
    for options in ({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 5}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the old format looks for the source of every class
            torch.save(original, tmp_path / "model.pt", **options)
        before = (tmp_path / "model.pt").read_bytes()
        read = files.read(tmp_path / "model.pt")
        assert type(read.model) is type(original)
        assert not recheck.differences(expected, recheck.describe(read.model))
        assert (tmp_path / "model.pt").read_bytes() == before
    with (tmp_path / "plain.pkl").open("wb") as file:
        pickle.dump(original, file)
    assert not recheck.differences(expected, recheck.describe(files.read(tmp_path / "plain.pkl").model))


def test_attributes_come_back_with_their_values(tmp_path):
    torch.save(_activations(), tmp_path / "model.pt")
    model = files.load(tmp_path / "model.pt")
    assert model.act is torch.tanh
    assert model.acts[:4] == [F.gelu, torch.special.expit, torch.Tensor.relu, irelu]
    assert model.acts[4].func is F.leaky_relu
    assert model.acts[4].keywords == {"negative_slope": 0.1}
    assert model.types == _activations().types
    assert model.weight.note == "kept"
    assert model.numbers[0] == 3.5
    assert np.array_equal(model.numbers[1], np.arange(6.0).reshape(2, 3))
    assert model.numbers[2:] == (2j, {1, 2}, {3}, slice(1, 2), range(3))


def test_tensors_keep_their_attributes(tmp_path):
    tensor = torch.ones(2)
    tensor.note = "kept"
    torch.save(nn.Linear(1, 1), tmp_path / "model.pt")
    model = files.load(tmp_path / "model.pt")
    model.extra = tensor
    torch.save(model, tmp_path / "model.pt")
    assert files.load(tmp_path / "model.pt").extra.note == "kept"


def test_edited_models_need_no_trust(tmp_path):
    import dcsurgery as dcs

    class_ = nn.TransformerEncoderLayer(8, 2, 16)
    edited = dcs.apply(class_, dcs.plan(class_, rescale=10.0)).model
    torch.save(edited, tmp_path / "edited.pt")
    read = files.load(tmp_path / "edited.pt")
    assert not recheck.differences(recheck.describe(edited), recheck.describe(read))


# -- the user's own classes -------------------------------------------------------------------------------------------

USER_FILE = """
import enum
from os import system
from typing import NamedTuple
from neighbour import WIDTH
import torch
from torch import nn

class Mode(enum.Enum):
    FAST = "fast"

class Pair(NamedTuple):
    a: int
    b: int

class Slots:
    __slots__ = ("a", "b")

def swish(x):
    return x * x.sigmoid()

class Net(nn.Module):
    class Block(nn.Module):
        def forward(self, x):
            return x

    def __init__(self):
        super().__init__()
        self.l = nn.Linear(WIDTH, WIDTH)
        self.block = Net.Block()
        self.act = swish
        self.again = self.helper
        self.mode, self.pair, self.slots = Mode.FAST, Pair(1, 2), Slots()
        self.slots.a = 5

    def helper(self, x):
        return x

    def forward(self, x):
        return self.again(self.act(self.block(self.l(x))))
"""


@pytest.fixture
def user_file(tmp_path):
    (tmp_path / "neighbour.py").write_text("WIDTH = 2\n")
    (tmp_path / "my_net.py").write_text(USER_FILE)
    yield tmp_path / "my_net.py"
    for module in ("my_net", "neighbour"):
        sys.modules.pop(module, None)


@pytest.fixture
def user_model(user_file):
    from dcsurgery.files.installed import import_files

    model = import_files([user_file])["my_net"].Net()
    torch.save(model, user_file.with_name("net.pt"), pickle_protocol=2)
    sys.modules.pop("my_net")
    return user_file.with_name("net.pt")


@pytest.mark.parametrize("trust", [False, True])
def test_imported_classes_are_allowed(user_model, user_file, trust):
    with pytest.raises(UnsafeFile, match=r"my_net\.Net"):
        files.read(user_model)
    model = files.read(user_model, imports=[user_file], trust=trust).model
    assert type(model).__qualname__ == "Net"
    assert type(model.block).__qualname__ == "Net.Block"
    assert (model.mode.name, model.pair, model.slots.a) == ("FAST", (1, 2), 5)
    assert torch.equal(model(torch.zeros(1, 2)), model.act(model.l(torch.zeros(1, 2))))


@pytest.mark.parametrize("trust", [False, True])
def test_classes_of_a_script_are_found_in_the_imported_file(user_model, user_file, trust, tmp_path):
    archive = torch._C.PyTorchFileReader(str(user_model))
    script = as_torch_zip_with_data(tmp_path / "script.pt", archive, b"cmy_net\n", b"c__main__\n")
    with pytest.raises(UnsafeFile, match=r"__main__\.Net") as caught:
        files.read(script)
    assert "--import" in caught.value.fix
    assert type(files.load(script, trust=trust, imports=[user_file])).__qualname__ == "Net"


def as_torch_zip_with_data(path, archive, old, new):
    writer = torch._C.PyTorchFileWriter(str(path))
    for record in archive.get_all_records():
        if record not in (".format_version", "version", ".data/serialization_id"):
            data = archive.get_record(record)
            data = data.replace(old, new) if record == "data.pkl" else data
            writer.write_record(record, data, len(data))
    writer.write_end_of_file()
    return path


def test_what_the_imported_file_imports_is_not_allowed(user_file, tmp_path, marker):
    for call in (b"", text(f"touch {marker}") + b"\x85R"):
        body = name("my_net", "system") + call
        with pytest.raises(UnsafeFile, match=r"my_net\.system"):
            files.read(as_torch_zip(tmp_path / "evil.pt", pickled(body)), imports=[user_file])


def test_functions_of_the_imported_file_are_not_called(user_file, tmp_path):
    body = name("my_net", "swish") + b"K\x01\x85R"
    with pytest.raises(UnsafeFile, match=r"my_net\.swish"):
        files.read(as_torch_zip(tmp_path / "evil.pt", pickled(body)), imports=[user_file])


def test_packages_can_be_imported(tmp_path):
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "net.py").write_text("from torch import nn\nclass Net(nn.Module): pass\n")
    body = name("my_package.net", "Net") + b")\x81}b"
    path = as_torch_zip(tmp_path / "net.pt", pickled(body))
    try:
        assert type(files.load(path, imports=[package])).__name__ == "Net"
    finally:
        for module in [m for m in sys.modules if m.startswith("my_package")]:
            del sys.modules[module]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("missing.py", None, "no such Python file"),
        ("broken.py", "def", "SyntaxError"),
        ("leaves.py", "raise SystemExit(3)", "SystemExit"),
        ("torch.py", "", "exists already"),
        ("json.py", "", "exists already"),
        ("not-a-name.py", "", "not a Python module"),
        ("text.txt", "", "not a Python module"),
    ],
)
def test_imports_that_fail_are_one_clear_line(file, content, message, tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "model.pt")
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(BadInput, match=message) as caught:
        files.read(tmp_path / "model.pt", imports=[tmp_path / file])
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_that_the_installed_version_lacks_are_named(tmp_path):
    body = name("torch.nn.modules.linear", "NoSuchLayer") + b")\x81"
    with pytest.raises(BadInput, match=r"torch\.nn\.modules\.linear\.NoSuchLayer"):
        files.read(as_torch_zip(tmp_path / "old.pt", pickled(body)))
    body = name("torch_geometric.nn.no_such_module", "X") + b")\x81"
    with pytest.raises(BadInput, match="no_such_module"):
        files.read(as_torch_zip(tmp_path / "old.pt", pickled(body)))
