"""Plans: what is written can be read, changed by hand, and replayed on the model that it was made for."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import fx, nn

import dcsurgery as dcs
from dcsurgery.errors import BadInput, PlanMismatch
from dcsurgery.passes import Denormalize, Pipeline, RescaleLabels
from dcsurgery.plans import Edit, Plan
from dcsurgery.sites import AttributePlace, CallPlace, CallStep, FusedPlace, ModulePlace, NodePlace


def helper(x):
    return F.silu(x) + 1.0


class EveryPlace(nn.Module):
    """One site of each kind: a module, an attribute, a call, a call in a helper, and a recurrent kernel."""

    def __init__(self, width=4):
        super().__init__()
        self.first = nn.Linear(3, width)
        self.norm = nn.LayerNorm(width)
        self.act = nn.SiLU()
        self.held = functools.partial(F.leaky_relu, negative_slope=0.2)
        self.cell = nn.LSTM(width, width, batch_first=True)
        self.last = nn.Linear(width, 1)

    def forward(self, x):
        x = self.held(self.act(self.norm(self.first(x))))
        x = torch.tanh(x) + helper(x)
        x, _ = self.cell(x)
        return self.last(x)


def model(seed=0, **settings):
    torch.manual_seed(seed)
    return EveryPlace(**settings)


def inputs(dtype=torch.float32):
    return (torch.linspace(-1, 1, 30, dtype=dtype).reshape(2, 5, 3),)


def test_a_plan_survives_the_way_through_yaml():
    plan = dcs.plan(model(), rescale=1e3, example_inputs=inputs())
    kinds = {edit.place.kind for edit in plan.edits if edit.place is not None}
    assert kinds == {"module", "attribute", "call", "fused"}
    assert Plan.from_yaml(plan.to_yaml()) == plan


@pytest.mark.parametrize(
    "place",
    [
        None,
        ModulePlace("a.b", "0"),
        AttributePlace("a", "acts['x'].f"),
        CallPlace(
            "", ((CallStep("m:C.forward", 3, (4, 5)), CallStep("m:f", 9, (10, 2))), (CallStep("m:f", 9, (10, 2)),))
        ),
        NodePlace("graph", "relu_1"),
        FusedPlace("rnn", "tanh"),
    ],
    ids=lambda place: "the model" if place is None else place.kind,
)
def test_every_kind_of_place_survives_the_way_through_yaml(place):
    edit = Edit("site", "replace", "silu", place, "irelu", {"C": 2.0, "names": ["ä", 'q"u']})
    plan = Plan((edit,), "Model", "0123456789abcdef", {"passes": [{"scope": "all"}]}, ("a: note",), ("left",))
    assert Plan.from_yaml(plan.to_yaml()) == plan


def test_yaml_is_for_people_one_short_entry_per_edit():
    plan = dcs.plan(nn.Sequential(nn.Linear(2, 2), nn.SiLU()), denorm=False)
    written = yaml.safe_load(plan.to_yaml())
    assert written["edits"] == [
        {
            "site": "1",
            "do": "replace",
            "operator": "silu",
            "with": "irelu",
            "place": {"owner": "", "slot": "1", "kind": "module"},
        }
    ]
    assert written["model"] == "Sequential"


def test_an_activation_can_be_exchanged_by_hand():
    text = dcs.plan(nn.Sequential(nn.Linear(2, 2), nn.SiLU()), denorm=False).to_yaml()
    changed = Plan.from_yaml(text.replace("with: irelu", "with: integrated-softplus(beta=2.0)"))
    edited = dcs.apply(nn.Sequential(nn.Linear(2, 2), nn.SiLU()), changed).model
    x = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(edited[1](x).sum(), x)
    torch.testing.assert_close(slope, F.softplus(x, beta=2.0))


def test_an_edit_can_be_taken_out_by_hand():
    network = nn.Sequential(nn.Linear(2, 2), nn.SiLU(), nn.Linear(2, 2), nn.SiLU())
    entries = yaml.safe_load(dcs.plan(network, denorm=False).to_yaml())
    del entries["edits"][0]
    edited = dcs.apply(network, Plan.from_yaml(yaml.safe_dump(entries))).model
    assert [type(layer).__name__ for layer in edited] == ["Linear", "SiLU", "Linear", "IReLU"]


def test_a_plan_written_by_hand_needs_neither_model_nor_fingerprint():
    text = """
        dcsurgery_plan: 1
        edits:
        - {site: '1', do: replace, operator: silu, with: irelu, place: {owner: '', slot: '1', kind: module}}
    """
    edited = dcs.apply(nn.Sequential(nn.Linear(2, 2), nn.SiLU()), Plan.from_yaml(text)).model
    assert type(edited[1]).__name__ == "IReLU"


ENTRY = "- {site: '1', do: delete, operator: batch_norm, place: {owner: '', slot: '1', kind: module}}"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("dcsurgery_plan: 1\nedits:\n- {do: replace}", "edits.0.site"),
        (f"dcsurgery_plan: 1\nedits:\n{ENTRY}\n- {{site: a}}", "edits.1.do"),
        (f"dcsurgery_plan: 1\nedits:\n{ENTRY}\n{ENTRY.replace('kind: module', 'kind: elsewhere')}", "edits.1.place"),
        (f"dcsurgery_plan: 1\nedits:\n{ENTRY.replace('kind: module', 'kind: module, x: 1')}", "edits.0.place.module.x"),
        ("dcsurgery_plan: 1\nedits:\n- {site: a, do: replace, widht: irelu}", "edits.0.widht"),
        ("dcsurgery_plan: 1\nedits:\n- {site: a, do: replace, settings: 3}", "edits.0.settings"),
        ("dcsurgery_plan: 1\nedits: 3", "edits"),
        ("dcsurgery_plan: 1\nmodle: x", "modle"),
        ("dcsurgery_plan: 2\nedits: []", "dcsurgery_plan"),
    ],
)
def test_a_bad_entry_is_named(text, named):
    with pytest.raises(BadInput) as error:
        Plan.from_yaml(text, source="my.yaml")
    assert repr(named) in str(error.value)
    assert str(error.value).startswith("my.yaml: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a dcsurgery plan"),
        ("just text", "not a dcsurgery plan"),
        ("- 1\n- 2", "not a dcsurgery plan"),
        ("edits: []", "not a dcsurgery plan"),
        ("a: [1\nb: 2", "not YAML: line 2"),
        ("a: !!python/object/apply:os.system [true]", "not YAML"),
        ("a: \x00", "not YAML"),
    ],
)
def test_what_is_no_plan_is_refused_in_one_line(text, said):
    with pytest.raises(BadInput) as error:
        Plan.from_yaml(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_plan_fits_other_weights_of_the_same_structure():
    plan = dcs.plan(model(seed=0), example_inputs=inputs())
    other = model(seed=1)
    replayed = dcs.apply(other, Plan.from_yaml(plan.to_yaml())).model
    own = dcs.transform(other, example_inputs=inputs()).model
    assert torch.equal(replayed(*inputs()), own(*inputs()))
    assert not torch.equal(replayed(*inputs()), other(*inputs()))


def test_a_plan_fits_another_dtype():
    plan = dcs.plan(model(), example_inputs=inputs())
    edited = dcs.apply(model().double(), plan).model
    result = edited(*inputs(torch.float64))
    assert result.dtype == torch.float64
    torch.testing.assert_close(result.float(), dcs.apply(model(), plan).model(*inputs()))


def test_a_plan_that_was_planned_without_inputs_does_the_same():
    static = dcs.apply(model(), dcs.plan(model())).model
    recorded = dcs.apply(model(), dcs.plan(model(), example_inputs=inputs())).model
    assert torch.equal(static(*inputs()), recorded(*inputs()))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: model(width=6), "other modules or tensors"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.SiLU()), "made for a EveryPlace, this is a Sequential"),
        (lambda: dcs.transform(model(), example_inputs=inputs()).model, "other modules or tensors"),
    ],
    ids=["another width", "another class", "edited already"],
)
def test_a_plan_for_another_structure_is_refused_and_nothing_is_changed(other, said):
    plan = dcs.plan(model(), example_inputs=inputs())
    target = other()
    classes = [type(module) for module in target.modules()]
    with pytest.raises(PlanMismatch, match=said) as error:
        dcs.apply(target, plan, inplace=True)
    assert "make a plan for this model" in str(error.value)
    assert [type(module) for module in target.modules()] == classes


def test_an_edit_that_no_pass_makes_is_refused():
    with pytest.raises(BadInput, match="no pass makes the edit 'polish'"):
        dcs.apply(nn.Sequential(nn.SiLU()), Plan((Edit("0", "polish"),)))


@pytest.mark.parametrize(
    "edit",
    [
        Edit("0", "replace", "silu", ModulePlace("", "7"), "irelu"),
        Edit("0", "replace", "silu", ModulePlace("x.y", "0"), "irelu"),
        Edit("0", "replace", "silu", AttributePlace("", "act"), "irelu"),
        Edit("0", "replace", "silu", NodePlace("", "silu"), "irelu"),
        Edit("0", "replace", "silu", ModulePlace("", "0"), "no-such-activation"),
        Edit("0", "replace", "silu", ModulePlace("", "0")),
        Edit("0", "replace", "silu", None, "irelu"),
        Edit("0", "delete", "silu", None),
        Edit("0", "delete", "no_such_norm", ModulePlace("", "0")),
        Edit("0", "delete", "tanh", FusedPlace("", "tanh")),
        Edit("0", "fold", "batch_norm", ModulePlace("", "0"), settings={"into": "1"}),
        Edit("0", "fold", "batch_norm", ModulePlace("", "0")),
        Edit("", "rescale"),
        Edit("", "rescale", settings={"C": -1.0}),
        Edit("", "rescale", settings={"C": "many"}),
    ],
    ids=str,
)
def test_an_edit_that_does_not_fit_is_an_error_of_ours_and_nothing_is_changed(edit):
    network = nn.Sequential(nn.SiLU(), nn.Linear(2, 2))
    before = list(network.named_modules())
    first = Edit("0", "replace", "silu", ModulePlace("", "0"), "irelu")
    with pytest.raises(dcs.SurgeryError):
        dcs.apply(network, Plan((first, edit)), inplace=True)
    assert list(network.named_modules()) == before
    assert type(network) is nn.Sequential


def test_a_graph_module_has_plans_too():
    graph = fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.SiLU()))
    plan = dcs.plan(graph, denorm=False)
    x = torch.randn(2, 3)
    edited = dcs.apply(graph, Plan.from_yaml(plan.to_yaml())).model
    linear = graph.get_submodule("0")
    torch.testing.assert_close(edited(x), 0.5 * torch.relu(linear(x)) ** 2)


def test_notes_say_which_pass_matched_nothing():
    plan = dcs.plan(nn.Sequential(nn.Linear(2, 2), nn.SiLU()))
    assert plan.notes == ("Denormalize matched nothing",)
    assert "note: Denormalize matched nothing" in str(plan)


def test_options_record_what_was_asked_for():
    plan = dcs.plan(model(), include="re:act$", exclude="op:tanh", denorm=False, rescale=10.0, gates=True)
    replacing, rescaling = plan.options["passes"]
    assert replacing == {
        "pass": "ReplaceActivations",
        "scope": "all",
        "include": ["re:act$"],
        "exclude": ["op:tanh"],
        "activation": "irelu",
        "gates": True,
    }
    assert rescaling["C"] == 10.0


def test_a_module_of_the_users_own_is_applied_and_cannot_be_written():
    network = nn.Sequential(nn.Linear(2, 2), nn.SiLU())
    plan = dcs.plan(network, denorm=False, activation=nn.Softsign())
    assert type(dcs.apply(network, plan).model[1]) is nn.Softsign
    with pytest.raises(BadInput, match="Softsign"):
        plan.to_yaml()


def test_printing():
    edits = Pipeline([Denormalize(), RescaleLabels(2.0)]).plan(nn.Sequential(nn.LayerNorm(3))).edits
    assert [str(edit) for edit in edits] == ["- 0: layer_norm", "+ the model: labels rescaled by C = 2"]
    assert str(Edit("a", "fold", "batch_norm", settings={"into": "b"})) == "~ a: batch_norm => folded into b"
    assert str(Edit("a", "polish", "silu")) == "~ a: polish silu"
    plan = Plan(edits, "Model")
    assert str(plan).splitlines()[0] == "plan for Model: 2 edits"
    assert len(plan) == 2
    assert list(replace(plan, edits=edits[:1])) == [edits[0]]
