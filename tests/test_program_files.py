"""torch.export archives: file to file, proven by a fresh process; what is unsafe, damaged or foreign is one line."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from models.programs import Network, decomposed, export, points
from torch import nn
from typer.testing import CliRunner

import dcsurgery as dcs
from dcsurgery import files
from dcsurgery.cli.app import app
from dcsurgery.copying import without_torch_warnings
from dcsurgery.errors import BadInput, SurgeryError, UnsafeFile
from dcsurgery.exported import ProgramModule, module_of, program_of
from dcsurgery.files.program_rules import offences
from dcsurgery.plans import Plan


def save(program, path):
    with without_torch_warnings():
        torch.export.save(program, path)


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return export(Network().double().eval(), points())


@pytest.fixture(scope="module")
def saved(program, tmp_path_factory):
    path = tmp_path_factory.mktemp("programs") / "model.pt2"
    save(program, path)
    return path


@pytest.fixture
def folder(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.pt2").write_bytes(saved.read_bytes())
    torch.save((points(),), "inputs.pt")
    return tmp_path


def changed(source, target, edit):
    """Write an archive again with other entries: ``edit`` gets them by name without the folder, and changes them."""
    with zipfile.ZipFile(source) as old:
        entries = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
    edit(entries)
    with zipfile.ZipFile(target, "w") as new:
        for name, content in entries.items():
            new.writestr(f"model/{name}", content)


def said(**changes):
    """Return an edit of the program's JSON: paths of keys to new values."""

    def edit(entries):
        value = json.loads(entries["models/model.json"])
        for path, new in changes.items():
            *above, last = path.split("__")
            place = value
            for key in above:
                place = place[int(key) if key.isdigit() else key]
            place[int(last) if last.isdigit() else last] = new
        entries["models/model.json"] = json.dumps(value).encode()

    return edit


# -- reading and writing -----------------------------------------------------------------------------------------------


def test_what_is_read_is_the_program(saved, program):
    read = files.read(saved)
    assert read.kind == "program"
    assert isinstance(read.model, ProgramModule)
    assert torch.equal(read.model(points(7))["energy"], module_of(program)(points(7))["energy"])
    assert str(program_of(read.model).graph) == str(program.graph)


@pytest.mark.parametrize("form", ["training", "decomposed"])
def test_an_edited_program_is_written_and_runs_without_dcsurgery(form, program, tmp_path):
    program = decomposed(program) if form == "decomposed" else program
    surgery = dcs.transform(program, rescale=100.0, outputs=["energy"], example_inputs=(points(),))
    path = dcs.save(surgery, tmp_path / "edited.pt2")
    code = (
        "import sys, torch; program = torch.export.load(sys.argv[1]);"
        "assert not [m for m in sys.modules if m.startswith('dcsurgery')];"
        "x = torch.load(sys.argv[2]); torch.save(program.module()(x), sys.argv[3])"
    )
    x = points(8)
    torch.save(x, tmp_path / "x.pt")
    command = [sys.executable, "-W", "ignore", "-c", code, path, tmp_path / "x.pt", tmp_path / "y.pt"]
    subprocess.run(command, check=True, capture_output=True)
    found = torch.load(tmp_path / "y.pt")
    expected = surgery.model(x)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not len(dcs.inspect(dcs.load(path)))


def test_weights_that_were_trained_after_the_edit_are_written(program, tmp_path):
    surgery = dcs.apply(program, dcs.plan(program))
    with torch.no_grad():
        surgery.model.get_parameter("mlp.0.weight").mul_(2)
    dcs.save(surgery.model, tmp_path / "trained.pt2", format="pt2")
    again = dcs.load(tmp_path / "trained.pt2")
    assert torch.equal(again.get_parameter("mlp.0.weight"), 2 * program.state_dict["mlp.0.weight"])
    assert torch.equal(again(points(4))["energy"], surgery.model(points(4))["energy"])


def test_a_program_is_saved_as_it_is(program, tmp_path):
    dcs.save(program, tmp_path / "copy.pt2")
    assert str(torch.export.load(tmp_path / "copy.pt2").graph) == str(program.graph)


def test_only_programs_are_written_as_programs(tmp_path):
    with pytest.raises(BadInput, match="Linear is no ExportedProgram"):
        dcs.save(nn.Linear(2, 2), tmp_path / "model.pt2", format="program")
    assert not list(tmp_path.iterdir())


# -- command line ------------------------------------------------------------------------------------------------------


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_file_to_file(folder, program):
    before = Path("model.pt2").read_bytes()
    done = run("transform", "model.pt2", "--irelu", "--denorm", "--inputs", "inputs.pt", "--report", "report.json")
    assert done.exit_code == 0, done.output
    assert Path("model.pt2").read_bytes() == before
    report = json.loads(Path("report.json").read_text())
    assert {c["name"]: c["status"] for c in report["report"]["checks"]}["value witness"] == "pass"
    edited = torch.export.load("model.dcs.pt2").module()(points(9))
    expected = dcs.apply(program, dcs.plan(program)).model(points(9))
    assert torch.equal(edited["energy"], expected["energy"])


def test_a_plan_is_a_file_for_programs_as_well(folder, program):
    assert run("plan", "model.pt2", "--irelu", "-o", "plan.yaml").exit_code == 0
    assert Plan.from_yaml(Path("plan.yaml").read_text()) == dcs.plan(program, denorm=False)
    done = run("apply", "model.pt2", "plan.yaml", "-o", "out.pt2", "--inputs", "inputs.pt")
    assert done.exit_code == 0, done.output
    assert [site.role for site in dcs.inspect(dcs.load("out.pt2"))] == ["normalization"] * 2


# -- refused -----------------------------------------------------------------------------------------------------------


def pickled(value):
    return pickle.dumps(value, protocol=2)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


def evil_archive():
    import io

    stream = io.BytesIO()
    torch.save(Evil(), stream)
    return stream.getvalue()


def hidden_weight(entries):
    config = json.loads(entries["data/weights/model_weights_config.json"])
    next(iter(config["config"].values())).update(use_pickle=True, path_name="weight_evil")
    entries["data/weights/model_weights_config.json"] = json.dumps(config).encode()
    entries["data/weights/weight_evil"] = evil_archive()


def opaque_constant(entries):
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    entries["data/constants/model_constants_config.json"] = json.dumps({"config": {"x": entry}}).encode()
    entries["data/constants/opaque_obj_0"] = pickled(Evil())


HOSTILE = {
    "example inputs": lambda e: e.update({"data/sample_inputs/model.pt": evil_archive()}),
    "pickled weight": hidden_weight,
    "opaque constant": opaque_constant,
    "guard": said(guards_code=["__import__('os').mkdir('it-ran') or True"]),
    "guard in a subscript": said(guards_code=["L[__import__('os').mkdir('it-ran')] == 1"]),
    "symbol": said(range_constraints={"__import__('os').mkdir('it-ran')": {"min_val": 2, "max_val": None}}),
    "operator": said(graph_module__graph__nodes__0__target="torch.hub.load"),
    "operator of a file": said(graph_module__graph__nodes__0__target="torch.ops.aten.from_file.default"),
    "name of a node": said(graph_module__graph__nodes__0__name="x = __import__('os').mkdir('it-ran')"),
    "argument's name": said(
        graph_module__module_call_graph__0__signature__forward_arg_names=["x=__import__('os').mkdir('it-ran')"]
    ),
    "parameter": said(
        graph_module__signature__input_specs__0__parameter__parameter_name="w\"), __import__('os').mkdir('it-ran'), (\""
    ),
    "factory": said(
        graph_module__module_call_graph__0__signature__out_spec=json.dumps(
            [1, {"type": "collections.defaultdict", "context": json.dumps({"default_factory_module": "antigravity"})}]
        )
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_nothing_that_an_archive_says_is_executed(what, folder):
    changed("model.pt2", "hostile.pt2", HOSTILE[what])
    with pytest.raises(UnsafeFile, match=r"nothing was loaded \(pass --trust"):
        dcs.load("hostile.pt2")
    done = run("transform", "hostile.pt2", "--irelu")
    assert done.exit_code == 2
    assert "nothing was loaded" in done.output
    assert sorted(p.name for p in folder.iterdir()) == ["hostile.pt2", "inputs.pt", "model.pt2"]


def test_what_torch_writes_is_allowed(program):
    assert offences({"guards_code": ["L['x'].size()[0] >= 2", "Eq(Mod(L['a'][0].size()[1], 4), 0)"]}) == []
    for text in ("Symbol('s77', positive=True, integer=True)", "Add(Mul(Integer(2), s0), Integer(1))", "s0 + 2*u1"):
        assert offences({"expr_str": text}) == []
    for text in ("open('x')", "s0.__class__", "eval(s0)", "Symbol('__import__(1)')", "(lambda: s0)()", "exit"):
        assert offences({"expr_str": text}) != []


def without(*names):
    return lambda entries: [entries.pop(name) for name in names]


REFUSED = {
    "another archive version": (lambda e: e.update(archive_version=b"7"), "archive of version '7', this torch reads 0"),
    "another schema": (
        said(schema_version={"major": 99, "minor": 1}),
        r"schema version 99 \(torch 2.*\); torch .* reads",
    ),
    "a newer operator set": (said(opset_version={"aten": 999}), "operator set 999"),
    "no program": (without("models/model.json"), "holds 0 programs"),
    "two programs": (lambda e: e.update({"models/b.json": e["models/model.json"]}), "holds 2 programs"),
    "compiled code": (lambda e: e.update({"data/aotinductor/model/a.so": b"x"}), "AOTInductor package: compiled code"),
    "no JSON": (lambda e: e.update({"models/model.json": b"{"}), "damaged: models/model.json is not JSON"),
    "an operator nobody knows": (
        said(graph_module__graph__nodes__0__target="torch.ops.nobody.knows.default"),
        "operators that are not registered: torch.ops.nobody.knows.default",
    ),
    "weights that are missing": (without("data/weights/weight_0"), "damaged or not what torch.export"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_read_is_one_line(what, folder):
    edit, message = REFUSED[what]
    changed("model.pt2", "bad.pt2", edit)
    with pytest.raises(BadInput, match=message):
        dcs.load("bad.pt2")
    done = run("transform", "bad.pt2", "--irelu", "-o", "out.pt2")
    assert done.exit_code == 2
    assert len(done.output.strip().splitlines()) == 1
    assert not Path("out.pt2").exists()


@pytest.mark.parametrize("length", [0.2, 0.6, 0.99])
def test_a_truncated_archive_is_one_line(length, folder):
    content = Path("model.pt2").read_bytes()
    Path("cut.pt2").write_bytes(content[: int(length * len(content))])
    with pytest.raises(SurgeryError, match=r"truncated|damaged"):
        dcs.load("cut.pt2")


def test_operators_of_ones_own_can_be_imported(folder, tmp_path):
    Path("twice_operator.py").write_text(
        "import torch\n"
        "@torch.library.custom_op('twice_ops::twice', mutates_args=())\n"
        "def twice(x: torch.Tensor) -> torch.Tensor:\n    return 2 * x\n"
        "@twice.register_fake\n"
        "def _(x):\n    return torch.empty_like(x)\n"
    )
    code = (
        "import sys, torch; sys.path.insert(0, '.'); import twice_operator\n"
        "class M(torch.nn.Module):\n"
        "    def forward(self, x):\n        return torch.relu(torch.ops.twice_ops.twice(x))\n"
        "torch.export.save(torch.export.export(M(), (torch.randn(3),)), 'custom.pt2')\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    with pytest.raises(BadInput, match=r"not registered: torch\.ops\.twice_ops\.twice\.default"):
        dcs.load("custom.pt2")
    model = dcs.load("custom.pt2", imports=[tmp_path / "twice_operator.py"])
    assert [site.operator for site in dcs.inspect(model)] == ["relu"]
