"""Calls in source are edited, whatever way they are written and whatever way leads to them; nothing else changes."""

from __future__ import annotations

import copy
import gc
import importlib
import inspect
import pickle
import sys
import traceback
import weakref

import pytest
import torch
import torch.nn.functional as F
from models import helpers, properties
from models.case import Net, build, hand, rows
from models.hard_cases import CALLS, HELPERS
from torch import nn

import dcsurgery as dcs
from dcsurgery.activations import integrate
from dcsurgery.errors import Refused
from dcsurgery.methods import methods_of
from dcsurgery.rewriting import CallEdit, RewriteCalls
from dcsurgery.sites import CallStep
from dcsurgery.subclass import amend, amendments_of, original_class


@pytest.mark.parametrize("name", [*CALLS, *HELPERS])
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


class Unsteady(Net):
    """Which function a call applies is decided anew in every run."""

    def __init__(self):
        super().__init__()
        self.kind = "smooth"

    def forward(self, x):
        function = {"smooth": F.silu, "round": F.gelu, "square": torch.square}[self.kind]
        return self.b(function(self.a(x)))


@pytest.mark.parametrize("kind", ["smooth", "round"])
def test_an_edited_call_edits_whichever_activation_it_applies(kind):
    model = Unsteady().double()
    edited = dcs.transform(model, example_inputs=(rows(),)).model
    edited.kind = kind
    torch.testing.assert_close(edited(rows()), model.b(hand(model.a(rows()))))


def test_an_edited_call_leaves_alone_what_is_no_activation():
    model = Unsteady().double()
    edited = dcs.transform(model, example_inputs=(rows(),)).model
    edited.kind = model.kind = "square"
    assert torch.equal(edited(rows()), model(rows()))


@pytest.mark.parametrize("name", ["functional", "in-place function", "global function", "map", "method"])
@pytest.mark.parametrize(
    ("activation", "by_hand"),
    [
        ("integrated-silu", integrate("silu")),
        (nn.Tanh(), torch.tanh),
        (nn.Sequential(nn.Tanh(), nn.Softsign()), lambda x: F.softsign(torch.tanh(x))),
    ],
    ids=["by name", "torch module", "own module"],
)
def test_any_activation_can_take_the_place(name, activation, by_hand):
    case = {**CALLS, **HELPERS}[name]
    model = build(case)
    edited = dcs.transform(model, example_inputs=case.inputs, activation=activation).model
    hidden = model.a(rows())
    total = by_hand(hidden) + by_hand(model.a(-rows())) if name == "map" else by_hand(hidden)
    torch.testing.assert_close(edited(rows()), model.b(total))


def test_an_activation_with_parameters_has_no_place_in_source():
    with pytest.raises(Refused, match="PReLU has parameters"):
        dcs.transform(build(CALLS["functional"]), example_inputs=(rows(),), activation=nn.PReLU())


@pytest.mark.parametrize("name", ["nested", "decorated, two activations"])
def test_two_surgeries_one_after_the_other_are_one(name):
    case = {**CALLS, **HELPERS}[name]
    model = build(case)
    first = dcs.transform(model, example_inputs=case.inputs, include="op:silu").model
    second = dcs.transform(first, example_inputs=case.inputs).model
    assert original_class(second) is type(model)
    torch.testing.assert_close(second(rows()), case.by_hand(model, rows()))
    copied = pickle.loads(pickle.dumps(second))
    assert torch.equal(copied(rows()), second(rows()))


def test_helpers_keep_their_code_for_everybody_else():
    before = helpers.dense.__code__, helpers.CUBE.__code__, helpers.deep.__code__
    for name in ("global function", "closure from a factory", "recursive"):
        properties.operated(name)
    assert before == (helpers.dense.__code__, helpers.CUBE.__code__, helpers.deep.__code__)
    x = rows()
    layer = nn.Linear(3, 4).double()
    assert torch.equal(helpers.dense(layer, x), F.silu(layer(x)))


@pytest.mark.parametrize("name", ["defaults", "decorated", "annotations", "keyword-only arguments"])
def test_a_rewritten_method_keeps_its_signature_and_name(name):
    model, surgery = properties.operated(name)
    old, new = type(model).forward, type(surgery.model).forward
    assert new is not old
    assert inspect.signature(new) == inspect.signature(old)
    assert (new.__name__, new.__qualname__, new.__module__) == (old.__name__, old.__qualname__, old.__module__)
    assert (new.__defaults__, new.__kwdefaults__) == (old.__defaults__, old.__kwdefaults__)
    assert new.__annotations__ == old.__annotations__


class Fails(Net):
    def forward(self, x):
        h = F.silu(self.a(x))
        if x.shape[0] == 7:
            raise ValueError("seven")
        return self.b(h)


def test_tracebacks_name_the_users_lines():
    edited = dcs.transform(Fails().double(), example_inputs=(rows(),)).model
    with pytest.raises(ValueError, match="seven") as caught:
        edited(rows(7))
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert last.line == 'raise ValueError("seven")'
    assert (last.filename, last.name) == (__file__, "forward")


class MakesFunctions(Net):
    """Makes new functions, with tensors in their closures, in every call."""

    def forward(self, x):
        kept = Kept()
        CREATED.append(weakref.ref(kept))

        def curve(layer, y):
            return F.silu(layer(y)) + (0 if kept is None else 1)

        return self.b(calls_it(curve, self.a, x))


class Kept:
    pass


CREATED = []


def calls_it(function, layer, x):
    return torch.tanh(function(layer, x))


def test_functions_made_in_a_call_do_not_outlive_it():
    model = MakesFunctions().double()
    edited = dcs.transform(model, example_inputs=(rows(),)).model
    CREATED.clear()
    for _ in range(3):
        expected = model.b(hand(hand(model.a(rows())) + 1))
        torch.testing.assert_close(edited(rows()), expected)
    gc.collect()
    assert [reference() for reference in CREATED] == [None] * 3


SOURCE = """
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x):
        return F.silu(self.a(x))
"""


@pytest.fixture
def written_model(tmp_path, monkeypatch):
    """A model class in a file of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # bytecode is told by whole seconds and sizes
    file = tmp_path / "written_for_a_test.py"
    file.write_text(SOURCE, encoding="utf-8")
    importlib.invalidate_caches()
    yield file, importlib.import_module("written_for_a_test")
    sys.modules.pop("written_for_a_test", None)


@pytest.mark.parametrize(
    "changed",
    [
        SOURCE.replace("F.silu(self.a(x))", "F.gelu(self.a(x))"),
        SOURCE.replace("    def forward", "    # one more line\n    def forward"),
        SOURCE.replace("def forward", "def forwards"),
    ],
    ids=["another call", "moved", "gone"],
)
def test_changed_source_is_refused_and_not_guessed(written_model, changed):
    file, module = written_model
    edited = dcs.transform(module.Model(), example_inputs=(torch.randn(2, 3),)).model
    (amendment,) = amendments_of(edited)
    stored = pickle.dumps(amendment)
    file.write_text(changed, encoding="utf-8")
    sys.modules.pop("written_for_a_test")
    importlib.invalidate_caches()
    fresh = importlib.import_module("written_for_a_test").Model()
    with pytest.raises(Refused, match="source has changed"):
        amend(fresh, pickle.loads(stored))
    assert amendments_of(fresh) == ()


def test_a_call_that_does_not_exist_is_refused():
    model = build(CALLS["functional"])
    code = type(model).forward.__code__
    step = CallStep("models.calls:Functional.forward", code.co_firstlineno, (code.co_firstlineno, 3))
    with pytest.raises(Refused, match="there is no call that ends at line"):
        amend(model, RewriteCalls.of([CallEdit(((step,),), "silu", "irelu")]))


def test_a_method_of_another_class_is_refused():
    place = dcs.plan(build(CALLS["functional"]), example_inputs=(rows(),)).edits[0].place
    with pytest.raises(Refused, match="has no such method"):
        amend(build(CALLS["from torch"]), RewriteCalls.of([CallEdit(place.chains, "silu", "irelu")]))


def test_methods_are_those_that_attribute_lookup_finds():
    found = methods_of(helpers.GrandChild)
    assert found["forward"] is vars(helpers.GrandChild)["forward"]
    assert found["features"] is vars(helpers.Child)["features"]
    assert "train" not in found, "torch's own"
    assert isinstance(methods_of(helpers.Property)["weight"], property)


def test_an_edited_model_can_be_edited_in_place_and_taken_back_twice():
    model = build(CALLS["two on one line"])
    before = copy.deepcopy(model)(rows())
    for _ in range(2):
        surgery = dcs.transform(model, example_inputs=(rows(),), inplace=True)
        assert not torch.equal(model(rows()), before)
        surgery.undo()
        assert torch.equal(model(rows()), before)
