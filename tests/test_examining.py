"""The exam's harness sees what it has to see: each judgement fails on a surgery with that very fault."""

import copy
from pathlib import Path

import pytest
import torch
from exam import examining
from exam.case import Case, build, normal
from exam.examining import JUDGEMENTS, judge
from exam.explained import EXPLAINED
from exam.running import bits, curvature, equal_bits
from exam.scoring import Scores
from torch import nn

import dcsurgery as dcs
from dcsurgery.report import Check


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.act, self.b = nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)

    def forward(self, x):
        return {"y": self.b(self.act(self.norm(self.a(x))))}


CASE = Case("small", "net", Small, lambda: (normal(5, 3),), edits=2)


def failed(case=CASE):
    return {j.name for j in judge(case).failures}


def with_fault(monkeypatch, fault):
    """Let `transform` return a surgery with a fault."""
    transform = dcs.transform

    def faulty(model, *args, **kwargs):
        surgery = transform(model, *args, **kwargs)
        if surgery.plan.edits or kwargs.get("irelu", True) is False:
            fault(surgery)
        return surgery

    monkeypatch.setattr(dcs, "transform", faulty)


def test_a_good_surgery_passes_every_judgement():
    verdict = judge(CASE)
    assert not verdict.failures
    assert {j.name for j in verdict.judgements} == set(JUDGEMENTS) - {"by hand"}
    assert {j.name for j in verdict.judgements if j.status == "skip"} <= {"value witness"}


def test_the_number_of_edits_is_judged():
    assert failed(Case("small", "net", Small, CASE.inputs, edits=1)) == {"sites"}
    assert failed(Case("small", "net", lambda: nn.Linear(3, 1), CASE.inputs)) == {"sites"}
    assert failed(Case("small", "net", lambda: nn.Linear(3, 1), CASE.inputs, edits=0)) == set()


@pytest.mark.parametrize(
    ("check", "judgement"),
    [
        ("residual", "residual"),
        ("known sites", "residual"),
        ("other sites", "residual"),
        ("graph equals plan", "residual"),
        ("value witness", "value witness"),
        ("keys", "keys"),
        ("reload", "reload"),
        ("finite", "checks"),
        ("gradcheck", "checks"),
    ],
)
def test_a_failed_check_of_the_report_is_a_failed_judgement(monkeypatch, check, judgement):
    def fault(surgery):
        surgery.report = surgery.report.extended([Check(check, "fail", reason="planted")])

    with_fault(monkeypatch, fault)
    assert failed() == {judgement}


def test_a_surgery_that_is_refused_is_a_failure():
    class Reduced(Small):
        def __reduce__(self):
            return (Reduced, ())

        def forward(self, x):
            return torch.relu(super().forward(x)["y"])

    assert "residual" in failed(Case("small", "net", Reduced, CASE.inputs))


def test_an_error_out_of_dcsurgery_is_a_failure(monkeypatch):
    def broken(model, **options):
        if options.get("irelu", True):
            raise ZeroDivisionError("planted")
        return transform(model, **options)

    transform = dcs.transform
    monkeypatch.setattr(dcs, "transform", broken)
    assert [j.reason for j in judge(CASE).failures] == ["ZeroDivisionError: planted"]


def test_what_dcsurgery_finds_wrong_is_judged_all_the_same():
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            return torch.relu(x) * y

        @staticmethod
        def backward(ctx, gradient):
            return gradient, gradient

    class Opaque(nn.Module):
        def forward(self, x):
            return Doubled.apply(x, x)

    found = judge(Case("small", "net", Opaque, CASE.inputs))
    assert "residual" in {j.name for j in found.failures}
    assert {j.name for j in found.judgements} == set(JUDGEMENTS) - {"by hand"}


def test_a_changed_weight_fails_keys(monkeypatch):
    def fault(surgery):
        with torch.no_grad():
            surgery.model.a.weight[0, 0] += 1e-9

    with_fault(monkeypatch, fault)
    assert failed() == {"keys", "identity"}


def test_an_empty_plan_that_changes_a_bit_fails_identity(monkeypatch):
    def fault(surgery):
        if not surgery.plan.edits:
            surgery.model.b.bias.data[0] *= 1 + 1e-15

    with_fault(monkeypatch, fault)
    assert failed() == {"identity"}


def test_an_undo_that_leaves_an_edit_fails(monkeypatch):
    apply = dcs.apply

    def faulty(model, plan, *, inplace=False):
        surgery = apply(model, plan, inplace=inplace)
        if inplace:
            undo = surgery.undo

            def leaving():
                model = undo()
                model.act = nn.SiLU()
                return model

            surgery.undo = leaving
        return surgery

    monkeypatch.setattr(dcs, "apply", faulty)
    assert failed() == {"undo"}


def test_a_model_that_is_another_after_reading_fails_reload(monkeypatch):
    restored = examining._restored

    def faulty(model):
        read = restored(model)
        read.b.bias.data[0] *= 1 + 1e-15
        return read

    monkeypatch.setattr(examining, "_restored", faulty)
    assert failed() == {"reload"}


def test_a_wrong_second_derivative_fails_double_backward():
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return gradient * 3 * x.detach() ** 2

    class Wrong(nn.Module):
        def forward(self, x):
            return Halved.apply(x)

    exact, difference, size = curvature(Wrong(), (normal(5, 3),))
    assert abs(exact - difference) > 0.1 * size
    exact, difference, size = curvature(Small().double(), (normal(5, 3),))
    assert abs(exact - difference) < 1e-7 * size


def test_equal_bits_sees_the_last_bit_and_takes_nan_for_equal():
    a = torch.tensor([1.0, float("nan")], dtype=torch.float64)
    assert equal_bits([a, None], [a.clone(), None])
    assert not equal_bits([a], [a * (1 + 1e-15)])
    assert not equal_bits([a], [a.float()])
    assert not equal_bits([a], [None])
    assert not equal_bits([a], [a, a])


def test_running_leaves_a_model_and_its_inputs_alone():
    model, inputs = build(Case("small", "net", lambda: nn.BatchNorm1d(3), CASE.inputs))
    before, x = copy.deepcopy(model.state_dict()), inputs[0].clone()
    first = bits(model, inputs, training=True)
    curvature(model, inputs)
    assert equal_bits(bits(model, inputs, training=True), first)
    assert not equal_bits(bits(model, inputs, training=False), first)
    assert not model.training
    assert torch.equal(inputs[0], x)
    assert not inputs[0].requires_grad
    assert equal_bits(list(model.state_dict().values()), list(before.values()))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("explained", "standing"), [({}, "failed"), ({"small: net": "no reason"}, "explained")])
def test_the_table_counts_every_verdict_once(explained, standing):
    scores = Scores(explained)
    scores.add(judge(CASE))
    scores.add(judge(Case("small", "net", Small, CASE.inputs, edits=5)))
    table = list(scores.lines())
    assert scores.standing(judge(Case("small", "net", Small, CASE.inputs, edits=5))) == standing
    total = next(line for line in table if line.startswith("total")).split()
    assert total[1:5] == ["2", "1", *(("1", "0") if standing == "failed" else ("0", "1"))]


def test_every_explanation_stands_in_the_limits_page():
    page = " ".join((Path(__file__).parents[1] / "docs/limits.md").read_text(encoding="utf-8").split())
    assert not [reason for reason in EXPLAINED.values() if reason not in page]
