"""Code without source is edited while it runs; what cannot be edited at all is named, and the surgery fails."""

from __future__ import annotations

import copy
import io
import pickle
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from models.case import Net, hand, rows
from torch import Tensor, nn

import dcsurgery as dcs
from dcsurgery.errors import CheckFailed, Refused
from dcsurgery.interception import InterceptCalls
from dcsurgery.rewriting import CallEdit
from dcsurgery.sites import CallStep
from dcsurgery.subclass import amend, amendments_of

SOURCE = """
import torch
import torch.nn.functional as F
from torch import nn


def dense(layer, x):
    return F.silu(layer(x)) + 1


def swish(x):
    return x * torch.sigmoid(x)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.b = nn.Linear(4, 2)


class Function(Base):
    def forward(self, x):
        return self.b(F.silu(self.a(x)))


class Method(Base):
    def forward(self, x):
        return self.b(self.a(x).tanh())


class InPlace(Base):
    def forward(self, x):
        h = self.a(x)
        h.relu_()
        F.elu(h, inplace=True)
        return self.b(h)


class Helper(Base):
    def forward(self, x):
        return self.b(dense(self.a, x))


class Norm(Base):
    def forward(self, x):
        return self.b(F.silu(F.layer_norm(self.a(x), (4,))))


class Mapped(Base):
    def forward(self, x):
        return self.b(sum(map(F.silu, [self.a(x), self.a(-x)])))


class Comprehension(Base):
    def forward(self, x):
        return self.b(sum([F.silu(h) for h in (self.a(x), self.a(-x))]))


class Gated(Base):
    def forward(self, x):
        return self.b(F.silu(self.a(x)) * torch.sigmoid(self.a(x)))


class Twice(Base):
    def forward(self, x):
        return self.b(F.silu(self.a(x)) + F.silu(self.a(-x)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return F.silu(self.layer(x))


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Block()
        self.second = Block()

    def forward(self, x):
        return torch.tanh(self.second(self.first(x)))


class Tower(nn.Module):
    def __init__(self, levels=2):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.inner = Tower(levels - 1) if levels else None

    def forward(self, x):
        return F.silu(self.layer(x if self.inner is None else self.inner(x)))


class Fails(Base):
    def forward(self, x):
        h = F.silu(self.a(x))
        if x.shape[0] == 7:
            raise ValueError("seven")
        return self.b(h)
"""
NAME = "a_module_without_source"


@pytest.fixture(scope="module", autouse=True)
def sourceless():
    """Classes as `exec` makes them: importable by name, for pickle, and without a line of source."""
    module = types.ModuleType(NAME)
    exec(compile(SOURCE, "<made at run time>", "exec"), vars(module))
    sys.modules[NAME] = module
    yield module
    del sys.modules[NAME]


def between(m, x):
    return m.b(hand(m.a(x)))


def both(m, x):
    return m.b(hand(m.a(x)) + hand(m.a(-x)))


BY_HAND = {
    "Function": between,
    "Method": between,
    "InPlace": lambda m, x: m.b(hand(hand(m.a(x)))),
    "Helper": lambda m, x: m.b(hand(m.a(x)) + 1),
    "Norm": between,
    "Mapped": both,
    "Comprehension": both,
    "Gated": lambda m, x: m.b(hand(m.a(x)) * torch.sigmoid(m.a(x))),
    "Twice": both,
    "Nested": lambda m, x: hand(hand(m.second.layer(hand(m.first.layer(x))))),
}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return getattr(sys.modules[NAME], name)().double()


def transformed(name: str, **options) -> tuple[nn.Module, nn.Module]:
    model = made(name)
    surgery = dcs.transform(model, example_inputs=(rows(),), **options)
    assert all("(call intercepted)" in line for line in surgery.report.done), surgery.report
    return model, surgery.model


@pytest.mark.parametrize("name", BY_HAND)
def test_code_without_source_is_edited_while_it_runs(name):
    model, edited = transformed(name)
    x, y = rows().requires_grad_(), rows().requires_grad_()
    found, expected = edited(x), BY_HAND[name](model, y)
    torch.testing.assert_close(found, expected)
    (one,) = torch.autograd.grad(found.square().sum(), x, create_graph=True)
    (two,) = torch.autograd.grad(expected.square().sum(), y, create_graph=True)
    torch.testing.assert_close(one, two)
    twice = torch.autograd.grad(one.square().sum(), (x, *edited.parameters()))
    reference = torch.autograd.grad(two.square().sum(), (y, *model.parameters()))
    for mine, theirs in zip(twice, reference, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", BY_HAND)
def test_it_comes_back_from_copies_and_files(name):
    model, edited = transformed(name)
    stream = io.BytesIO()
    torch.save(edited, stream)
    stream.seek(0)
    restored = torch.load(stream, weights_only=False)
    expected = edited(rows())
    assert torch.equal(restored(rows()), expected)
    assert torch.equal(copy.deepcopy(edited)(rows()), expected)
    assert isinstance(restored, type(model))
    assert list(edited.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize(
    ("include", "left", "right"), [("forward@silu", hand, F.silu), ("forward@silu#2", F.silu, hand)]
)
def test_only_the_chosen_call_is_replaced(include, left, right):
    model, edited = transformed("Twice", include=include)
    torch.testing.assert_close(edited(rows()), model.b(left(model.a(rows())) + right(model.a(-rows()))))


@pytest.mark.parametrize("chosen", ["first", "second"])
def test_only_the_chosen_instance_is_edited(chosen):
    model, edited = transformed("Nested", include=chosen)
    first, second = (hand, F.silu) if chosen == "first" else (F.silu, hand)
    expected = torch.tanh(second(model.second.layer(first(model.first.layer(rows())))))
    torch.testing.assert_close(edited(rows()), expected)


def test_a_parents_edit_does_not_reach_into_its_children():
    model, edited = transformed("Nested", include="op:tanh")
    expected = hand(F.silu(model.second.layer(F.silu(model.first.layer(rows())))))
    torch.testing.assert_close(edited(rows()), expected)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_same_code_in_a_child_is_the_childs(level):
    include = ".".join(["inner"] * level + ["forward@silu"])
    model, edited = transformed("Tower", include=include)
    x, inner, middle = rows(), model.inner.inner, model.inner
    acts = [hand if level == n else F.silu for n in range(3)]
    expected = acts[0](model.layer(acts[1](middle.layer(acts[2](inner.layer(x))))))
    torch.testing.assert_close(edited(x), expected)


def test_nothing_is_watched_after_an_exception():
    _, edited = transformed("Fails")
    with pytest.raises(ValueError, match="seven"):
        edited(rows(7))
    assert torch._C._len_torch_function_stack() == 0
    torch.testing.assert_close(F.silu(rows()), rows() * torch.sigmoid(rows()))


def test_other_operators_at_the_same_place_run_as_they_are():
    model = made("Function")
    code = type(model).forward.__code__
    plan = dcs.plan(model, example_inputs=(rows(),))
    (step,) = plan.edits[0].place.chains[0]
    assert step == CallStep("<made at run time>:Function.forward", code.co_firstlineno, step.end)
    expected = model(rows())
    undo = amend(model, InterceptCalls((CallEdit(plan.edits[0].place.chains, "layer_norm", None),)))
    assert torch.equal(model(rows()), expected), "the plan says layer_norm, the call is a silu"
    undo()
    assert amendments_of(model) == ()


def test_the_amendment_is_a_small_value():
    chains = dcs.plan(made("Function"), example_inputs=(rows(),)).edits[0].place.chains
    one = InterceptCalls((CallEdit(chains, "silu", "irelu"),))
    assert pickle.loads(pickle.dumps(one)) == one
    assert hash(one) == hash(InterceptCalls((CallEdit(chains, "silu", "irelu"),)))


# -- what cannot be edited -----------------------------------------------------------------------------------------


def doubled(x: Tensor) -> Tensor:
    return x * 2.0


class Forks(nn.Module):
    """TorchScript that is not imported: a part of it runs asynchronously."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        later = torch.jit.fork(doubled, x)
        return torch.tanh(F.silu(self.lin(x))) + torch.jit.wait(later)


class HoldsScript(Net):
    def __init__(self):
        super().__init__()
        self.child = nn.Sequential(torch.jit.script(Forks()))

    def forward(self, x):
        return self.b(F.relu(self.child(self.a(x))))


def test_a_torchscript_child_is_named_and_fails_the_surgery():
    with pytest.raises(CheckFailed, match=r"residual.*child\.0@(silu|tanh) \(not edited\)") as caught:
        dcs.transform(HoldsScript().double(), example_inputs=(rows(),))
    report = caught.value.report
    assert any(line.startswith("forward@relu") or "forward@relu" in line for line in report.done)
    for operator in ("silu", "tanh"):
        assert any(f"child.0@{operator}" in line and "TorchScript" in line for line in report.left_alone)


def test_a_torchscript_child_can_be_left_out():
    model = HoldsScript().double()
    edited = dcs.transform(model, example_inputs=(rows(),), exclude="child").model
    torch.testing.assert_close(edited(rows()), model.b(hand(model.child(model.a(rows())))))


class RowSum(torch.autograd.Function):
    """No elementwise function: it cannot be replaced whole, and its backward is its own."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.silu(x).sum(-1, keepdim=True)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (s + x * s * (1 - s))


class HoldsAutogradFunction(Net):
    def forward(self, x):
        return self.b(torch.tanh(self.a(x))) + RowSum.apply(self.a(x))


def test_an_activation_inside_an_autograd_function_is_named_and_fails_the_surgery():
    with pytest.raises(CheckFailed, match=r"autograd\.Function RowSum \(not edited\)") as caught:
        dcs.transform(HoldsAutogradFunction().double(), example_inputs=(rows(),))
    report = caught.value.report
    assert any("forward@tanh" in line for line in report.done)
    assert any("autograd.Function RowSum" in line and "not yet edited" in line for line in report.left_alone)


def test_undoing_follows_a_failed_surgery_in_place():
    model = HoldsAutogradFunction().double()
    before = model(rows())
    with pytest.raises(CheckFailed):
        dcs.transform(model, example_inputs=(rows(),), inplace=True)
    assert type(model) is HoldsAutogradFunction
    assert torch.equal(model(rows()), before)


class OwnReduce(Net):
    def __reduce__(self):
        return (OwnReduce, ())

    def forward(self, x):
        return self.b(F.silu(self.a(x)))


def test_a_class_that_no_edit_can_be_saved_of_is_refused_and_left_as_it_was():
    model = OwnReduce()
    with pytest.raises(Refused, match="defines __reduce__"):
        dcs.transform(model, example_inputs=(rows().float(),), inplace=True)
    assert type(model) is OwnReduce
