"""Activations that are written out are one site each; what only looks like one is left as it is."""

from __future__ import annotations

import ast
import math
import textwrap

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from models import properties
from models.case import Net, between, build, hand, rows
from models.hard_cases import IDIOMS
from models.idioms import Gates, Relus, ShiftedSoftplus, Silu, SiluByModule
from torch import nn

import dcsurgery as dcs
from dcsurgery.idioms import Surroundings, idioms_in


@pytest.mark.parametrize("name", IDIOMS)
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


def found(code: str, module: nn.Module | None = None, **names) -> list[tuple[str, str]]:
    """Return operator and source of every idiom in the body of a function of ``self``, ``x``, ``y`` and ``f``."""
    text = "def function(self, x, y, f):\n" + textwrap.indent(textwrap.dedent(code), "    ")
    scope = {"torch": torch, "F": F, "math": math, **names}
    exec(text, scope)
    (node,) = ast.parse(text).body
    idioms = idioms_in(node, Surroundings.of_function(scope["function"], module))
    lines = text.splitlines()
    return [(i.match.operator.name, lines[s[0] - 1][s[1] : s[3]]) for i in idioms for s in (i.spans[1],)]


@pytest.mark.parametrize(
    ("code", "operator", "source"),
    [
        ("return f(x) / 0.6 * F.silu(f(x)) if 0 else F.silu(f(x)) / 0.6", "silu", "f(x)"),
        ("return (2 * x) * torch.sigmoid(2 * x)", "silu", "2 * x"),
        ("return x[..., 0] * x[..., 0].sigmoid()", "silu", "x[..., 0]"),
        ("return y.h * torch.sigmoid(y.h)", "silu", "y.h"),
        ("return x * torch.sigmoid(x.float()).to(x.dtype)", "silu", "x"),
        ("return (x + x.abs()) / 2", "relu", "x"),
        ("return x * (x > 0).float()", "relu", "x"),
        ("return torch.clamp(x, 0, 6)", "relu6", "x"),
        ("return torch.where(x > 0, x, torch.exp(x) - 1)", "elu", "x"),
        ("return torch.where(x > 0, x, 1.5 * torch.expm1(x))", "elu", "x"),
        ("return torch.logaddexp(x, torch.zeros_like(x))", "softplus", "x"),
        ("return torch.log1p(torch.exp(f(x)))", "softplus", "f(x)"),
        ("return (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x))", "tanh", "x"),
        ("return x * 0.5 * (1.0 + torch.erf(x * 0.7071067811865476))", "gelu", "x"),
        ("return x * ((x + 3).clamp(0, 6) / 6)", "hardswish", "x"),
        ("a = torch.exp(x)\nb = 1 + a\nreturn torch.log(b)", "softplus", "x"),
        ("c = 0.5\nd = c * 2\nreturn d * x * torch.sigmoid(x)", "silu", "x"),
        ("y = x\nreturn [p * torch.sigmoid(p) for p in y]", "silu", "p"),
        ("with f(x) as h:\n    return h * torch.sigmoid(h)", "silu", "h"),
        ("try:\n    return x * torch.sigmoid(x)\nexcept f as e:\n    raise", "silu", "x"),
        ("return f(key=x * torch.sigmoid(x))", "silu", "x"),
        ("return x.sigmoid().mul_(x)", "silu", "x"),
    ],
)
def test_is_one(code, operator, source):
    assert found(code) == [(operator, source)]


@pytest.mark.parametrize(
    "code",
    [
        # gates: another tensor is weighed
        "return torch.sigmoid(x) * y",
        "return x * torch.sigmoid(y * x)",
        "return f(x) * torch.sigmoid(f(x))",  # two evaluations, which dropout tells apart
        "return x * torch.sigmoid(x).detach()",  # the values of one, with another gradient
        "return x * torch.sigmoid(F.dropout(x, training=False))",
        "return x * torch.softmax(x, -1)",
        "return torch.exp(x - x.max())",
        "return torch.exp(x) / (1 + torch.exp(x).sum())",
        # a call with something around it
        "return 2 * F.silu(x) + 1",
        "return x + F.relu(x)",
        "return F.softplus(x) + 1e-3",
        "return F.silu(x) * y",
        "return torch.sigmoid(x) * 2",
        # bases: Gaussians, envelopes, norms
        "return torch.exp(-0.5 * (x / 0.3) ** 2)",
        "return 0.5 * (torch.cos(x * math.pi / 5.0) + 1) * (x < 5.0)",
        "return (1 - x / 5.0).clamp(min=0) ** 2",
        "return (1 - 6 * x**5 + 15 * x**4 - 10 * x**3) * (x < 1.0)",
        "return torch.exp(-5.0 / x) / x",
        # guards
        "return x.pow(2).sum(-1).clamp(min=0).sqrt()",
        "return torch.sqrt(torch.clamp(x, min=0))",
        "return y / x.clamp(min=0)",
        "return torch.acos(x.clamp(-1, 1))",
        "return x.clamp(0, 1)",
        "return x.clamp(min=1e-8)",
        "h = x.clamp(min=0)\nreturn torch.log(h)",
        "d = torch.linalg.norm(x, dim=-1)\nreturn d.clamp(min=0)",
        "return y[(x - 1).clamp(min=0)]",
        "return y.index_select(0, x.clamp(min=0))",
        # what is not what it seems when it runs
        "x.sigmoid_()\nreturn x * 2",
        "return x * x.sigmoid_()",
        "return torch.sigmoid(x, out=y) * x",
    ],
)
def test_is_none(code):
    assert found(code) == []


@pytest.mark.parametrize(
    "between_the_two",
    [
        "x = f(x)",  # bound anew
        "f(x)",  # may be an activation in place
        "x.add_(1)",
        "x += 1",
        "x[0] = 1",
        "if y:\n    x = x + 1",
        "del y",
    ],
)
def test_a_name_is_not_looked_through_where_its_source_may_have_changed(between_the_two):
    assert found(f"s = torch.sigmoid(x)\n{between_the_two}\nreturn x * s") == []
    assert found("s = torch.sigmoid(x)\nz = y + 1\nreturn x * s + z") == [("silu", "x")]


@pytest.mark.parametrize(
    "code",
    [
        "s = torch.sigmoid(x)\nreturn x * s + s",  # used elsewhere, too
        "s = torch.sigmoid(x)\nreturn f(x) + x * s",  # f may change x before it is read
        "s = torch.sigmoid(x)\nif y:\n    s = y\nreturn x * s",
        "s = torch.sigmoid(x)\nreturn lambda: x * s",
        "s = torch.sigmoid(x)\nz = x * s\nreturn locals()",
        "s = torch.sigmoid(x)\nfor _ in y:\n    x = x * s\nreturn x",
        "s = torch.sigmoid(x)\ndef g():\n    return s\nz = x * s\nreturn z + g()",
        "if y:\n    s = torch.sigmoid(x)\nelse:\n    s = 1\nreturn x * s",
    ],
)
def test_a_name_is_not_looked_through_where_it_means_more(code):
    assert found(code) == []


def test_parameters_are_no_data():
    """Softplus of a scale keeps it positive."""
    net = Net()
    net.scale = nn.Parameter(torch.ones(4))
    net.register_buffer("shift", torch.ones(4))
    assert found("return torch.log(1 + torch.exp(self.scale)) * x", net) == []
    assert found("s = self.scale\nreturn torch.log(1 + torch.exp(s)) * x", net) == []
    assert found("return torch.log(1 + torch.exp(self.shift)) * x", net) == []
    assert found("return x * torch.sigmoid(self.scale * x)", net) == []  # a gain that is learned
    assert found("return torch.log(1 + torch.exp(self.other)) * x", net) == [("softplus", "self.other")]


def test_settings_of_the_module_are_part_of_the_curve():
    net = Net()
    net.slope = 0.3
    code = "return torch.where(x > 0, x, self.slope * x)"
    assert found(code, net) == [("leaky_relu", "x")]
    net.slope = 1.0
    assert found(code, net) == []
    one, two = Relus(), Relus()
    two.slope = 0.4
    model = nn.Sequential(one, nn.Linear(2, 3), two).double()
    slopes = [s.parameters["negative_slope"] for s in dcs.inspect(model, (rows(),)) if s.operator == "leaky_relu"]
    assert slopes == [0.2, 0.2, 0.4, 0.4]


def test_is_one_site_with_its_place():
    census = dcs.inspect(build(IDIOMS["silu"]), (rows(),))
    assert [(s.name, s.role, s.operator, s.how, s.runs) for s in census] == [
        ("forward@silu", "activation", "silu", "idiom", 1),
        ("forward@softplus", "activation", "softplus", "function", 1),
    ]
    assert census["forward@silu"].match == "behaves as silu(x)"
    assert census["forward@silu"].where.endswith(f"idioms.py:{Silu.forward.__code__.co_firstlineno + 2}")


def test_real_gates_stay_gates():
    census = dcs.inspect(Gates().double(), (rows(),))
    assert [(s.operator, s.role, s.how) for s in census] == [
        ("sigmoid", "gate", "function"),
        ("sigmoid", "gate", "idiom"),
        ("sigmoid", "gate", "idiom"),
        ("silu", "activation", "function"),
    ]


def test_the_report_says_how_it_was_realised():
    done = dcs.transform(Silu().double(), denorm=False, example_inputs=(rows(),)).report.done
    assert done == (
        "~ forward@silu: silu => irelu (expression rewritten)",
        "~ forward@softplus: softplus => irelu (call rewritten)",
    )


def test_a_plan_survives_its_file():
    model = build(IDIOMS["over three lines"])
    plan = dcs.plan(model, denorm=False)
    assert dcs.Plan.from_yaml(plan.to_yaml()) == plan
    assert len(plan.edits[0].place.chains[0][-1].written) == 4
    edited = dcs.apply(model, dcs.Plan.from_yaml(plan.to_yaml())).model
    torch.testing.assert_close(edited(rows()), IDIOMS["over three lines"].by_hand(model, rows()))


def test_calls_have_no_such_entry_in_a_plan():
    assert "written" not in dcs.plan(nn.Sequential(build(IDIOMS["silu"])), include="op:softplus").to_yaml()


class Counting(Net):
    """Says how often its source was evaluated, and in which order."""

    def forward(self, x):
        order = []

        def note(name, value):
            order.append(name)
            return value

        y = note("a", 1.0) + F.softplus(note("b", self.a(x))) - math.log(2.0) + note("c", 0.0)
        self.order = order
        return self.b(y)


def test_the_source_is_evaluated_once_and_in_its_turn():
    class Once(ShiftedSoftplus):
        pass

    model = Once().double()
    calls = []
    model.a.register_forward_hook(lambda *_: calls.append(1))
    edited = dcs.transform(model, example_inputs=(rows(),)).model
    calls.clear()
    edited(rows())
    assert len(calls) == 1
    counting = Counting().double()
    edited = dcs.transform(counting, example_inputs=(rows(),)).model
    edited(rows())
    assert edited.order == ["a", "b", "c"]


class OfAnything(nn.Module):
    def forward(self, x):
        return x * (1 / (1 + torch.exp(-torch.as_tensor(x, dtype=torch.float64))))


class Positive(nn.Module):
    def forward(self, x):
        return x * (x > 0)


def test_what_is_no_float_tensor_goes_through_the_original():
    edited = dcs.transform(Positive(), example_inputs=(rows(),)).model
    torch.testing.assert_close(edited(rows()), hand(rows()))
    counts = torch.tensor([-2, 3])
    assert torch.equal(edited(counts), torch.tensor([0, 3]))
    assert edited(3) == 3
    assert edited(-3.5) == 0


def test_a_module_that_is_the_gate_is_not_called_any_more_there():
    """It stays where it is, for whatever else uses it."""
    model = SiluByModule().double()
    calls = []
    model.gate.register_forward_hook(lambda *_: calls.append(1))
    surgery = dcs.transform(model, example_inputs=(rows(),))
    calls.clear()
    surgery.model(rows())
    assert calls == []
    assert isinstance(surgery.model.gate, nn.Sigmoid)
    assert dcs.inspect(model, (rows(),))["gate"].runs == 0


class Both(SiluByModule):
    def forward(self, x):
        h = self.a(x)
        return self.b(h * self.gate(h) + self.gate(h))


def test_a_module_that_is_a_gate_elsewhere_stays_one_there():
    model = Both().double()
    census = dcs.inspect(model, (rows(),))
    assert {s.name: (s.role, s.runs) for s in census} == {"gate": ("gate", 1), "forward@silu": ("activation", 1)}
    edited = dcs.transform(model, example_inputs=(rows(),)).model
    h = model.a(rows())
    torch.testing.assert_close(edited(rows()), model.b(hand(h) + torch.sigmoid(h)))


def test_other_activations_can_take_the_place():
    model = Silu().double()
    edited = dcs.transform(model, activation=nn.GELU(), include="op:silu", example_inputs=(rows(),)).model
    h = model.a(rows())
    torch.testing.assert_close(edited(rows()), model.b(F.gelu(h) + F.softplus(h)))


def test_third_derivatives_are_those_of_the_new_activation():
    model = build(IDIOMS["shifted softplus"])
    edited = dcs.transform(model, activation=nn.Tanh(), example_inputs=(rows(),)).model

    def third(f):
        x = rows().requires_grad_()
        y = f(x).sum()
        for _ in range(3):
            (g,) = torch.autograd.grad(y, x, create_graph=True)
            y = (g**2).sum()
        return g

    torch.testing.assert_close(third(edited), third(lambda x: model.b(torch.tanh(model.a(x)))))


def test_a_second_surgery_finds_nothing_left():
    edited = dcs.transform(build(IDIOMS["silu"]), example_inputs=(rows(),)).model
    assert not dcs.inspect(edited, (rows(),)).activations
    assert not dcs.inspect(edited).activations


def test_no_inputs_are_needed():
    model = Silu().double()
    edited = dcs.transform(model).model
    torch.testing.assert_close(edited(rows()), model.b(2 * hand(model.a(rows()))))
    assert between(model, rows()).shape == (5, 2)


class Checkpointed(Net):
    def forward(self, x):
        h = torch.utils.checkpoint.checkpoint(self.part, x, use_reentrant=False)
        return self.b(h)

    def part(self, x):
        h = self.a(x)
        return h * torch.sigmoid(h)


def test_works_in_a_checkpoint_and_the_witness_says_that_it_does_not():
    model = Checkpointed().double()
    surgery = dcs.transform(model, example_inputs=(rows(),))
    x = rows().requires_grad_()
    (found,) = torch.autograd.grad(surgery.model(x).sum(), x)
    (expected,) = torch.autograd.grad(between(model, x).sum(), x)
    torch.testing.assert_close(found, expected)
    (witness,) = [check for check in surgery.report if check.name == "value witness"]
    assert witness.status == "skip"
    assert "checkpoint" in witness.reason


def test_compiles_without_a_break():
    edited = dcs.transform(build(IDIOMS["gelu"]), example_inputs=(rows(),)).model
    compiled = torch.compile(edited, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(rows()), edited(rows()))
    torch.compiler.reset()


def test_can_be_traced_symbolically_after_the_edit():
    edited = dcs.transform(build(IDIOMS["over two lines"]), example_inputs=(rows(),)).model
    traced = torch.fx.symbolic_trace(edited)
    assert not {"sigmoid", "mul"} & {str(node.target) for node in traced.graph.nodes}
    torch.testing.assert_close(traced(rows()), edited(rows()))


def test_is_one_node_in_a_diff():
    text = dcs.transform(build(IDIOMS["gelu by tanh"]), example_inputs=(rows(),)).diff().to_text()
    assert "forward@gelu  gelu => irelu" in text
    assert "1 replaced" in text
