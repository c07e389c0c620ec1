"""What a rewritten call does not reach is caught while it runs, and only that; what nothing reaches fails as before."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from models import properties
from models.applied import CASES, Each, NewStyle, Stepped
from models.case import Net, between, hand, rows

import dcsurgery as dcs
from dcsurgery.plans import Plan


@pytest.mark.parametrize("name", CASES)
class TestHardCases:
    def test_computes_what_the_hand_written_model_computes(self, name):
        properties.follows_the_hand_written_model(name)

    def test_leaves_the_original_alone(self, name):
        properties.leaves_the_original_alone(name)

    def test_survives_copies_and_files(self, name):
        properties.survives_copies_and_files(name)

    def test_the_plan_edits_another_instance_and_back(self, name):
        properties.replays_on_other_weights(name)

    def test_the_witness_computes_the_same(self, name):
        _, surgery = properties.operated(name)
        assert [check.status for check in surgery.report if check.name == "value witness"] == ["pass"]


def test_only_what_was_left_over_is_intercepted():
    _, surgery = properties.operated("next of the user's")
    assert surgery.report.ok
    assert sorted(line.partition("(")[2] for line in surgery.report.done) == ["call intercepted)", "call rewritten)"]
    assert [edit.operator for edit in surgery.plan.edits if edit.settings.get("intercept")] == ["silu"]


def test_the_plan_of_the_second_try_can_be_replayed_from_its_file():
    model, surgery = properties.operated("next of the user's")
    text = surgery.plan.to_yaml()
    assert "intercept: true" in text
    replayed = dcs.apply(model, Plan.from_yaml(text))
    assert replayed.report.done == surgery.report.done
    torch.testing.assert_close(replayed.model(rows()), surgery.model(rows()))


def test_a_surgery_in_place_is_tried_again_in_place_and_undone():
    model = Stepped().double()
    before = model(rows())
    surgery = dcs.transform(model, example_inputs=(rows(),), inplace=True)
    assert surgery.model is model
    torch.testing.assert_close(model(rows()), model.b(hand(hand(model.a(rows())))))
    assert surgery.undo() is model
    assert type(model) is Stepped
    assert torch.equal(model(rows()), before)


def test_undo_gives_back_the_model_that_was_handed_in():
    model = Stepped().double()
    assert dcs.transform(model, example_inputs=(rows(),)).undo() is model


class EachWhole(Each):
    """Of a recognised function's body, no single call is the activation."""

    def __next__(self):
        return self.body(next(self.values))

    @staticmethod
    def body(x):
        return x * torch.sigmoid(x)


class NotReached(Net):
    def forward(self, x):
        return self.b(next(EachWhole([self.a(x)])))


def test_what_no_step_of_the_ladder_reaches_fails():
    model = NotReached().double()
    with pytest.raises(dcs.CheckFailed, match="residual") as raised:
        dcs.transform(model, example_inputs=(rows(),))
    assert "line" in str(raised.value)
    with pytest.raises(dcs.CheckFailed, match="residual"):
        dcs.transform(model, example_inputs=(rows(),), inplace=True)
    assert type(model) is NotReached


def without_source() -> type[Net]:
    """Return a class whose helper has no source, while itself it has."""
    scope = {"torch": torch}
    exec("def helper(x):\n    return torch.tanh(x) + 1", scope)

    class Mixed(Net):
        helper = staticmethod(scope["helper"])

        def forward(self, x):
            h = F.silu(self.a(x))
            return self.b(h * torch.sigmoid(h) + self.helper(h))

    return Mixed


def test_what_has_source_is_rewritten_beside_what_has_none():
    model = without_source()().double()
    surgery = dcs.transform(model, example_inputs=(rows(),))
    assert sorted(line.partition("(")[2] for line in surgery.report.done) == [
        "call intercepted)",
        "call rewritten)",
        "expression rewritten)",
    ]
    h = hand(model.a(rows()))
    torch.testing.assert_close(surgery.model(rows()), model.b(hand(h) + hand(h) + 1))


class Inside(torch.autograd.Function):
    """A layer with an activation in it: its backward knows what its forward applies."""

    @staticmethod
    def forward(x, weight):
        return F.silu(x @ weight.t())

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        h = x @ weight.t()
        s = torch.sigmoid(h)
        d = gradient * (s + h * s * (1 - s))
        return d @ weight, d.t() @ x


class InsideOld(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return F.silu(x @ weight.t())

    @staticmethod
    def backward(ctx, gradient):
        return Inside.backward(ctx, gradient)


@pytest.mark.parametrize("function", [Inside, InsideOld])
def test_a_function_that_is_no_activation_as_a_whole_is_listed_and_fails(function):
    class Layer(Net):
        def forward(self, x):
            return self.b(function.apply(x, self.a.weight))

    model = Layer().double()
    (site,) = dcs.inspect(model, (rows(),))
    assert (site.role, site.operator, site.how, site.editable) == ("activation", "silu", "fused", False)
    assert "backward would stay as it is" in site.reason
    with pytest.raises(dcs.CheckFailed, match=f"autograd.Function {function.__name__}"):
        dcs.transform(model, example_inputs=(rows(),))
    assert dcs.transform(model, example_inputs=(rows(),), exclude=site.name, allow_empty=True).report.ok


class BelowVmap(Net):
    def forward(self, x):
        return self.b(torch.vmap(lambda row: NewStyle.apply(row, 1.0))(self.a(x)))


def test_an_autograd_function_below_vmap_is_replaced_forward_and_backward():
    model = BelowVmap().double()
    edited = dcs.transform(model, example_inputs=(rows(),)).model
    torch.testing.assert_close(edited(rows()), between(model, rows()))
    assert torch.autograd.gradcheck(lambda x: edited(x), (rows().requires_grad_(),))
