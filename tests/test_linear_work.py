"""Work grows no faster than the model: counted in calls, not in seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import dcsurgery as dcs
from dcsurgery.census import take_census
from dcsurgery.checks.structure import check_keys
from dcsurgery.surgery import examine

FEW, TIMES = 16, 4


def calls_of(work: Callable[[], object]) -> int:
    """Return how many functions, Python's and C's, some work calls (each step of a generator is a call)."""
    count = 0

    def note(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def flat(count):
    return nn.Sequential(*(m for _ in range(count) for m in (nn.Linear(2, 2), nn.SiLU(), nn.LayerNorm(2))))


def graph(count):
    drawn, root = fx.Graph(), nn.Module()
    root.layer = nn.Linear(2, 2)
    x = drawn.placeholder("x")
    for _ in range(count):
        x = drawn.call_method("tanh", (drawn.call_function(F.silu, (drawn.call_module("layer", (x,)),)),))
    drawn.output(x)
    return fx.GraphModule(root, drawn)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.act = nn.Linear(2, 2), nn.LayerNorm(2), [torch.tanh]

    def forward(self, x):
        return self.inner(x) + self.act[0](x)

    def inner(self, x):
        return F.silu(self.norm(self.layer(x)))


class Blocks(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(count))
        self.head = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))

    def forward(self, x):
        for block in self.blocks:
            x = block.inner(x)
        return self.head(x)


class Caller(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = Block()

    def forward(self, x):
        return self.inside.inner(x)


class Callers(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.callers = nn.ModuleList(Caller() for _ in range(count))

    def forward(self, x):
        for caller in self.callers:
            x = caller(x)
        return x


def surgery(model, inputs, activation="irelu"):
    census = take_census(model, inputs)
    plan = dcs.plan(model, example_inputs=inputs, activation=activation)
    edited = dcs.apply(model, plan)
    return examine(model, edited, census, inputs, verify=inputs is None)


@pytest.mark.parametrize("make", [flat, graph, Blocks, Callers])
@pytest.mark.parametrize("ran", [False, True], ids=["static", "run"])
def test_a_model_of_four_times_the_size_takes_four_times_the_work(make, ran):
    inputs = (torch.ones(2, 2),) if ran else None
    models = [make(FEW), make(FEW * TIMES)]
    surgery(make(2), inputs)  # what is done once in a process is done
    few, many = (calls_of(lambda m=model: surgery(m, inputs)) for model in models)
    assert many < 1.1 * TIMES * few


def test_keys_are_compared_in_work_that_grows_like_the_model():
    def compare(count):
        model = flat(count)
        plan = dcs.plan(model)
        edited = dcs.apply(model, plan).model
        return calls_of(lambda: check_keys(model, edited, plan.edits))

    compare(2)
    assert compare(8 * FEW) < 1.1 * 8 * compare(FEW)


def test_a_plan_is_written_and_read_in_work_that_grows_like_it():
    plans = [dcs.plan(flat(count)) for count in (FEW, FEW * TIMES)]
    few, many = (calls_of(lambda p=plan: dcs.Plan.from_yaml(p.to_yaml())) for plan in plans)
    assert many < 1.1 * TIMES * few


def test_replacing_by_modules_in_a_graph_takes_work_that_grows_like_it():
    surgery(graph(2), None, nn.Softplus())
    few, many = (calls_of(lambda n=count: surgery(graph(n), None, nn.Softplus())) for count in (FEW, FEW * TIMES))
    assert many < 1.1 * TIMES * few
