"""Random networks that mix every way of writing an activation: edited, they equal a reference written without any."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import dcsurgery as dcs

WIDTH = 5


def swish(x):
    return x * torch.sigmoid(x)


def shifted(x):
    return F.softplus(x) - torch.log(torch.tensor(2.0, dtype=x.dtype))


def through_helper(x):
    return F.mish(x)


def make_closure(function):
    def inner(x):
        return function(x)

    return inner


# Ways of writing one activation; each is a method of Layer below.
WAYS = (
    "module",
    "inplace_module",
    "functional",
    "method",
    "inplace_method",
    "attribute",
    "item",
    "lambda_attribute",
    "partial",
    "on_the_fly",
    "local_name",
    "table",
    "comprehension",
    "user_function",
    "helper",
    "closure",
    "two_in_one_line",
    "keyword",
    "branch",
)
NORMS = (None, "layer", "batch", "functional")


@dataclass(frozen=True)
class Spec:
    """One layer: how its activation is written, which norm it has, and whether it is a residual."""

    way: str
    norm: str | None
    residual: bool


class Layer(nn.Module):
    """Linear layer, norm, activation, written as its spec says."""

    TABLE = staticmethod({"silu": F.silu, "elu": F.elu}.get)

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.norm = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}.get(spec.norm or "", lambda _: None)(WIDTH)
        if spec.way == "module":
            self.act = nn.Softplus()
        elif spec.way == "inplace_module":
            self.act = nn.ReLU(inplace=True)
        elif spec.way == "attribute":
            self.act = torch.tanh
        elif spec.way == "item":
            self.acts = [F.relu, {"deep": F.gelu}]
        elif spec.way == "lambda_attribute":
            self.act = lambda x: 1.5 * F.silu(x)
        elif spec.way == "partial":
            self.act = functools.partial(F.leaky_relu, negative_slope=0.2)
        elif spec.way == "closure":
            self.act = make_closure(F.hardswish)

    def activate(self, x):
        way = self.spec.way
        if way in ("module", "inplace_module", "attribute", "lambda_attribute", "partial", "closure"):
            return self.act(x)
        if way == "functional":
            return F.selu(x)
        if way == "method":
            return x.tanh()
        if way == "inplace_method":
            return x.relu_()
        if way == "item":
            return self.acts[1]["deep"](x)
        if way == "on_the_fly":
            return nn.Softplus()(x)
        if way == "local_name":
            act = torch.celu
            return act(x)
        if way == "table":
            return self.TABLE("silu")(x)
        if way == "comprehension":
            return torch.stack([F.silu(part) for part in x])
        if way == "user_function":
            return swish(x) if x.dim() == 2 else shifted(x)
        if way == "helper":
            return through_helper(x)
        if way == "two_in_one_line":
            return F.silu(F.gelu(x))
        if way == "keyword":
            return F.elu(input=x, alpha=0.5)
        return F.silu(x) if x.sum() > 1e9 else torch.nn.functional.gelu(x)

    def forward(self, x):
        y = self.linear(x)
        if self.norm is not None:
            y = self.norm(y)
        elif self.spec.norm == "functional":
            y = F.layer_norm(y, (WIDTH,))
        y = self.activate(y)
        return x + y if self.spec.residual else y


class Network(nn.Module):
    """Layers and a head."""

    def __init__(self, specs: tuple[Spec, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(spec) for spec in specs)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def reference(network: Network, x: torch.Tensor) -> torch.Tensor:
    """What the edited network must compute: no norm, IReLU for every activation."""

    def irelu(t):
        return 0.5 * torch.where(t > 0, t, torch.zeros_like(t)) ** 2

    for layer in network.layers:
        y = irelu(layer.linear(x))
        y = irelu(y) if layer.spec.way == "two_in_one_line" else y
        x = x + y if layer.spec.residual else y
    return network.head(x)


SPECS = st.lists(
    st.builds(Spec, st.sampled_from(WAYS), st.sampled_from(NORMS), st.booleans()), min_size=1, max_size=4
).map(tuple)
SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _network(specs: tuple[Spec, ...]) -> tuple[Network, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network(specs).double().eval()
        return network, torch.randn(4, WIDTH, dtype=torch.float64)


@SETTINGS
@given(SPECS)
def test_an_edited_network_computes_what_the_reference_does(specs):
    network, x = _network(specs)
    surgery = dcs.transform(network, example_inputs=(x,))
    assert surgery.report.ok
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine, theirs = surgery.model(x1), reference(network, x2)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    (grad_mine,) = torch.autograd.grad(mine.sum(), x1, create_graph=True)
    (grad_theirs,) = torch.autograd.grad(theirs.sum(), x2, create_graph=True)
    torch.testing.assert_close(grad_mine, grad_theirs, rtol=1e-11, atol=1e-11)
    if grad_mine.requires_grad and grad_theirs.requires_grad:
        second_mine = torch.autograd.grad(grad_mine.square().sum(), x1, allow_unused=True)[0]
        second_theirs = torch.autograd.grad(grad_theirs.square().sum(), x2, allow_unused=True)[0]
        torch.testing.assert_close(second_mine, second_theirs, rtol=1e-10, atol=1e-10)


@SETTINGS
@given(SPECS)
def test_an_empty_plan_is_the_identity_in_train_and_eval(specs):
    network, x = _network(specs)
    edited = dcs.transform(network, irelu=False, denorm=False, example_inputs=(x,)).model
    for training in (True, False):
        pairs = []
        for model in (network, edited):
            model.train(training)
            given_x = x.clone().requires_grad_()
            output = model(given_x)
            pairs.append(
                [output, *torch.autograd.grad(output.sum(), [given_x, *model.parameters()], allow_unused=True)]
            )
        assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(*pairs, strict=True))


@pytest.mark.parametrize("way", [way for way in WAYS if way != "table"])  # which entry is looked up, only a run shows
@pytest.mark.parametrize("norm", NORMS)
def test_each_way_of_writing_is_found_without_example_inputs_where_source_shows_it(way, norm):
    network, x = _network((Spec(way, norm, residual=True),))
    edited = dcs.transform(network, example_inputs=None).model
    torch.testing.assert_close(edited(x.clone()), reference(network, x), rtol=1e-12, atol=1e-12)
