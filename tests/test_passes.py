"""Passes against models written by hand: what each edit computes, what it refuses, and how third parties add one."""

from __future__ import annotations

import copy
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dcsurgery as dcs
from dcsurgery import passes
from dcsurgery.activations import IReLU
from dcsurgery.errors import BadInput, NothingMatched, Refused
from dcsurgery.passes import (
    Denormalize,
    FoldBatchNorm,
    Pass,
    PassPlan,
    Pipeline,
    ReplaceActivations,
    RescaleLabels,
    pass_for,
)
from dcsurgery.plans import Edit, Plan


def lively(model, seed=0):
    """Give every norm statistics and weights that are not those of a new one."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(0.4, 1.6, generator=generator)
    return model


def points(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


class Before(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 6)
        self.n = nn.BatchNorm1d(6)
        self.s = nn.SiLU()
        self.b = nn.Linear(6, 6)
        self.m = nn.LayerNorm(6)
        self.c = nn.Linear(6, 1)

    def forward(self, x):
        h = self.s(self.n(self.a(x)))
        return self.c(torch.tanh(self.m(self.b(h)))).sigmoid()


class BNAct(nn.BatchNorm1d):
    """A norm with an activation of its own, as in timm."""

    def __init__(self, width):
        super().__init__(width)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.act(super().forward(x))


def hand(model, x, act_1, act_2, norm_1, norm_2):
    """Before.forward with each site written out."""
    h = act_1(norm_1(F.linear(x, model.a.weight, model.a.bias)))
    return F.linear(act_2(norm_2(F.linear(h, model.b.weight, model.b.bias))), model.c.weight, model.c.bias).sigmoid()


def integrated_relu(x):
    return torch.where(x > 0, x * x / 2, torch.zeros_like(x))


def same(x):
    return x


# -- ReplaceActivations ------------------------------------------------------------------------------------------------


def test_replaced_activations_compute_what_the_hand_written_model_does():
    model, x = lively(Before().double().eval()), points(5, 3)
    edited = Pipeline([ReplaceActivations()])(model, (x,)).model
    torch.testing.assert_close(edited(x), hand(model, x, integrated_relu, integrated_relu, model.n, model.m))


def test_gates_are_replaced_when_asked_for():
    model, x = lively(Before().double().eval()), points(5, 3)
    edited = Pipeline([ReplaceActivations(gates=True)])(model, (x,)).model
    raw = torch.logit(hand(model, x, integrated_relu, integrated_relu, model.n, model.m))
    torch.testing.assert_close(edited(x), integrated_relu(raw))


def test_each_site_gets_a_copy_of_a_module_of_the_users_own():
    model = nn.Sequential(nn.Linear(2, 2), nn.SiLU(), nn.Linear(2, 2), nn.SiLU())
    mine = nn.PReLU(init=0.3)
    edited = Pipeline([ReplaceActivations(mine)])(model, (points(3, 2, dtype=torch.float32),)).model
    assert type(edited[1]) is type(edited[3]) is nn.PReLU
    assert len({id(edited[1]), id(edited[3]), id(mine)}) == 3
    assert [*edited.state_dict()][2] == "1.weight"


def test_a_call_has_no_place_for_an_activation_with_parameters():
    with pytest.raises(Refused, match="PReLU has parameters"):
        Pipeline([ReplaceActivations(nn.PReLU(), where="forward@tanh")])(Before())


@pytest.mark.parametrize("name", ["irlu", "integrated-relux", 3])
def test_an_unknown_activation_is_refused_when_the_pass_is_made(name):
    with pytest.raises(BadInput):
        ReplaceActivations(name)


# -- Denormalize -------------------------------------------------------------------------------------------------------


def test_deleted_norms_are_the_identity():
    model, x = lively(Before().double().eval()), points(5, 3)
    edited = Pipeline([Denormalize()])(model, (x,)).model
    torch.testing.assert_close(edited(x), hand(model, x, F.silu, torch.tanh, same, same))
    assert not any(isinstance(module, nn.BatchNorm1d | nn.LayerNorm) for module in edited.modules())


def test_a_fused_norm_keeps_its_activation():
    model, x = lively(nn.Sequential(nn.Linear(3, 4), BNAct(4), nn.Linear(4, 1)).double().eval()), points(6, 3)
    result = Pipeline([Denormalize()])(model, (x,))
    torch.testing.assert_close(result.model(x), model[2](F.silu(model[0](x))))
    assert set(result.key_map.deleted) == {key for key in model.state_dict() if key.startswith("1.")}
    both = Pipeline([Denormalize(), ReplaceActivations()])(model, (x,))
    torch.testing.assert_close(both.model(x), model[2](integrated_relu(model[0](x))))


# -- FoldBatchNorm -----------------------------------------------------------------------------------------------------


class Folds(nn.Module):
    """A linear layer and convolutions with a batch norm behind each, with and without bias."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 16, bias=False)
        self.n0 = nn.BatchNorm1d(16)
        self.c1, self.n1 = nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4)
        self.c2, self.n2 = nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6, affine=False)
        self.c3, self.n3 = nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2)

    def forward(self, x):  # (batch, 12)
        h = torch.tanh(self.n0(self.linear(x)))  # (batch, 16)
        h = torch.tanh(self.n1(self.c1(h.view(-1, 4, 4))))  # (batch, 4, 4)
        h = torch.tanh(self.n2(self.c2(h[:, :, :, None].expand(-1, -1, -1, 4))))  # (batch, 6, 2, 2)
        return self.n3(self.c3(h[:, None])).sum((1, 2, 3, 4))


def test_folding_preserves_values_and_gradients_to_1e_12_in_float64():
    model, x = lively(Folds().double().eval()), points(3, 12).requires_grad_()
    result = Pipeline([FoldBatchNorm()])(model, (x,))
    assert [edit.settings["into"] for edit in result.plan] == ["linear", "c1", "c2", "c3"]
    before, after = model(x), result.model(x)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)
    (g_before,) = torch.autograd.grad(before.square().sum(), x)
    (g_after,) = torch.autograd.grad(after.square().sum(), x)
    torch.testing.assert_close(g_after, g_before, rtol=1e-12, atol=1e-12)
    assert not any("BatchNorm" in type(module).__name__ for module in result.model.modules())


def test_folding_changes_neither_the_original_nor_what_undo_gives_back():
    model, x = lively(Folds().double().eval()), points(3, 12)
    state = copy.deepcopy(model.state_dict())
    result = Pipeline([FoldBatchNorm()])(model, (x,))
    assert {"linear.bias", "c2.bias"} == set(result.key_map.added)
    inplace = Pipeline([FoldBatchNorm()])(model, (x,), inplace=True)
    inplace.undo()
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.lin(self.lin(x)))


class SharedNorm(Shared):
    def forward(self, x):
        return self.norm(self.lin(self.norm(x)))


class TwoNames(Shared):
    def __init__(self):
        super().__init__()
        self.other = self.lin


class UsedTwice(Shared):
    def forward(self, x):
        h = self.lin(x)
        return self.norm(h) + h


class NotALayer(Shared):
    def forward(self, x):
        return self.norm(torch.tanh(self.lin(x)))


class NotALinear(Shared):
    def __init__(self):
        super().__init__()
        self.act = nn.Tanh()

    def forward(self, x):
        return self.norm(self.act(self.lin(x)))


class ThreeDimensions(Shared):
    def forward(self, x):
        return self.norm(self.lin(x[:, None, :].expand(-1, 3, -1)))


class NoStatistics(Shared):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, track_running_stats=False)


class Call(Shared):
    def forward(self, x):
        return F.batch_norm(self.lin(x), self.norm.running_mean, self.norm.running_var)


class Training(Shared):
    def train(self, mode=True):
        super().train(mode)
        self.norm.train()
        return self


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Shared, "lin is used at several places"),
        (SharedNorm, "it is used at several places"),
        (TwoNames, "lin is used at several places"),
        (UsedTwice, "the output of lin is used elsewhere, too"),
        (NotALayer, "what comes before it is not a layer"),
        (NotALinear, "what comes before it is a Tanh"),
        (ThreeDimensions, r"the output of lin has the shape \[4, 3, 3\]; \(batch, features\) is needed"),
        (NoStatistics, "it has no running statistics"),
        (Call, "it is a call, not a module"),
        (Training, "it is in training mode"),
    ],
)
def test_what_cannot_be_folded_is_left_alone_and_the_reason_noted(cls, reason):
    model = cls().eval()
    with pytest.raises(NothingMatched, match=f"not folded: {reason}"):
        Pipeline([FoldBatchNorm()]).plan(model, (points(4, 3, dtype=torch.float32),))
    plan = Pipeline([FoldBatchNorm()], allow_empty=True).plan(model, (points(4, 3, dtype=torch.float32),))
    assert len(plan) == 0


def test_a_linear_layer_is_not_folded_without_a_run_that_shows_its_shape():
    with pytest.raises(NothingMatched, match="unknown shape: give example inputs"):
        Pipeline([FoldBatchNorm()]).plan(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval())


def test_folding_refuses_training_mode():
    with pytest.raises(Refused, match=r"evaluation mode only.*model.eval\(\)"):
        Pipeline([FoldBatchNorm()]).plan(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))


def test_folding_leaves_other_norms_alone():
    model = nn.Sequential(nn.Conv1d(3, 3, 1), nn.InstanceNorm1d(3, track_running_stats=True), nn.LayerNorm(4)).eval()
    with pytest.raises(NothingMatched, match="FoldBatchNorm matched nothing"):
        Pipeline([FoldBatchNorm()]).plan(model, (torch.ones(2, 3, 4),))


def test_deleting_changes_the_function_where_folding_does_not():
    model, x = lively(Before().double().eval()), points(5, 3)
    folded = Pipeline([FoldBatchNorm()])(model, (x,)).model(x)
    deleted = Pipeline([Denormalize(where="n")])(model, (x,)).model(x)
    torch.testing.assert_close(folded, model(x), rtol=1e-12, atol=1e-12)
    assert (deleted - model(x)).abs().max() > 1e-3


# -- RescaleLabels -----------------------------------------------------------------------------------------------------


def test_labels_are_multiplied_by_c():
    model, x = lively(Before().double().eval()), points(5, 3)
    edited = Pipeline([RescaleLabels(250.0)])(model, (x,)).model
    torch.testing.assert_close(edited(x), 250 * model(x), rtol=1e-15, atol=0)
    assert torch.equal(edited(x, scaled=True), model(x))


def test_a_second_rescale_is_refused():
    once = Pipeline([RescaleLabels(10.0)])(Before()).model
    with pytest.raises(Refused, match="rescaled already"):
        Pipeline([RescaleLabels(10.0)])(once)
    with pytest.raises(dcs.SurgeryError, match="already rescaled"):
        Pipeline([RescaleLabels(10.0), RescaleLabels(10.0)])(Before())


@pytest.mark.parametrize("C", [0.0, -1.0, float("nan"), float("inf"), "many", None, True])
def test_a_scale_that_is_none_is_refused(C):
    with pytest.raises(BadInput):
        RescaleLabels(C)


# -- Pipeline ----------------------------------------------------------------------------------------------------------


def test_passes_are_applied_in_their_order():
    model, x = Before(), points(5, 3, dtype=torch.float32)
    order = [RescaleLabels(2.0), Denormalize(), ReplaceActivations()]
    assert [e.action for e in Pipeline(order).plan(model, (x,))] == [
        "rescale",
        "delete",
        "delete",
        "replace",
        "replace",
    ]
    forth, back = (Pipeline(entries)(model, (x,)).model(x) for entries in (order, order[::-1]))
    assert torch.equal(forth, back)


def test_two_passes_on_one_site_clash():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.SiLU()).eval()
    with pytest.raises(BadInput, match="two passes edit the same site: 1"):
        Pipeline([FoldBatchNorm(), Denormalize()]).plan(model, (torch.ones(2, 3),))
    with pytest.raises(BadInput, match="two passes edit the same site: 2"):
        Pipeline([ReplaceActivations(), ReplaceActivations("integrated-tanh")]).plan(model)


@pytest.mark.parametrize("training", [True, False])
def test_no_pass_at_all_is_the_identity(training):
    model, x = lively(Before()).train(training), points(5, 3, dtype=torch.float32).requires_grad_()
    result = Pipeline([])(model, (x,))
    assert result.report.ok
    assert len(result.plan) == 0
    twin = copy.deepcopy(model)
    y, z = twin(x), result.model(x)
    assert torch.equal(y, z)
    for mine, theirs in zip(
        torch.autograd.grad(y.sum(), [x, *twin.parameters()]),
        torch.autograd.grad(z.sum(), [x, *result.model.parameters()]),
        strict=True,
    ):
        assert torch.equal(mine, theirs)
    assert all(torch.equal(a, b) for a, b in zip(twin.buffers(), result.model.buffers(), strict=True))


def test_a_pipeline_preserves_what_each_of_its_passes_does():
    assert Pipeline([]).preserves == {"values", "derivatives", "keys"}
    assert Pipeline([FoldBatchNorm()]).preserves == {"values", "derivatives", "keys"}
    assert Pipeline([FoldBatchNorm(), Denormalize()]).preserves == {"keys"}


def test_what_is_no_pass_is_refused():
    with pytest.raises(BadInput, match="not a pass"):
        Pipeline([Denormalize])
    with pytest.raises(BadInput, match="not a pass"):
        Pipeline(["irelu"])


def test_the_whole_recipe_computes_what_the_hand_written_model_does():
    model, x = lively(Before().double()), points(5, 3)
    result = Pipeline([ReplaceActivations(IReLU()), Denormalize(), RescaleLabels(1e3)])(model, (x,))
    torch.testing.assert_close(result.model(x), 1e3 * hand(model, x, integrated_relu, integrated_relu, same, same))
    assert result.report.ok
    skipped = {check.name for check in result.report if check.status == "skip"}
    assert skipped <= {"forces", "PDE order"}  # about models of another kind


# -- passes of third parties -------------------------------------------------------------------------------------------


class Doubled(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 2 * self.inner(x)


class DoubleActivations(Pass):
    """``act(x) → 2 act(x)``: defined in this file, known to nobody else."""

    action: ClassVar[str] = "double"
    preserves: ClassVar[frozenset[str]] = frozenset()
    leaves: ClassVar[str] = "operator"

    def plan(self, model, census):
        return PassPlan(
            tuple(
                Edit(c.site.name, self.action, c.site.operator, c.site.place)
                for c in self.candidates(census, "activation")
                if c.site.how == "module"
            )
        )

    @classmethod
    def realise(cls, surgeon, edit):
        surgeon.put(edit.place.owner, edit.place.slot, Doubled(surgeon.module(edit.site)))


class Crash(DoubleActivations):
    """Fails in the middle of its work."""

    action: ClassVar[str] = "crash"

    @classmethod
    def realise(cls, surgeon, edit):
        super().realise(surgeon, edit)
        raise RuntimeError("third-party trouble")


def test_a_pass_is_found_by_the_action_of_its_edits():
    assert pass_for("double") is DoubleActivations
    assert pass_for("replace") is ReplaceActivations
    assert pass_for("no such") is None


def test_a_pass_of_a_third_party_plans_applies_undoes_and_goes_through_yaml():
    model, x = lively(Before().double().eval()), points(5, 3)
    expected = hand(model, x, lambda h: 2 * F.silu(h), torch.tanh, model.n, model.m)
    result = Pipeline([DoubleActivations()])(model, (x,))
    torch.testing.assert_close(result.model(x), expected)
    assert [str(edit) for edit in result.plan] == ["~ s: double silu"]
    replayed = dcs.apply(model, Plan.from_yaml(result.plan.to_yaml()), inplace=True)
    torch.testing.assert_close(replayed.model(x), expected)
    assert type(replayed.undo().s) is nn.SiLU


def test_a_pass_of_a_third_party_works_beside_the_built_in_ones():
    model, x = lively(Before().double().eval()), points(5, 3)
    result = Pipeline([DoubleActivations(where="s"), ReplaceActivations(exclude="s"), Denormalize()])(model, (x,))
    expected = hand(model, x, lambda h: 2 * F.silu(h), integrated_relu, same, same)
    torch.testing.assert_close(result.model(x), expected)


def test_a_pass_that_crashes_leaves_the_model_as_it_was():
    model = Before()
    with pytest.raises(RuntimeError, match="third-party trouble"):
        Pipeline([Crash()])(model, inplace=True)
    assert type(model.s) is nn.SiLU


def test_a_module_put_into_the_folder_of_passes_is_exported():
    assert {"Denormalize", "FoldBatchNorm", "Pipeline", "ReplaceActivations", "RescaleLabels"} < set(passes.__all__)
    for name in passes.__all__:
        assert hasattr(passes, name)
