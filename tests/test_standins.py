"""What stands in for a deleted norm or a replaced activation looks, loads and hooks like what was there."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from models import properties
from models.case import Net, build, hand, rows
from models.hard_cases import NORMS
from models.norms import Fused, NormAct
from torch import nn
from torch_geometric.nn import (
    BatchNorm,
    DiffGroupNorm,
    GraphNorm,
    InstanceNorm,
    LayerNorm,
    MeanSubtractionNorm,
    MessageNorm,
    PairNorm,
)

import dcsurgery as dcs
from dcsurgery.activations import IReLU
from dcsurgery.calls import GatedLinear
from dcsurgery.recognition import recognise
from dcsurgery.standins import DeletedNorm, ForgetTensors, InPlace, ReplacedActivation, keep_hooks
from dcsurgery.subclass import amend


@pytest.mark.parametrize("name", NORMS)
class TestHardCases:
    def test_computes_what_the_hand_written_model_computes(self, name):
        properties.follows_the_hand_written_model(name)

    def test_leaves_the_original_alone(self, name):
        properties.leaves_the_original_alone(name)

    def test_survives_copies_and_files(self, name):
        properties.survives_copies_and_files(name)

    def test_the_plan_edits_another_instance_and_back(self, name):
        properties.replays_on_other_weights(name)

    def test_an_empty_plan_is_the_identity(self, name):
        properties.empty_plan_is_the_identity(name)


NORM_LAYERS = {
    "BatchNorm1d": lambda: nn.BatchNorm1d(4),
    "BatchNorm1d without statistics": lambda: nn.BatchNorm1d(4, affine=False, track_running_stats=False),
    "LayerNorm": lambda: nn.LayerNorm(4),
    "RMSNorm": lambda: nn.RMSNorm(4),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "InstanceNorm": lambda: InstanceNorm(4),
    "BatchNorm of PyG": lambda: BatchNorm(4),
    "LayerNorm of PyG": lambda: LayerNorm(4),
    "GraphNorm": lambda: GraphNorm(4),
    "PairNorm": lambda: PairNorm(),
    "MeanSubtractionNorm": lambda: MeanSubtractionNorm(),
    "DiffGroupNorm": lambda: DiffGroupNorm(4, 2),
}


class Stack(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.norm = norm
        self.act = nn.SiLU()

    def forward(self, x):
        return self.act(self.norm(self.a(x)))


@pytest.mark.parametrize("name", NORM_LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_a_deleted_norm_passes_its_input_on_and_its_checkpoint_loads(name, training):
    torch.manual_seed(0)
    model = Stack(NORM_LAYERS[name]()).double().train(training)
    surgery = dcs.transform(model, irelu=False, example_inputs=(rows(),))
    edited = surgery.model
    assert torch.equal(edited(rows()), F.silu(model.a(rows())))
    assert list(edited.state_dict()) == ["a.weight", "a.bias"]
    assert set(surgery.key_map.deleted) == set(model.state_dict()) - {"a.weight", "a.bias"}
    assert edited.load_state_dict(model.state_dict(), strict=True).missing_keys == []
    assert edited.norm.training is training
    assert edited.train(not training).norm.training is not training


def test_a_norm_with_a_submodule_takes_its_keys_along():
    norm = DeletedNorm(DiffGroupNorm(4, 2))
    old = {f"norm.{key}": value for key, value in DiffGroupNorm(4, 2).state_dict().items()}
    holder = nn.ModuleDict({"norm": norm})
    assert old
    holder.load_state_dict(old, strict=True)


def test_keys_of_nobody_are_still_reported():
    model = nn.ModuleDict({"norm": DeletedNorm(nn.LayerNorm(4))})
    with pytest.raises(RuntimeError, match=r"norm\.other"):
        model.load_state_dict({"norm.weight": torch.ones(4), "norm.other": torch.ones(1)}, strict=True)


def test_loading_does_not_empty_the_callers_checkpoint():
    state = {"norm.weight": torch.ones(4), "norm.bias": torch.ones(4)}
    nn.ModuleDict({"norm": DeletedNorm(nn.LayerNorm(4))}).load_state_dict(state)
    assert list(state) == ["norm.weight", "norm.bias"]


def test_a_deleted_norm_reads_as_the_identity_in_the_dtype_that_the_model_has():
    model = nn.ModuleDict({"norm": DeletedNorm(nn.LayerNorm(4).half()), "layer": nn.Linear(2, 2)})
    norm = model.double()["norm"]
    assert torch.equal(norm.weight, torch.ones(4, dtype=torch.float64))
    assert torch.equal(norm.bias, torch.zeros(4, dtype=torch.float64))
    assert copy.deepcopy(model).float()["norm"].weight.dtype == torch.float32
    assert pickle.loads(pickle.dumps(norm)).weight.dtype == torch.float64
    assert not list(norm.parameters())
    assert not list(norm.buffers())
    assert not norm.state_dict()
    assert DeletedNorm(nn.LayerNorm(4, bias=False)).bias is None
    assert DeletedNorm(nn.LazyBatchNorm1d()).weight is None


def test_a_model_that_looks_at_its_norms_dtype_runs_without_the_norm():
    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.layer = nn.LayerNorm(3), nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(self.norm(x.to(self.norm.weight.dtype)))

    model = Looking().double()
    edited = dcs.transform(model, irelu=False, example_inputs=(rows().float(),)).model
    assert torch.equal(edited(rows().float()), model.layer(rows().float().double()))


def test_the_settings_of_a_deleted_norm_stay_readable():
    norm = DeletedNorm(nn.BatchNorm1d(4, eps=1e-3, momentum=None))
    assert (norm.num_features, norm.eps, norm.momentum, norm.running_mean) == (4, 1e-3, None, None)
    norm.reset_parameters()
    norm.reset_running_stats()
    assert repr(norm) == "DeletedNorm(BatchNorm1d)"
    assert repr(DeletedNorm()) == "DeletedNorm(normalization)"
    assert list(norm.state_dict()) == []


def test_the_argument_that_comes_out_can_be_a_later_one_and_given_by_name():
    x, message = rows(), rows(seed=2)
    norm = DeletedNorm(MessageNorm(), returns=1)
    assert norm(x, message) is message
    assert norm(x, msg=message) is message
    assert norm(msg=message, x=x) is message
    first = DeletedNorm(nn.LayerNorm(3))
    assert first(x) is x
    assert first(input=x) is x
    assert DeletedNorm()(anything=x) is x


def test_a_copy_comes_out_where_the_result_is_written_into():
    x = rows()
    norm = DeletedNorm(nn.LayerNorm(3), copied=True)
    out = norm(x)
    assert torch.equal(out, x)
    out.add_(1)
    assert torch.equal(x, rows())
    assert norm("no tensor") == "no tensor"


class WritesIntoTheNorm(nn.Module):
    """The norm's output is changed in place, and its input is needed afterwards."""

    def __init__(self, functional):
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.functional = functional

    def forward(self, x):
        h = self.a(x)
        y = F.layer_norm(h, (4,)) if self.functional else self.norm(h)
        y.mul_(2)
        return y + h


@pytest.mark.parametrize("functional", [True, False])
def test_deleting_a_norm_does_not_let_later_writes_reach_its_input(functional):
    model = WritesIntoTheNorm(functional).double()
    edited = dcs.transform(model, irelu=False, example_inputs=(rows(),)).model
    torch.testing.assert_close(edited(rows()), 3 * model.a(rows()))


def test_prelu_gives_way_and_its_checkpoint_still_loads():
    model, surgery = properties.operated("PReLU")
    assert surgery.key_map.deleted == ("act.weight",)
    assert isinstance(surgery.model.act, ReplacedActivation)
    surgery.model.load_state_dict(model.state_dict(), strict=True)
    state = surgery.key_map.backward(surgery.model.state_dict(), model.state_dict())
    copy.deepcopy(model).load_state_dict(state, strict=True)


def test_an_in_place_stand_in_writes_into_its_input():
    x = rows()
    assert InPlace(nn.Tanh())(y := x.clone()) is y
    assert torch.equal(y, torch.tanh(x))
    leaf = rows().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: InPlace(nn.Tanh())(t * 1.0), (leaf,))
    assert torch.autograd.gradgradcheck(lambda t: InPlace(IReLU())(t * 1.0), (leaf,))


def test_a_gated_linear_unit_is_torchs_with_another_gate():
    x = rows(4, 6)
    for dim in (0, 1, -1):
        torch.testing.assert_close(GatedLinear(nn.Sigmoid(), dim)(x), F.glu(x, dim))


def test_stand_ins_are_what_they_hold():
    for make in (InPlace, GatedLinear, lambda a: ReplacedActivation(a, ["weight"])):
        assert recognise(make(nn.Tanh())).operator.name == "tanh"
        assert recognise(make(IReLU())) is None
    assert recognise(DeletedNorm(nn.LayerNorm(3))) is None


@pytest.mark.parametrize("replaced", [nn.SiLU(), nn.PReLU(), nn.ReLU(inplace=True), nn.LayerNorm(4)], ids=repr)
def test_hooks_move_to_what_stands_in(replaced):
    seen = []

    class Hooked(Net):
        def __init__(self):
            super().__init__()
            self.act = copy.deepcopy(replaced)

        def forward(self, x):
            return self.b(self.act(self.a(x)))

    model = Hooked().double()
    model.act.register_forward_pre_hook(lambda m, args: seen.append("before"))
    model.act.register_forward_hook(lambda m, args, out: seen.append("after") or out * 2)
    model.act.register_full_backward_hook(lambda m, grads, out: seen.append("backward"))
    edited = dcs.apply(model, dcs.plan(model)).model
    x = rows().requires_grad_()
    # Backward hooks see views: writing in place there is torch's own refusal, with and without the surgery.
    if getattr(replaced, "inplace", False):
        edited.act._backward_hooks.clear()
    seen.clear()
    out = edited(x)
    expected = model.a(x) if isinstance(replaced, nn.LayerNorm) else hand(model.a(x))
    torch.testing.assert_close(out, model.b(2 * expected))
    out.sum().backward()
    assert seen == ["before", "after", "backward"][: 2 if getattr(replaced, "inplace", False) else 3]
    assert type(edited.act) is not type(replaced)


def test_a_stand_in_takes_over_the_mode():
    old = nn.SiLU().eval()
    assert keep_hooks(old, IReLU()).training is False
    assert keep_hooks(old.train(), InPlace(IReLU())).activation.training is True


def test_a_norm_without_its_tensors_ignores_their_keys_and_keeps_the_rest():
    norm = NormAct(4, nn.PReLU(4))
    old = {key: value + 1 for key, value in norm.state_dict().items()}
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        norm.register_buffer(name, None) if name in norm._buffers else norm.register_parameter(name, None)
    amend(norm, ForgetTensors(("weight", "bias", "running_mean", "running_var", "num_batches_tracked")))
    norm.load_state_dict(old, strict=True)
    assert torch.equal(norm.act.weight, old["act.weight"])
    assert list(norm.state_dict()) == ["act.weight"]
    assert pickle.loads(pickle.dumps(norm)).load_state_dict(old, strict=True).unexpected_keys == []


def test_a_fused_norm_keeps_its_activation_and_loses_its_tensors():
    model, surgery = properties.operated("norm out of a class with an activation")
    edited = surgery.model
    assert isinstance(edited.norm, NormAct)
    assert isinstance(edited.norm.act, nn.SiLU)
    assert not list(edited.norm.parameters())
    assert not list(edited.norm.buffers())
    again = dcs.transform(edited, example_inputs=(rows(),))
    assert [e.site for e in again.plan.edits] == ["norm.act"], "what is left is found by the next surgery"
    torch.testing.assert_close(again.model(rows()), model.b(hand(model.a(rows()))))
    again.model.load_state_dict(model.state_dict(), strict=True)


def test_undoing_gives_a_fused_norm_its_tensors_back():
    model = Fused(NormAct(4, nn.SiLU())).double()
    state = copy.deepcopy(model.state_dict())
    weight = model.norm.weight
    surgery = dcs.transform(model, example_inputs=(rows(),), inplace=True)
    assert "norm.weight" not in model.state_dict()
    surgery.undo()
    assert model.norm.weight is weight
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_stand_ins_come_back_from_files():
    for module in (DeletedNorm(nn.LayerNorm(3), copied=True), InPlace(IReLU()), GatedLinear(IReLU(), 0)):
        stream = io.BytesIO()
        torch.save(module, stream)
        stream.seek(0)
        x = rows(4, 4)
        assert torch.equal(torch.load(stream, weights_only=False)(x.clone()), module(x.clone()))


def test_every_norm_case_was_built_from_norms():
    for name in NORMS:
        model = build(NORMS[name])
        assert len(dcs.inspect(model).normalizations) > 0 or name == "PReLU"
