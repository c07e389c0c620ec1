"""TorchScript inside eager models is edited like everything else."""

import copy

import pytest
import torch
import torch.nn.functional as F
from script_models import gated_product, rows
from torch import Tensor, nn

import dcsurgery as dcs
from dcsurgery.copying import copied


@torch.jit.script
def scripted_softplus(x: Tensor) -> Tensor:
    return torch.log(1.0 + torch.exp(x))


@torch.jit.script
def normalized_tanh(x: Tensor, scale: float = 2.0) -> Tensor:
    if bool(x.sum() > -1e9):
        x = F.layer_norm(x, [3])
    return torch.tanh(x) * scale


def half_squared(x):
    return 0.5 * F.relu(x).square()


class HoldsScript(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lin = nn.Linear(3, 3)
        self.child = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.SiLU(), nn.LayerNorm(3)))
        self.listed = [torch.jit.trace(nn.Tanh(), torch.ones(1))]
        self.w = nn.Parameter(torch.eye(3))

    def forward(self, x):
        return self.listed[0](self.child(F.elu(self.lin(x))))


class CallsScript(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lin = nn.Linear(3, 3)
        self.w = nn.Parameter(torch.eye(3))
        self.held = normalized_tanh

    def helper(self, x):
        return gated_product(x, self.w)

    def forward(self, x):
        return self.held(self.helper(self.lin(x)), 3.0)


def test_a_scripted_child_shows_its_sites_with_names_and_lines():
    census = dcs.inspect(HoldsScript().double(), (rows(),))
    assert {(s.name, s.operator) for s in census} == {
        ("forward@elu", "elu"),
        ("child.1", "silu"),
        ("child.2", "layer_norm"),
        ("listed[0]", "tanh"),
    }
    assert all(s.line and s.runs == 1 for s in census)


def test_a_scripted_child_is_edited_and_undo_gives_the_users_own_back():
    model = HoldsScript().double()
    before = model(rows())
    surgery = dcs.transform(model, example_inputs=(rows(),))
    first = getattr(model.child, "0")
    torch.testing.assert_close(
        surgery.model(rows()), half_squared(half_squared(first(half_squared(model.lin(rows())))))
    )
    assert [k for k in surgery.model.state_dict() if k.startswith("child")] == ["child.0.weight", "child.0.bias"]
    assert surgery.undo() is model
    assert isinstance(model.child, torch.jit.ScriptModule)
    assert torch.equal(model(rows()), before)


def test_copies_of_scripted_children_can_be_trained():
    model = HoldsScript()
    model.lin.weight.requires_grad_(False)
    duplicate = copied(model)
    assert all(p.is_leaf for p in duplicate.parameters())
    assert [p.requires_grad for p in duplicate.parameters()] == [p.requires_grad for p in model.parameters()]


def test_in_place_the_child_is_exchanged_and_comes_back():
    model = HoldsScript().double()
    child, before = model.child, model(rows())
    surgery = dcs.transform(model, example_inputs=(rows(),), inplace=True)
    assert surgery.model is model
    assert not isinstance(model.child, torch.jit.ScriptModule)
    assert surgery.undo() is model
    assert model.child is child
    assert torch.equal(model(rows()), before)


def test_a_plan_for_such_a_model_can_be_replayed():
    plan = dcs.Plan.from_yaml(dcs.plan(HoldsScript().double(), example_inputs=(rows(),)).to_yaml())
    edited = dcs.apply(HoldsScript().double(), plan).model
    assert torch.equal(edited(rows()), dcs.transform(HoldsScript().double(), example_inputs=(rows(),)).model(rows()))


def test_calls_of_scripted_functions_are_opened():
    model = CallsScript().double()
    census = dcs.inspect(model, (rows(),))
    assert sorted((s.name, s.operator, s.role) for s in census) == [
        ("held.forward@layer_norm", "layer_norm", "normalization"),
        ("held.forward@tanh", "tanh", "activation"),
        ("helper@sigmoid", "sigmoid", "gate"),
        ("helper@tanh", "tanh", "activation"),
    ]
    edited = dcs.transform(model, example_inputs=(rows(),)).model
    x = model.lin(rows())
    expected = half_squared(torch.sigmoid(x) * half_squared(x @ model.w)) * 3.0
    torch.testing.assert_close(edited(rows()), expected)
    assert torch.equal(copy.deepcopy(edited)(rows()), edited(rows()))


def test_the_users_scripted_functions_stay_what_they_are():
    before = gated_product(rows(), torch.eye(3).double())
    dcs.transform(CallsScript().double(), example_inputs=(rows(),))
    assert isinstance(gated_product, torch.jit.ScriptFunction)
    assert CallsScript.helper.__globals__["gated_product"] is gated_product
    assert torch.equal(gated_product(rows(), torch.eye(3).double()), before)


def test_a_scripted_function_that_is_an_activation_is_replaced_whole():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = scripted_softplus

        def forward(self, x):
            return self.act(x)

    edited = dcs.transform(Net(), example_inputs=(rows(),)).model
    torch.testing.assert_close(edited(rows()), half_squared(rows()))


@pytest.mark.parametrize("exclude", ["child", "listed"])
def test_what_is_excluded_computes_as_before(exclude):
    model = HoldsScript().double()
    edited = dcs.transform(model, example_inputs=(rows(),), exclude=exclude).model
    x = half_squared(model.lin(rows()))
    if exclude == "child":
        expected = half_squared(model.child(x))
    else:
        expected = torch.tanh(half_squared(getattr(model.child, "0")(x)))
    torch.testing.assert_close(edited(rows()), expected)
