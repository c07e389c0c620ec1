"""Planted faults: whatever is wrong with an edited model, `verify` fails and its message names the place."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import dcsurgery as dcs
from dcsurgery.cli.app import main


class Potential(nn.Module):
    """Energy and forces of a few atoms, with everything that an edit can be made to."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(3, 8)
        self.norm = nn.LayerNorm(8)
        self.act = nn.SiLU()
        self.hidden = nn.Linear(8, 8)
        self.other = nn.Linear(8, 8)
        self.out = nn.Linear(8, 1)

    def energies(self, pos):
        h = self.act(self.norm(self.embed(pos)))
        return self.out(self.other(F.softplus(self.hidden(h))))

    def forward(self, pos):
        with torch.enable_grad():
            pos = pos if pos.requires_grad else pos.detach().requires_grad_()
            energy = self.energies(pos).sum()
            (slope,) = torch.autograd.grad(energy, pos, create_graph=True)
        return {"energy": energy, "forces": -slope}


def positions():
    return (torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64),)


@pytest.fixture(scope="module")
def pair():
    original = Potential().double()
    return original, dcs.transform(original, example_inputs=positions()).model


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    # What is tested here is what the checks see; a fresh process for every fault would only take time.
    monkeypatch.setattr("dcsurgery.checks.reload.needs_this_process", lambda *_: True)


class _FirstOrder(torch.autograd.Function):
    """IReLU whose derivative is right and has none itself."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.relu(x) ** 2 / 2

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.relu(ctx.saved_tensors[0].detach())


class FirstOrder(nn.Module):
    def forward(self, x):
        return _FirstOrder.apply(x)


def remove_an_edit(model):
    model.act = nn.SiLU()


def bring_a_norm_back(model):
    model.norm = nn.LayerNorm(8).double()


def undo_a_rewritten_call(model):
    model.__class__ = Potential


def swap_parameters(model):
    model.hidden.weight, model.other.weight = model.other.weight, model.hidden.weight


def drop_second_order(model):
    model.act = FirstOrder()


def share(model):
    model.other.weight = model.hidden.weight


def freeze(model):
    model.hidden.bias.requires_grad_(False)


def stray(module, args):
    return (F.silu(args[0]),)


def add_a_stray(model):
    model.hidden.register_forward_pre_hook(stray)


def halve_a_force(model):
    def halve(module, args, output):
        return {**output, "forces": output["forces"] * torch.tensor([0.5, 1.0, 1.0], dtype=torch.float64)}

    model.register_forward_hook(halve)


def return_a_fake(model):
    def fake(module, args, output):
        with FakeTensorMode():
            return {**output, "forces": torch.empty(5, 3)}

    model.register_forward_hook(fake)


FAULTS = {
    "one edit removed by hand": (remove_an_edit, "residual", "act: {'silu': 1}"),
    "a norm that came back": (bring_a_norm_back, "residual", "norm: {'native_layer_norm': 1}"),
    "a rewritten call undone": (undo_a_rewritten_call, "residual", "Potential.energies, line "),
    "a stray F.silu": (add_a_stray, "other sites", "stray, line "),
    "two parameters swapped": (swap_parameters, "keys", "hidden.weight, other.weight"),
    "two parameters made one": (share, "structure", "hidden.weight and other.weight were two tensors and are one"),
    "a frozen parameter": (freeze, "structure", "requires_grad of hidden.bias: True became False"),
    "a halved force": (halve_a_force, "forces", "output['forces'] is not -dE/dx: ["),
    "a FakeTensor": (return_a_fake, "finite", "output['forces'] is a FakeTensor"),
    "second-order terms dropped": (drop_second_order, "value witness", "act is wrong in its derivative of order 2"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_verify_fails_and_names_the_place(pair, fault):
    original, edited = pair
    plant, name, place = FAULTS[fault]
    wrong = copy.deepcopy(edited)
    plant(wrong)
    report = dcs.verify(original, wrong, positions())
    assert not report.ok
    assert report[name].status == "fail", report
    assert place in report[name].reason


def test_nothing_planted_nothing_found(pair):
    report = dcs.verify(*pair, positions(), order=3)
    assert report.ok, report
    assert report["forces"].status == "pass"
    assert report["value witness"].figure < 1e-12
    assert report.warnings == ("3 edits, told by the edited model's own record",)


def test_a_fault_is_found_without_a_record_too(pair):
    original, edited = pair
    wrong = copy.deepcopy(edited)
    del vars(wrong)["_dcsurgery_record"]
    right = dcs.verify(original, wrong, positions())
    assert right.ok, right
    assert right.warnings == ("3 edits, told by comparing the models",)
    halve_a_force(wrong)
    assert {"forces", "value witness"} <= {check.name for check in dcs.verify(original, wrong, positions()).failures}


def test_the_value_witness_sees_a_halved_force_in_its_component(pair):
    original, edited = pair
    wrong = copy.deepcopy(edited)
    halve_a_force(wrong)
    check = dcs.verify(original, wrong, positions())["value witness"]
    assert check.reason.startswith("values differ at output['forces'][")
    assert check.reason.endswith(", 0]")


def test_the_command_line_fails_with_one_line_that_names_the_place(pair, tmp_path, capsys):
    original, edited = (nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1)) for _ in range(2))
    edited.load_state_dict(original.state_dict())
    edited = dcs.transform(original, example_inputs=(torch.randn(4, 3),)).model
    paths = {name: str(tmp_path / f"{name}.pt") for name in ("original", "edited", "wrong", "inputs")}
    torch.save(original, paths["original"])
    torch.save(edited, paths["edited"])
    edited[1] = nn.SiLU()
    torch.save(edited, paths["wrong"])
    torch.save((torch.randn(4, 3),), paths["inputs"])
    assert main(["verify", paths["original"], paths["edited"], "--inputs", paths["inputs"], "--order", "1"]) == 0
    assert "value witness" in capsys.readouterr().out
    assert main(["verify", paths["original"], paths["wrong"], "--inputs", paths["inputs"]]) == 1
    error = capsys.readouterr().err
    assert "check 'residual' failed: 1: {'silu': 1}" in error
    assert main(["verify", paths["original"], paths["wrong"], "--inputs", paths["inputs"], "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["command"], document["ok"], document["exit_code"]) == ("verify", False, 1)
    checks = {check["name"]: check["status"] for check in document["report"]["checks"]}
    assert checks["residual"] == "fail"
    assert main(["verify", paths["original"], paths["edited"]]) == 0
    assert "nothing was run" in capsys.readouterr().err
