"""An imported TorchScript module is the module: tensors, outputs, derivatives, modes, methods."""

from __future__ import annotations

import copy
import io
import subprocess
import sys

import pytest
import torch
from script_models import CASES, MLP, Head, SchNet, Shared, built, inputs_of, molecule, rows, scripted
from torch import nn
from torch.utils._pytree import tree_leaves

import dcsurgery as dcs
from dcsurgery import files
from dcsurgery.errors import BadInput
from dcsurgery.torchscript import import_module

WAYS = [(name, how) for name in CASES for how in ("script", "trace", "freeze") if how != "trace" or CASES[name][2]]


def tensors_of(value):
    leaves = tree_leaves(tuple(value) if isinstance(value, tuple) else value)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def loaded(script):
    """As from a file: torch knows nothing of its Python source any more."""
    stream = io.BytesIO()
    torch.jit.save(script, stream)
    stream.seek(0)
    return torch.jit.load(stream)


@pytest.mark.parametrize(("name", "how"), WAYS)
def test_same_keys_values_and_outputs(name, how):
    script = loaded(scripted(name, how))
    module = import_module(script)
    assert not any(isinstance(part, torch.jit.ScriptModule) for part in module.modules())
    mine, theirs = module.state_dict(), script.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    before, after = tensors_of(script(*inputs_of(name))), tensors_of(module(*inputs_of(name)))
    assert len(before) == len(after) > 0
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["mlp", "convolutions"])
def test_training_mode_updates_running_statistics_and_draws_the_same_dropout(name):
    script, outputs = scripted(name, train=True), []
    module = import_module(script)
    assert module.training
    for model in (script, module):
        torch.manual_seed(5)
        outputs.append(model(*inputs_of(name)))
    assert torch.equal(*outputs)
    for key, value in script.state_dict().items():
        assert torch.equal(module.state_dict()[key], value), key
    script.eval()
    assert torch.equal(module.eval()(*inputs_of(name)), script(*inputs_of(name)))


def test_second_derivatives_by_positions_and_parameters_are_the_scripted_ones():
    script = scripted("schnet")
    results = []
    for model in (script, import_module(script)):
        z, pos, edges = molecule()
        pos.requires_grad_()
        (force,) = torch.autograd.grad(model(z, pos, edges), pos, create_graph=True)
        parameters = [p for p in model.parameters() if p.requires_grad]
        results.append([force, *torch.autograd.grad(force.square().sum(), [pos, *parameters], allow_unused=True)])
    for one, other in zip(*results, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)


def test_exported_methods_and_submodule_methods_are_there():
    module = import_module(loaded(scripted("interface")))
    assert torch.equal(module.raw(rows()), rows().relu() * 3)
    assert torch.equal(module.raw(rows(), 2), rows().relu() * 2)
    branches = import_module(loaded(scripted("branches")))
    assert torch.equal(branches.step(rows()), built("branches").step(rows()))


def test_errors_of_the_model_are_raised_as_before():
    with pytest.raises(RuntimeError, match="two dimensions, not 3"):
        import_module(scripted("branches"))(torch.ones(2, 2, 3, dtype=torch.float64), torch.tensor(1))


def test_records_and_optional_arguments_keep_their_form():
    _, head = import_module(scripted("tables"))({"x": rows()})
    assert (type(head).__name__, head._fields) == (Head.__name__, Head._fields)
    branches = scripted("branches")
    assert torch.equal(
        import_module(branches)(*inputs_of("branches"), bias=rows()), branches(*inputs_of("branches"), rows())
    )


def test_tied_tensors_stay_one():
    module = import_module(torch.jit.script(Shared()))
    assert module.first[0].weight is module.second[0].weight
    assert len(list(module.parameters())) == 4


def test_a_live_modules_keys_and_requires_grad_survive():
    model = built("mlp")
    model.layers[0].weight.requires_grad_(False)
    script = torch.jit.script(model)
    module = import_module(script)
    assert list(module.state_dict()) == list(script.state_dict())
    assert [p.requires_grad for p in module.parameters()] == [p.requires_grad for p in model.parameters()]


def test_containers_and_classes_are_torchs_own():
    module = import_module(scripted("mlp"))
    assert isinstance(module.layers, nn.Sequential)
    assert len(module.layers) == 5
    assert isinstance(module.layers[0], nn.Linear)
    assert isinstance(module.bn, nn.BatchNorm1d)


def test_hooks_on_children_run():
    module, seen = import_module(scripted("schnet")), []
    module.interactions[0].mlp.register_forward_hook(lambda *_: seen.append("ran"))
    module(*molecule())
    assert seen == ["ran"]


@pytest.mark.parametrize("how", ["script", "trace"])
def test_the_same_sites_as_in_the_eager_model(how):
    eager = dcs.inspect(built("schnet"), molecule())
    found = dcs.inspect(scripted("schnet", how), molecule())
    assert [(s.name, s.operator, s.how, s.runs) for s in found] == [(s.name, s.operator, s.how, s.runs) for s in eager]


def test_sites_in_control_flow_are_found_without_a_run_and_have_positions():
    census = dcs.inspect(loaded(scripted("branches")))
    assert {s.operator for s in census} == {"tanh", "layer_norm", "elu", "gelu"}
    assert all(s.file.startswith("<TorchScript Branches") and s.line > 0 for s in census)


def test_bodies_are_traced_symbolically_where_the_eager_ones_are():
    captured = {c.path: c.method for c in dcs.inspect(scripted("schnet"), molecule()).captures}
    assert captured["interactions.0"] == "symbolic"


def test_a_module_that_a_trace_calls_twice_is_one_site():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.Tanh()

        def forward(self, x):
            return self.act(self.act(x) * 2)

    census = dcs.inspect(torch.jit.trace(Twice(), (rows(),)), (rows(),))
    assert [(s.name, s.runs) for s in census] == [("act", 2)]


def test_names_do_not_depend_on_how_torchscript_numbers_types():
    first, second = scripted("schnet"), scripted("schnet")
    assert dcs.plan(first).fingerprint == dcs.plan(second).fingerprint
    plan = dcs.plan(first, example_inputs=molecule())
    assert dcs.apply(second, dcs.Plan.from_yaml(plan.to_yaml())).report.done


@pytest.mark.parametrize("name", ["mlp", "tables", "shared"])
def test_copies_and_pickles_are_the_model(name, tmp_path):
    module = import_module(scripted(name))
    copied = copy.deepcopy(module)
    assert type(copied) is type(module)
    torch.save(module, tmp_path / "model.pt")
    for other in (copied, torch.load(tmp_path / "model.pt", weights_only=False), files.load(tmp_path / "model.pt")):
        assert type(other) is type(module)
        for one, two in zip(tensors_of(module(*inputs_of(name))), tensors_of(other(*inputs_of(name))), strict=True):
            assert torch.equal(one, two)


def test_a_pickle_stands_on_its_own_in_a_process_that_knows_nothing(tmp_path):
    edited = dcs.transform(scripted("schnet"), example_inputs=molecule()).model
    torch.save(molecule(), tmp_path / "inputs.pt")
    dcs.save(edited, tmp_path / "model.pt", format="module")
    code = (
        "import torch, dcsurgery\n"
        f"model = dcsurgery.load({str(tmp_path / 'model.pt')!r})\n"
        f"print(repr(model(*torch.load({str(tmp_path / 'inputs.pt')!r})).item()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == edited(*molecule()).item()


def test_surgery_of_a_live_script_module_gives_it_back_untouched():
    script = torch.jit.script(SchNet().double())
    before = script(*molecule())
    surgery = dcs.transform(script, example_inputs=molecule())
    assert isinstance(surgery.model, nn.Module)
    assert not isinstance(surgery.model, torch.jit.ScriptModule)
    assert surgery.undo() is script
    assert torch.equal(script(*molecule()), before)
    assert not torch.equal(surgery.model(*molecule()), before)


def test_a_script_module_is_not_edited_in_place():
    with pytest.raises(BadInput, match="TorchScript cannot be edited in place"):
        dcs.transform(torch.jit.script(MLP()), inplace=True)
