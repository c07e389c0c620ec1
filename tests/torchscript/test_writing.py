"""What is written is TorchScript that torch loads by itself: the edits in it, everything else as it was."""

import io
import json
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from script_models import CASES, Shared, built, inputs_of, molecule, rows, scripted
from test_importing import tensors_of
from torch import nn

import dcsurgery as dcs
from dcsurgery.cli.app import main
from dcsurgery.errors import Refused
from dcsurgery.torchscript import import_module
from dcsurgery.torchscript.writing import write_archive

WAYS = [(name, how) for name in CASES for how in ("script", "trace") if how != "trace" or CASES[name][2]]
EDITABLE = [way for way in WAYS if way[0] != "recurrent"]


def reloaded(model, **extra):
    return torch.jit.load(io.BytesIO(write_archive(model, **extra)))


def kernels(script):
    return str(script.inlined_graph)


def assert_same(mine, theirs, inputs, tolerance=1e-12):
    pairs = list(zip(tensors_of(mine(*inputs())), tensors_of(theirs(*inputs())), strict=True))
    assert pairs
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "how"), WAYS)
def test_without_an_edit_the_archive_is_the_model(name, how):
    script = scripted(name, how)
    written = reloaded(import_module(script))
    assert list(written.state_dict()) == list(script.state_dict())
    assert_same(written, script, lambda: inputs_of(name), tolerance=0)


@pytest.mark.parametrize(("name", "how"), EDITABLE)
def test_the_written_model_computes_what_the_edited_one_does(name, how):
    surgery = dcs.transform(scripted(name, how), example_inputs=inputs_of(name))
    assert surgery.plan.edits
    written = reloaded(surgery.model)
    assert list(written.state_dict()) == list(surgery.model.state_dict())
    assert_same(written, surgery.model, lambda: inputs_of(name))
    again = dcs.inspect(written, inputs_of(name))
    assert not again.activations
    assert not again.normalizations


@pytest.mark.parametrize("activation", ["irelu", "integrated-silu", "integrated-gelu", "integrated-tanh"])
@pytest.mark.parametrize("name", ["branches", "convolutions"])
def test_every_activation_that_can_be_put_in_can_be_written(name, activation):
    edited = dcs.transform(scripted(name), activation=activation, example_inputs=inputs_of(name)).model
    assert_same(reloaded(edited), edited, lambda: inputs_of(name))


def test_only_the_edited_modules_of_a_type_change():
    script = torch.jit.script(Shared().double())
    edited = dcs.transform(script, include="first.1", example_inputs=(rows(),)).model
    written = reloaded(edited)
    x = rows()
    hidden = F.silu(0.5 * getattr(script.first, "0")(x).relu().square())
    expected = F.silu(torch.tanh(getattr(script.second, "0")(hidden)))
    torch.testing.assert_close(written(x), torch.sigmoid(expected) * torch.tanh(expected @ script.w))
    assert getattr(written.first, "1").original_name != getattr(written.second, "1").original_name == "Tanh"


def test_a_call_is_edited_in_one_module_of_a_type_only():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.lin(x))

    script = torch.jit.script(nn.Sequential(Layer(), Layer()).double())
    written = reloaded(dcs.transform(script, include="1", example_inputs=(rows(),)).model)
    expected = getattr(script, "1").lin(getattr(script, "0")(rows())).relu().square() * 0.5
    torch.testing.assert_close(written(rows()), expected)


def test_deleted_norms_leave_no_tensors():
    edited = dcs.transform(scripted("mlp"), irelu=False, example_inputs=inputs_of("mlp"))
    written = reloaded(edited.model)
    assert [k for k in written.state_dict() if k.startswith(("bn", "layers.2"))] == []
    assert "batch_norm" not in kernels(written)
    assert sum(t.numel() for t in written.buffers()) == built("mlp").shift.numel() + built("mlp").scratch.numel()


@pytest.mark.parametrize("how", ["script", "trace"])
def test_second_derivatives_of_the_written_model_are_those_of_the_edited_eager_one(how):
    eager = dcs.transform(built("schnet"), example_inputs=molecule()).model
    written = reloaded(dcs.transform(scripted("schnet", how), example_inputs=molecule()).model)
    results = []
    for model in (eager, written):
        z, pos, edges = molecule()
        pos.requires_grad_()
        (force,) = torch.autograd.grad(model(z, pos, edges), pos, create_graph=True)
        results.append((force, torch.autograd.grad(force.square().sum(), pos)[0]))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12)


def test_trained_weights_and_modes_are_written():
    edited = dcs.transform(scripted("mlp", train=True), denorm=False, example_inputs=inputs_of("mlp")).model
    with torch.no_grad():
        edited.layers[0].weight.add_(1.0)
    edited.layers[3].eval()
    written = reloaded(edited)
    assert torch.equal(written.state_dict()["layers.0.weight"], edited.layers[0].weight)
    assert (written.training, getattr(written.layers, "3").training) == (True, False)


def test_rescaled_labels_are_physical_units_and_C_is_a_buffer():
    script = scripted("schnet")
    written = reloaded(dcs.transform(script, irelu=False, rescale=1e3, example_inputs=molecule()).model)
    torch.testing.assert_close(written(*molecule()), script(*molecule()) * 1e3)
    torch.testing.assert_close(written.scaled(*molecule()), script(*molecule()))
    assert written.state_dict()["label_scale"].item() == 1e3
    assert dict(written.named_buffers())["label_scale"].dtype == torch.float64


def test_rescaled_tuples_scale_energy_and_forces_alike():
    edited = dcs.transform(scripted("forces"), rescale=10.0, example_inputs=(rows(),)).model
    written = reloaded(edited)
    assert_same(written, edited, lambda: (rows(),))
    energy, force = written(rows())
    raw_energy, raw_force = written.scaled(rows())
    torch.testing.assert_close(energy, raw_energy * 10)
    torch.testing.assert_close(force, raw_force * 10)


def test_rescaled_records_and_dictionaries():
    table = dcs.transform(
        scripted("tables"), irelu=False, rescale=10.0, outputs=(0,), example_inputs=inputs_of("tables")
    )
    with pytest.raises(Refused, match="not rescaled in TorchScript"):
        write_archive(table.model)

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"energy": self.lin(x), "mask": x}

    named = torch.jit.script(Named().double())
    edited = dcs.transform(
        named, irelu=False, denorm=False, rescale=10.0, outputs=("energy",), example_inputs=(rows(),)
    )
    out, raw = reloaded(edited.model)(rows()), named(rows())
    torch.testing.assert_close(out["energy"], raw["energy"] * 10)
    assert torch.equal(out["mask"], raw["mask"])


@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_file_is_transformed_to_a_file(how, tmp_path):
    """The same sites and the same outputs as for the pickled eager model."""
    torch.jit.save(scripted("schnet", how), tmp_path / "script.pt", _extra_files={"units.txt": "eV"})
    torch.save(built("schnet"), tmp_path / "eager.pt")
    torch.save(molecule(), tmp_path / "inputs.pt")
    before = (tmp_path / "script.pt").read_bytes()
    sites = {}
    for name in ("script", "eager"):
        arguments = ["transform", str(tmp_path / f"{name}.pt"), "--irelu", "--inputs", str(tmp_path / "inputs.pt")]
        imports = [] if name == "script" else ["--trust"]
        report = tmp_path / f"{name}.json"
        assert main([*arguments, *imports, "--rescale", "100", "--report", str(report)]) == 0
        plan = json.loads(report.read_text())["plan"]
        sites[name] = [(edit["site"], edit["do"]) for edit in plan["edits"]]
    assert sites["script"] == sites["eager"]
    extra = {"units.txt": ""}
    written = torch.jit.load(tmp_path / "script.dcs.pt", _extra_files=extra)
    assert extra["units.txt"] == b"eV"
    eager = dcs.load(tmp_path / "eager.dcs.pt", trust=True)
    torch.testing.assert_close(written(*molecule()), eager(*molecule()), rtol=1e-6, atol=1e-9)
    assert (tmp_path / "script.pt").read_bytes() == before
    assert main(["inspect", str(tmp_path / "script.dcs.pt")]) == 0
    shutil.copy(tmp_path / "script.pt", tmp_path / "other.pt")
    assert main(["plan", str(tmp_path / "other.pt"), "--irelu", "-o", str(tmp_path / "plan.yaml")]) == 0
    assert main(["apply", str(tmp_path / "script.pt"), str(tmp_path / "plan.yaml"), "-o", str(tmp_path / "a.pt")]) == 0
    assert isinstance(torch.jit.load(tmp_path / "a.pt"), torch.jit.ScriptModule)


def test_save_writes_torchscript_for_what_came_from_it(tmp_path):
    surgery = dcs.transform(scripted("branches"), example_inputs=inputs_of("branches"))
    dcs.save(surgery, tmp_path / "surgery.pt")
    dcs.save(surgery.model, tmp_path / "model.pt")
    dcs.save(scripted("branches"), tmp_path / "live.pt")
    for name in ("surgery", "model"):
        assert_same(torch.jit.load(tmp_path / f"{name}.pt"), surgery.model, lambda: inputs_of("branches"))
    assert_same(torch.jit.load(tmp_path / "live.pt"), scripted("branches"), lambda: inputs_of("branches"))


def test_an_eager_model_is_not_written_as_torchscript(tmp_path):
    with pytest.raises(Refused, match="did not come from TorchScript"):
        dcs.save(nn.Linear(2, 2), tmp_path / "model.pt", format="torchscript")
    assert list(tmp_path.iterdir()) == []


def test_hooks_cannot_be_written(tmp_path):
    module = import_module(scripted("mlp"))
    module.bn.register_forward_hook(lambda *_: None)
    with pytest.raises(Refused, match="bn: has hooks"):
        dcs.save(module, tmp_path / "model.pt")


def test_an_activation_that_a_trace_does_not_hold_is_refused():
    class Odd(nn.Module):
        def forward(self, x):
            return x * float(x.numel() > 6)

    edited = dcs.apply(scripted("branches"), dcs.plan(scripted("branches"), activation=Odd())).model
    with pytest.raises(Refused, match="its trace depends on shape"):
        write_archive(edited)


def test_activations_with_parameters_are_written_with_them():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return self.scale * torch.nn.functional.relu(x)

    script = scripted("schnet")
    edited = dcs.apply(script, dcs.plan(script, activation=Scaled())).model
    written = reloaded(edited)
    assert "act.scale" in written.state_dict()
    assert_same(written, edited, molecule)


def test_the_value_is_the_closed_form():
    written = reloaded(dcs.transform(torch.jit.script(nn.Sequential(nn.Tanh())), example_inputs=(rows(),)).model)
    x = torch.tensor([-1.0, 0.0, 0.5, 2.0], dtype=torch.float64)
    assert torch.equal(written(x), torch.tensor([0.0, 0.0, 0.125, 2.0], dtype=torch.float64))
    assert math.isnan(written(torch.tensor([math.nan]))[0])
