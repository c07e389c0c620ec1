"""A diff says what changed and nothing else, whatever the change is and however the models are written."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import dcsurgery as dcs
from dcsurgery.diffing import Diff
from dcsurgery.errors import BadInput
from dcsurgery.zoo.coverage import CASES

STATE = {"replace": "replaced", "delete": "deleted", "rescale": "inserted"}


class Block(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.lin = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.act = nn.SiLU()

    def forward(self, x):
        return x + self.act(self.norm(self.lin(x)))


class Net(nn.Module):
    def __init__(self, depth=2):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(F.softplus(x) * 2.0)


def net(seed=0, **options):
    torch.manual_seed(seed)
    return Net(**options)


def variant(cls):
    """Give a variant its original's name: another class is a change, too, and not the one that is looked for."""
    cls.__name__ = cls.__mro__[1].__name__
    return cls


X = (torch.randn(3, 4, generator=torch.Generator().manual_seed(1)),)


def told(diff):
    return sorted((change.name, change.state) for change in diff.changes)


def planned(plan):
    return sorted((edit.site or "(model)", STATE[edit.action]) for edit in plan.edits)


# -- edits -------------------------------------------------------------------------------------------------------------


SPARSE = pytest.mark.filterwarnings("ignore:Sparse")  # GraphUNet multiplies sparse matrices


@SPARSE
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_of_a_zoo_model_and_its_transformed_self_the_diff_is_the_plan(case):
    model = case.build()
    inputs = case.inputs(model)
    plan = dcs.plan(model, scope=case.scope, rescale=1e3, example_inputs=inputs)
    surgery = dcs.apply(model, plan)
    diff = surgery.diff(inputs)
    assert told(diff) == planned(plan)
    assert not diff.notes
    assert Diff.from_json(diff.to_json()) == diff


@SPARSE
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_model_does_not_differ_from_itself(case):
    model = case.build()
    diff = dcs.diff(model, copy.deepcopy(model), case.inputs(model))
    assert not diff
    assert diff.summary.endswith("no changes")
    assert len(diff.pairs) == len(diff.before.nodes) == len(diff.after.nodes)


@pytest.mark.parametrize("inputs", [X, None], ids=["run", "static"])
def test_the_diff_is_the_plan_with_and_without_a_run(inputs):
    model = net()
    plan = dcs.plan(model, example_inputs=inputs)
    assert told(dcs.diff(model, dcs.apply(model, plan).model, inputs)) == planned(plan)


def test_a_graph_module_is_compared_node_by_node():
    model = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 1)))
    plan = dcs.plan(model, example_inputs=X)
    diff = dcs.diff(model, dcs.apply(model, plan).model, X)
    assert [change.text for change in diff] == ["SiLU => IReLU"]


def test_a_selection_shows_as_what_was_selected():
    model = net()
    plan = dcs.plan(model, denorm=False, include="blocks.0.*", example_inputs=X)
    diff = dcs.diff(model, dcs.apply(model, plan).model, X)
    assert told(diff) == [("blocks.0.act", "replaced")]


def test_a_deleted_norm_is_gone_and_its_neighbours_are_joined():
    model = net()
    edited = dcs.transform(model, irelu=False, example_inputs=X).model
    diff = dcs.diff(model, edited, X)
    assert diff.counts == {"deleted": 2}
    assert "blocks.0.norm" in diff.before.nodes
    assert "blocks.0.norm" not in diff.after.nodes
    assert diff.after.sources()["blocks.0.act"] == ["blocks.0.lin"]
    assert diff.totals["parameters"] == (diff.before.parameters, diff.before.parameters - 16)


# -- other changes -----------------------------------------------------------------------------------------------------


def test_a_planted_change_is_shown_beside_the_edits():
    @variant
    class Planted(Net):
        def forward(self, x):
            for block in self.blocks:
                x = F.gelu(block(x))
            return self.head(F.softplus(x) * 2.0)

    model = net()
    plan = dcs.plan(model, denorm=False, example_inputs=X)
    edited = dcs.apply(model, plan).model
    torch.manual_seed(0)
    planted = Planted()
    planted.load_state_dict(model.state_dict())
    for name in ("0", "1"):
        planted.blocks[int(name)].act = edited.blocks[int(name)].act
    diff = dcs.diff(model, planted, X)
    inserted = [change for change in diff if change.state == "inserted"]
    assert [change.after for change in inserted] == ["gelu", "gelu"]
    assert {change.name for change in diff if change.state == "replaced"} >= {"blocks.0.act", "blocks.1.act"}


def test_another_number_is_a_change():
    @variant
    class Doubled(Net):
        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return self.head(F.softplus(x) * 3.0)

    torch.manual_seed(0)
    (change,) = dcs.diff(net(), Doubled(), X)
    assert (change.state, change.before, change.after) == ("replaced", "mul(2.0)", "mul(3.0)")
    assert "test_diff_changes.py:" in change.where


def test_a_swapped_module_and_other_settings_are_replaced():
    model = net()
    model.head[1] = nn.GELU()
    model.blocks[0].norm = nn.LayerNorm(4, eps=1e-3)
    diff = dcs.diff(net(), model, X)
    assert [(c.name, c.before, c.after) for c in diff] == [
        (
            "blocks.0.norm",
            "LayerNorm((4,), eps=1e-05, elementwise_affine=True, bias=True)",
            "LayerNorm((4,), eps=0.001, elementwise_affine=True, bias=True)",
        ),
        ("head.1", "Tanh", "GELU"),
    ]


def test_a_renamed_module_is_renamed_and_not_deleted_and_inserted():
    @variant
    class Renamed(Net):
        def __init__(self):
            super().__init__()
            self.readout = self.head
            del self.head

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return self.readout(F.softplus(x) * 2.0)

    diff = dcs.diff(net(), Renamed(), X)
    assert told(diff) == [("head", "renamed")]
    assert str(diff.changes[0]) == "> head: head => readout"


def test_a_module_under_another_parent_is_moved():
    class Holder(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    @variant
    class Moved(Net):
        def __init__(self):
            super().__init__()
            self.tail = Holder(self.head)
            del self.head

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return self.tail(F.softplus(x) * 2.0)

    diff = dcs.diff(net(), Moved(), X)
    assert ("head", "moved") in told(diff)
    assert told(diff) == [("head", "moved"), ("tail", "inserted")]


def test_a_rewired_input_is_told():
    @variant
    class Rewired(Block):
        def forward(self, x):
            y = self.lin(x)
            return x + self.act(self.norm(y)) if x.dim() == 7 else y + self.act(self.norm(y))

    before, after = Block(), Rewired()
    (change,) = dcs.diff(before, after, X)
    assert (change.state, change.after) == ("rewired", "lin, act")
    assert change.before == "x, act"


def test_a_deeper_model_has_more_blocks():
    diff = dcs.diff(net(), net(depth=3), X)
    assert told(diff) == [("blocks.2", "inserted")]
    assert diff.totals["modules"] == (14, 18)


def test_another_class_is_a_change():
    class Other(Net):
        pass

    torch.manual_seed(0)
    (change,) = dcs.diff(net(), Other(), X)
    assert str(change) == "~ (model): Net => Other"


def test_unrelated_models_are_called_so_and_still_compared():
    other = nn.Sequential(nn.Conv1d(4, 2, 1), nn.ReLU(), nn.Flatten(0))
    diff = dcs.diff(net(), other, None)
    assert any("little in common" in note for note in diff.notes)
    assert diff.changes
    assert diff.to_text()


def test_what_cannot_be_captured_is_said():
    class Opaque(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.SiLU()

        def forward(self, x):
            return self.act(x) if x.sum() > 0 else x

    diff = dcs.diff(Opaque(), Opaque())
    assert any("body of (model) is not shown" in note and "TraceError" in note for note in diff.notes)
    assert not dcs.diff(Opaque(), Opaque(), X).notes


# -- bad input ----------------------------------------------------------------------------------------------------------


def test_what_is_no_model_is_refused():
    with pytest.raises(BadInput, match="not a model"):
        dcs.diff(net(), {"weights": 1})
    with pytest.raises(BadInput, match=r"Net\.forward raised|give example inputs"):
        dcs.diff(net(), net(), (torch.zeros(3, 5),))


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"dcsurgery_diff": 99}', '{"dcsurgery_diff": 1, "before": 3}'])
def test_what_is_no_diff_is_refused(text):
    with pytest.raises(BadInput, match=r"diff\.json"):
        Diff.from_json(text, source="diff.json")


def test_a_surgery_in_place_has_no_original_to_compare_with():
    surgery = dcs.apply(net(), dcs.plan(net()), inplace=True)
    with pytest.raises(BadInput, match="in place"):
        surgery.diff(X)
