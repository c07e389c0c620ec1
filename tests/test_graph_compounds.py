"""Compounds in graphs: several nodes are one activation, found as such and replaced whole; what is none is left alone."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from models.case import hand, rows
from torch import fx, nn

import dcsurgery as dcs
from dcsurgery.capture.nodes import occurrences
from dcsurgery.sites import NodePlace


def graph_of(function):
    """Trace a function between two layers, in float64."""
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
            self.register_buffer("point_five", torch.tensor(0.5))
            self.register_buffer("centres", torch.linspace(0, 1, 4))
            self.weight = nn.Parameter(torch.tensor(1.3))

        def forward(self, x):
            return self.b(function(self, self.a(x)))

    return fx.symbolic_trace(Model().double())


def found(graph):
    return [(o.match.operator.name, o.match.parameters) for o in occurrences(graph.graph)]


COMPOUNDS = {
    "swish": (lambda m, h: h * torch.sigmoid(h), "silu"),
    "swish the other way round": (lambda m, h: h.sigmoid() * h, "silu"),
    "swish by hand": (lambda m, h: h / (1 + torch.exp(-h)), "silu"),
    "shifted softplus": (lambda m, h: F.softplus(h) - math.log(2.0), "softplus"),
    "softplus by hand": (lambda m, h: torch.log(1 + torch.exp(h)), "softplus"),
    "shifted softplus by hand": (lambda m, h: torch.log(m.point_five * torch.exp(h) + 0.5), "softplus"),
    "GELU by hand": (lambda m, h: 0.5 * h * (1 + torch.erf(h / math.sqrt(2))), "gelu"),
    "GELU with the half behind": (lambda m, h: h * (1 + torch.erf(h / math.sqrt(2))) * m.point_five, "gelu"),
    "GELU's other formula": (
        lambda m, h: 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * torch.pow(h, 3)))),
        "gelu",
    ),
    "mish": (lambda m, h: h * torch.tanh(F.softplus(h)), "mish"),
    "leaky ReLU by hand": (lambda m, h: torch.where(h > 0, h, 0.1 * h), "leaky_relu"),
    "ReLU by hand": (lambda m, h: h * (h > 0), "relu"),
    "softsign": (lambda m, h: h / (1 + h.abs()), "softsign"),
    "quick GELU": (lambda m, h: h * torch.sigmoid(1.702 * h), "silu"),
}


@pytest.mark.parametrize("name", COMPOUNDS)
def test_a_compound_is_one_site_and_is_replaced_whole(name):
    function, operator = COMPOUNDS[name]
    graph = graph_of(function)
    assert [o for o, _ in found(graph)] == [operator]
    surgery = dcs.transform(graph, example_inputs=(rows(),))
    (edit,) = surgery.plan.edits
    assert isinstance(edit.place, NodePlace)
    torch.testing.assert_close(surgery.model(rows(6)), graph.b(hand(graph.a(rows(6)))), rtol=1e-13, atol=1e-13)
    assert not len(dcs.inspect(surgery.model))


INNER = {
    "a factor and a summand behind": (lambda m, h: 2 * F.silu(h) + 1, [("silu", {})], lambda h: 2 * hand(h) + 1),
    "a factor before": (lambda m, h: torch.tanh(3 * h), [("tanh", {})], lambda h: hand(3 * h)),
    "a residual connection": (lambda m, h: h + F.gelu(h), [("gelu", {})], lambda h: h + hand(h)),
    "one after the other": (
        lambda m, h: torch.tanh(h * torch.sigmoid(h)),
        [("silu", {}), ("tanh", {})],
        lambda h: hand(hand(h)),
    ),
    "a softplus with another shift": (lambda m, h: F.softplus(h) - 0.5, [("softplus", {})], lambda h: hand(h) - 0.5),
}


@pytest.mark.parametrize("name", INNER)
def test_what_stands_around_an_activation_stays(name):
    function, expected, value = INNER[name]
    graph = graph_of(function)
    assert found(graph) == expected
    edited = dcs.transform(graph, example_inputs=(rows(),)).model
    torch.testing.assert_close(edited(rows(6)), graph.b(value(graph.a(rows(6)))), rtol=1e-13, atol=1e-13)


NONE = {
    "a Gaussian basis": lambda m, h: torch.exp(-2 * (h - m.centres) ** 2),
    "a cosine cutoff": lambda m, h: 0.5 * (torch.cos(h * 0.3) + 1) * (h < 5),
    "a polynomial envelope": lambda m, h: 1 - 3 * h**2 + 2 * h**3,
    "a guard": lambda m, h: torch.sqrt(h.clamp(min=1e-3)),
    "a clamp": lambda m, h: h.clamp(0, 1),
    "a norm of a vector": lambda m, h: h / h.norm(dim=-1, keepdim=True).clamp(min=1e-9),
    "an inverse distance": lambda m, h: 1 / (h.abs() + 0.1),
}


@pytest.mark.parametrize("name", NONE)
def test_bases_cutoffs_and_guards_are_no_activations(name):
    assert found(graph_of(NONE[name])) == []


GATES = {
    "a gate on something else": (lambda m, h: torch.sigmoid(h) * (h + m.centres), [("sigmoid", {})]),
    "a swish that is trained": (lambda m, h: h * torch.sigmoid(m.weight * h), [("sigmoid", {})]),
    "a GLU": (lambda m, h: F.glu(torch.cat([h, h], -1)), [("glu", {})]),
}


@pytest.mark.parametrize("name", GATES)
def test_gates_stay_gates(name):
    function, expected = GATES[name]
    assert found(graph_of(function)) == expected


def used_elsewhere(m, h):
    gate = torch.sigmoid(h)
    return h * gate + gate


def test_a_compound_whose_inside_is_used_elsewhere_is_opened():
    graph = graph_of(used_elsewhere)
    assert found(graph) == [("sigmoid", {})]


def irelus(m, h):
    positive = torch.relu(h + 1)
    return 0.5 * torch.relu(h) ** 2 + positive * positive / 2


def test_what_surgery_has_put_in_is_no_site():
    graph = graph_of(irelus)
    assert not len(dcs.inspect(graph))


class Swish(nn.Module):
    def __init__(self):
        super().__init__()
        self.beta = 1.5

    def forward(self, x):
        return x * torch.sigmoid(self.beta * x)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin, self.act = nn.Linear(3, 3), Swish()

    def forward(self, x):
        return F.silu(self.act(self.lin(x)) + 1) + torch.tanh(x)


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.twice = Layer()

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.twice(self.twice(x))


def test_traced_sites_are_named_after_the_modules_that_they_come_from():
    torch.manual_seed(0)
    model = Stack().double()
    graph = fx.symbolic_trace(model)
    theirs = {site.name: (site.operator, site.runs) for site in dcs.inspect(model, (rows(),))}
    assert {site.name: (site.operator, site.runs) for site in dcs.inspect(graph, (rows(),))} == theirs
    edited, expected = (dcs.transform(m, example_inputs=(rows(),)).model for m in (graph, model))
    torch.testing.assert_close(edited(rows(7)), expected(rows(7)), rtol=1e-13, atol=1e-13)


def test_a_chain_of_many_nodes_is_searched_in_linear_time():
    """The work for a node does not grow with the graph: counted in comparisons of pieces, not in seconds."""
    from dcsurgery.capture import regions as subject

    def pieces(length):
        graph = fx.Graph()
        node = graph.placeholder("x")
        for _ in range(length):
            node = graph.call_function(torch.mul, (graph.call_function(torch.add, (node, 1.0)), node))
        graph.output(node)
        count = 0
        original = subject.region_between

        def counted(*args):
            nonlocal count
            count += 1
            return original(*args)

        subject.region_between = counted
        try:
            subject.regions(graph)
        finally:
            subject.region_between = original
        return count

    assert pieces(400) <= 2.1 * pieces(200)
