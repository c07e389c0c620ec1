"""Without running anything, the same calls are found that a run finds, and those on branches that no run reached."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from models import properties
from models.case import Net, build, hand, rows
from models.hard_cases import ALL
from models.structure import Branches
from torch import nn

import dcsurgery as dcs
from dcsurgery.capture.places import Places
from dcsurgery.capture.scanning import scan, unwrapped
from dcsurgery.census import take_census

STATIC = [name for name, case in ALL.items() if case.static]
DYNAMIC = [name for name, case in ALL.items() if not case.static]


@pytest.mark.parametrize("name", STATIC)
def test_what_a_run_finds_is_found_and_edited_without_one(name):
    properties.is_read_off_the_source(name)


def test_few_ways_of_writing_need_a_run():
    """The list is kept short on purpose: what is on it cannot be read off the source."""
    assert sorted(DYNAMIC) == [
        "Enum member that is called",
        "function passed to a child",
        "getattr with a variable",
        "iterator of the user's",
        "map",
        "map unpacked",
        "method caller",
        "method of a helper object",
        "next of the user's",
        "operator of the user's",
        "other containers",
        "partial in an Enum",
        "partialmethod",
        "single dispatch",
    ]


@pytest.mark.parametrize("name", DYNAMIC)
def test_what_needs_a_run_is_not_taken_for_proven_without_one(name):
    report = dcs.transform(build(ALL[name]), allow_empty=True).report
    assert [c.status for c in report if c.name == "residual"] == ["skip"]
    assert any("nothing was run" in warning for warning in report.warnings)


class Unrunnable(Net):
    """Its code must not be run to be read."""

    def forward(self, x):
        raise RuntimeError("run")
        return self.b(F.silu(self.a(x)))


def test_nothing_is_run():
    assert [s.name for s in dcs.inspect(Unrunnable())] == ["forward@silu"]


def test_branches_that_were_not_reached_are_listed_with_no_runs():
    census = dcs.inspect(Branches().double(), (rows().abs(),))
    assert {s.name: s.runs for s in census} == {"forward@tanh": 1, "forward@silu": 0, "forward@relu": 0}
    census = dcs.inspect(Branches().double())
    assert {s.name: s.runs for s in census} == dict.fromkeys(("forward@tanh", "forward@silu", "forward@relu"))


def test_a_site_is_at_its_line():
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    for site in dcs.inspect(Ways()):
        assert site.file == __file__ or __file__.endswith(site.file)
        assert site.operator in lines[site.line - 1], (site.name, lines[site.line - 1])


def inner(f, x):
    return F.softplus(f(x)) + 1


def outer(f, x):
    return inner(f, x) * inner(f, -x)


class Ways(Net):
    def forward(self, x):
        return self.b(outer(self.a, x) - outer(self.a, -x) + self.other(x))

    def other(self, x):
        return inner(self.a, x)


def test_every_way_down_is_in_the_chains():
    """Each call on each way has to be passed through, or the helper's original is called there."""
    model = Ways().double()
    (event,) = scan(model, "", Places(model)).values()
    steps = {step for chain in event.chains for step in chain}
    named = sorted(step.function.rpartition(":")[2] for step in steps)
    assert named == ["Ways.forward", "Ways.forward", "Ways.other", "inner", "outer", "outer"]
    assert len({chain[-1] for chain in event.chains}) == 1
    assert {chain[0].function.rpartition(":")[2] for chain in event.chains} == {"Ways.forward", "Ways.other"}

    def by_hand(f, x):
        return (hand(f(x)) + 1) * (hand(f(-x)) + 1)

    edited = dcs.transform(model).model
    x, a = rows(), model.a
    torch.testing.assert_close(edited(x), model.b(by_hand(a, x) - by_hand(a, -x) + hand(a(x)) + 1))


def even(n, f, x):
    return x if n == 0 else odd(n - 1, f, torch.tanh(f(x)))


def odd(n, f, x):
    return x if n == 0 else even(n - 1, f, F.silu(f(x)))


class Mutual(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(3, 3)

    def forward(self, x):
        return even(4, self.f, x) + 1


def test_functions_that_call_each_other_end_the_search():
    model = Mutual().double()
    edited = dcs.transform(model).model
    h = rows()
    for _ in range(4):
        h = hand(model.f(h))
    torch.testing.assert_close(edited(rows()), h + 1)


class Unknowable(Net):
    """Names that stand for nothing yet, or for nothing that could be called."""

    def forward(self, x, act=None):
        late = not_defined_anywhere if act is not None else F.silu  # noqa: F821
        return self.b(late(self.a(x)))

    def unused(self, x):
        return F.gelu(x)


def test_unknown_names_are_no_error_and_unused_methods_no_sites():
    assert [s.name for s in dcs.inspect(Unknowable())] == ["forward@silu"]


def test_a_module_without_source_of_its_own_has_no_calls():
    scope: dict = {}
    exec(
        "from torch import nn\nimport torch\nclass M(nn.Module):\n def forward(self, x):\n  return torch.tanh(x)", scope
    )
    model = scope["M"]()
    assert scan(model, "", Places(model)) == {}


def test_a_wrapper_that_holds_itself_is_looked_at_once():
    def hooked(function):
        @functools.wraps(function)
        def wrapper(self, x, depth=0):
            return wrapper(self, x, depth + 1) if depth < 1 else function(self, x)

        return wrapper

    class Hooked(Net):
        @hooked
        def forward(self, x):
            return self.b(F.silu(self.a(x)))

    assert [site.operator for site in take_census(Hooked())] == ["silu"]
    assert len(unwrapped(Hooked.forward)) == 2


def test_decorated_functions_are_looked_through_by_name():
    from models import helpers

    names = [f.__qualname__ for f in unwrapped(vars(helpers.DecoratedTwice)["forward"])]
    assert names == ["DecoratedTwice.forward"] * 3
    assert unwrapped(3) == []
