"""Selectors: each form of rule selects what it says, and a typing error never passes for a choice."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dcsurgery as dcs
from dcsurgery.errors import BadInput, NothingMatched
from dcsurgery.passes import Denormalize, Pipeline, ReplaceActivations
from dcsurgery.selectors import Selection


class Gain(nn.SiLU):
    """A subclass: class rules take it, too."""


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.act = nn.SiLU()

    def forward(self, x):
        return x + self.act(self.norm(self.lin(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.acts = [torch.tanh, F.softplus]
        self.out_blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4), Gain())] * 1)
        self.shared = self.out_blocks[0]

    def forward(self, x):
        x = F.relu(self.acts[1](self.acts[0](x)) * torch.sigmoid(x))
        for block in self.blocks:
            x = block(x)
        return self.out_blocks[0](x)


SITES = dcs.inspect(Net(), torch.ones(2, 4)).sites
TRUNK = ["blocks.0.act", "blocks.1.act"]
NORMS = ["blocks.0.norm", "blocks.1.norm"]
HEAD = ["out_blocks.0.1", "out_blocks.0.3"]
HELD = ["acts[0]", "acts[1]"]
CALLS = ["forward@sigmoid", "forward@relu"]


def names(include=None, exclude=None, scope="all", role=None):
    return [site.name for site in Selection.of(scope, include, exclude).select(SITES, role)]


def test_the_model_has_the_sites_that_these_tests_are_about():
    assert {site.name for site in SITES} == {*TRUNK, *NORMS, *HEAD, *HELD, *CALLS}
    assert {site.name for site in SITES if site.role == "gate"} == {"forward@sigmoid"}


@pytest.mark.parametrize(
    ("rule", "selected"),
    [
        pytest.param("blocks.0.act", ["blocks.0.act"], id="name"),
        pytest.param("shared.1", ["out_blocks.0.1"], id="alias"),
        pytest.param("blocks.0", ["blocks.0.norm", "blocks.0.act"], id="path of a module"),
        pytest.param("block", None, id="part of a name"),
        pytest.param("acts", HELD, id="path of a list"),
        pytest.param("acts[1]", ["acts[1]"], id="brackets are no glob here"),
        pytest.param("forward", CALLS, id="method"),
        pytest.param("forward@relu", ["forward@relu"], id="call"),
        pytest.param("blocks.*.act", TRUNK, id="glob"),
        pytest.param("acts[*]", HELD, id="glob with brackets"),
        pytest.param("blocks.[01].norm", NORMS, id="glob with a set"),
        pytest.param("*", [*TRUNK, *NORMS, *HEAD, *HELD, *CALLS], id="everything"),
        pytest.param(r"re:blocks\.[1-9]\.a", ["blocks.1.act"], id="regex"),
        pytest.param("re:ct$", TRUNK, id="regex anywhere in the name"),
        pytest.param("re:^shared", HEAD, id="regex of an alias"),
        pytest.param("op:layer_norm", NORMS, id="operator"),
        pytest.param("op:s*", [*TRUNK, *HEAD, "acts[1]", "forward@sigmoid"], id="operator glob"),
        pytest.param("kind:gate", ["forward@sigmoid"], id="kind"),
        pytest.param("role:normalization", NORMS, id="role"),
        pytest.param("how:attribute", HELD, id="way of writing"),
        pytest.param("class:SiLU", [*TRUNK, *HEAD], id="class name takes subclasses"),
        pytest.param("class:Gain", ["out_blocks.0.3"], id="class name of one's own"),
        pytest.param("class:torch.nn.modules.*.SiLU", [*TRUNK, *HEAD], id="class name with its module"),
        pytest.param(nn.SiLU, [*TRUNK, *HEAD], id="class"),
        pytest.param(Gain, ["out_blocks.0.3"], id="subclass"),
        pytest.param(nn.Module, None, id="base of everything"),
        pytest.param("output-blocks", HEAD, id="output blocks"),
        pytest.param(lambda site: site.operator == "tanh", ["acts[0]"], id="predicate"),
        pytest.param(["blocks.0", "op:tanh"], ["blocks.0.norm", "blocks.0.act", "acts[0]"], id="several rules"),
        pytest.param(("re:^acts", nn.LayerNorm), [*HELD, *NORMS], id="several kinds of rules"),
    ],
)
def test_a_rule_selects_what_it_says(rule, selected):
    if selected is None:
        with pytest.raises(NothingMatched):
            names(rule)
    else:
        assert sorted(names(rule)) == sorted(selected)


def test_without_rules_everything_of_the_role_is_selected_in_the_order_of_the_census():
    assert names() == [site.name for site in SITES]
    assert names(role="normalization") == NORMS
    assert set(names(role="activation")) == {*TRUNK, *HEAD, *HELD, "forward@relu"}


def test_exclude_beats_include():
    assert names(["blocks"], ["blocks.0"]) == ["blocks.1.norm", "blocks.1.act"]
    assert names("blocks.0.act", "blocks.0.act") == []
    assert set(names(exclude="kind:normalization")) == {*TRUNK, *HEAD, *HELD, *CALLS}


def test_the_scope_narrows_what_rules_select():
    assert names(scope="output-blocks") == HEAD
    assert names(["out_blocks.0.1", "blocks.0"], scope="output-blocks") == ["out_blocks.0.1"]


def test_where_of_a_pass_is_a_scope_or_a_rule():
    plans = [
        Pipeline([ReplaceActivations(where=where)]).plan(Net(), (torch.ones(2, 4),))
        for where in ("output-blocks", "out_blocks.*", lambda site: site.in_output_block)
    ]
    assert [[edit.site for edit in plan] for plan in plans] == [HEAD] * 3
    assert [edit.site for edit in Pipeline([Denormalize(exclude="blocks.0")]).plan(Net())] == ["blocks.1.norm"]


def said(**selection):
    with pytest.raises(NothingMatched) as error:
        names(**selection)
    assert error.value.exit_code == 3
    return str(error.value)


class Deep(nn.Module):
    """Twelve activations in output blocks."""

    def __init__(self):
        super().__init__()
        block = lambda: nn.Sequential(*[layer for _ in range(3) for layer in (nn.Linear(2, 2), nn.SiLU())])
        self.out_blocks = nn.ModuleList([block() for _ in range(4)])

    def forward(self, x):
        return sum(block(x) for block in self.out_blocks)


def test_the_error_has_the_near_miss_and_how_many_sites_it_would_select():
    with pytest.raises(NothingMatched) as error:
        dcs.plan(Deep(), include="output_blocks.*")
    assert str(error.value) == "no activation matches 'output_blocks.*': did you mean 'out_blocks.*' (12 sites)?"


@pytest.mark.parametrize(
    ("rule", "near"),
    [
        ("blocks.0.atc", "'blocks.0.act' (1 site)"),
        ("op:sliu", "'op:silu' (4 sites)"),
        ("kind:activaton", "'kind:activation' (7 sites)"),
        ("how:atribute", "'how:attribute' (2 sites)"),
        ("class:Silu", "'class:SiLU' (4 sites)"),
        ("blocks.0.acts", "'blocks.0.act' (1 site)"),
    ],
)
def test_every_form_of_rule_has_near_misses(rule, near):
    assert said(include=rule) == f"no site matches {rule!r}: did you mean {near}?"


def test_near_misses_are_of_the_role_that_was_asked_for_if_there_are_any():
    assert "'blocks.0.norm'" not in said(include="blocks.0.nact", role="activation")
    assert "did you mean 'op:layer_norm' (2 sites)?" in said(include="op:layernorm", role="activation")


def test_what_is_near_to_nothing_is_sent_to_inspect():
    assert said(include="zzzzzz") == "no site matches 'zzzzzz' (dcsurgery inspect lists the sites)"
    assert "class:Tanh" in said(include=nn.Tanh)
    assert "predicate never" in said(include=never)


def never(site):
    return False


def test_an_exclude_rule_that_matches_nothing_is_an_error_too():
    assert said(exclude="blocks.0.atc").startswith("no site matches the exclude rule 'blocks.0.atc': did you mean")


def test_every_rule_of_several_has_to_match():
    assert "'blocks.9'" in said(include=["blocks.0", "blocks.9"])


def test_allow_empty_turns_rules_that_match_nothing_into_notes():
    plan = dcs.plan(Net(), denorm=False, include=["blocks.0.act", "blocks.9.act"], allow_empty=True)
    assert [edit.site for edit in plan] == ["blocks.0.act"]
    assert "'blocks.9.act'" in plan.notes[0]
    assert len(dcs.plan(Net(), include="zzzz", allow_empty=True)) == 0
    assert len(dcs.plan(Net(), denorm=False, exclude="zzzz", allow_empty=True)) == 7


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"include": "re:["}, "bad regular expression '['"),
        ({"exclude": ["op:silu", "re:(a"]}, "bad regular expression '(a'"),
        ({"include": ""}, "an empty selector"),
        ({"include": 3}, "not a selector: 3"),
        ({"include": ["a", 3]}, "not a selector: 3"),
        ({"scope": "output"}, "no scope 'output' (use one of all, output-blocks)"),
        ({"include": lambda site: site.nmae}, "raised AttributeError"),
    ],
)
def test_a_bad_rule_is_bad_input(arguments, text):
    with pytest.raises(BadInput) as error:
        names(**arguments)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_a_selection_describes_itself_in_plain_words():
    selection = Selection.of("output-blocks", [nn.SiLU, "a.*"], never)
    assert selection.describe() == {
        "scope": "output-blocks",
        "include": ["class:SiLU", "a.*"],
        "exclude": ["predicate never"],
    }
