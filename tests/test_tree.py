"""Every module and callable of a model has a path, the path leads back to it, and what stands there can be exchanged."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import properties
from models.attributes import Configured, Curve, Frozen, Held, NamedTuple, Pair, Settings
from models.case import Net, build, hand, rows
from models.hard_cases import ALL, ATTRIBUTES
from models.structure import Aliased, Parenthood, SharedModule
from torch import nn

import dcsurgery as dcs
from dcsurgery.errors import BadInput
from dcsurgery.tree import Tree, get_path, join, replace_slot


@pytest.mark.parametrize("name", ATTRIBUTES)
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


def paths(model: nn.Module) -> set[str]:
    return {slot.path for slot in Tree.of(model).slots}


def holding(value: Any) -> Net:
    model = Net()
    model.held = value
    return model


@pytest.mark.parametrize("name", ALL)
def test_every_path_leads_to_what_it_names(name):
    model = build(ALL[name])
    tree = Tree.of(model)
    assert len({slot.path for slot in tree.slots}) == len(tree.slots)
    for slot in tree.slots:
        found = get_path(model, slot.path)
        assert found is slot.value or found == slot.value, "methods are made anew at every look"
        for alias in tree.aliases_of(slot):
            assert get_path(model, alias) is slot.value
    assert {p: m for p, m in model.named_modules() if p}.items() <= {
        **{path: m for m in tree.modules.values() for path in tree.paths[id(m)]}
    }.items()


@pytest.mark.parametrize("name", ALL)
def test_every_slot_can_be_exchanged_and_put_back(name):
    model = build(ALL[name])
    for slot in Tree.of(model).slots:
        state, before = list(model.state_dict()), get_path(model, slot.path)
        new = nn.Identity()
        undo = replace_slot(Tree.of(model).modules[slot.owner], slot.name, new)
        assert get_path(model, slot.path) is new
        undo()
        after = get_path(model, slot.path)
        assert after is before or after == before
        assert list(model.state_dict()) == state


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (F.silu, {"held"}),
        (torch.tanh, {"held"}),
        (torch.Tensor.relu, {"held"}),
        (functools.partial(F.elu, alpha=0.5), {"held"}),
        (lambda x: x, {"held"}),
        (torch.ops.aten.silu, {"held"}),
        (torch.ops.aten.silu.default, {"held"}),
        (Curve(1.0), {"held"}),
        (Curve(1.0).method, {"held"}),
        ([F.silu, [nn.Tanh()]], {"held[0]", "held[1][0]"}),
        ((F.silu, 3, "silu"), {"held[0]"}),
        ({"a": F.silu, 2: torch.tanh, (1, 2): F.relu}, {"held['a']", "held[2]"}),
        (OrderedDict(a=F.silu), {"held['a']"}),
        (defaultdict(list, a=[F.silu]), {"held['a'][0]"}),
        (Pair(F.silu, 1), {"held[0]"}),
        (Settings(F.silu), {"held.act"}),
        (Frozen(Settings([F.silu])), {"held.inner.act[0]"}),
        ({"it's": {"a.b[0]": {'"': {"\\": F.silu}}}}, {r"""held["it's"]['a.b[0]']['"']['\\']"""}),
        ([0.5] * 5000, set()),
        ([F.silu] * 5000, set()),
        (torch.zeros(3), set()),
        (nn.Linear, set()),
        (torch, set()),
        (None, set()),
        ([[[[[F.silu]]]]], set()),
    ],
)
def test_plain_attributes_are_opened_as_far_as_models_hide_things(value, expected):
    assert paths(holding(value)) - {"a", "b"} == expected


def test_strange_keys_lead_back():
    model = holding({"it's": {"both'\"": {"new\nline": [F.silu]}}})
    (slot,) = (s for s in Tree.of(model).slots if s.name.startswith("held"))
    assert get_path(model, slot.path) is F.silu
    replace_slot(model, slot.name, F.relu)
    assert model.held["it's"]["both'\""]["new\nline"] == [F.relu]


def test_hidden_modules_are_modules_of_the_tree_and_stay_out_of_the_state():
    model = holding([nn.Sequential(nn.Linear(1, 1), nn.SiLU())])
    keys = list(model.state_dict())
    tree = Tree.of(model)
    assert {"held[0]", "held[0].0", "held[0].1"} <= set(tree.modules)
    replace_slot(model, "held[0]", nn.Sequential(nn.Linear(2, 2)))
    replace_slot(model, "held", nn.Linear(2, 2))
    assert list(model.state_dict()) == keys
    assert "held" not in dict(model.named_children())


def test_aliases_are_the_other_paths_of_the_same_owner():
    tree = Tree.of(Aliased())
    assert tree.paths[id(tree.modules["layers"])] == ["layers", "blocks"]
    (slot,) = (s for s in tree.slots if s.path == "layers.1")
    assert tree.aliases_of(slot) == ("blocks.1",)
    assert tree.path_of(tree.modules["layers.1"]) == "layers.1"
    assert tree.path_of(nn.SiLU()) is None


def test_one_module_in_several_slots_is_one_module_with_several_slots():
    model = SharedModule()
    tree = Tree.of(model)
    assert [s.path for s in tree.slots if s.value is model.last] == ["net.1", "net.3", "last"]
    assert [p for p, m in tree.modules.items() if m is model.last] == ["net.1"]


def test_a_child_that_knows_its_parent_ends_the_walk():
    model = Parenthood()
    model.child.also = {"parent": model}
    assert list(Tree.of(model).modules) == ["", "a", "b", "child", "act"]


def test_class_attributes_are_slots_that_an_instance_can_have_for_itself():
    class Two(nn.Module):
        act = nn.SiLU()
        function = staticmethod(F.silu)
        builtin = torch.tanh
        partial = functools.partial(F.elu, alpha=0.5)
        number = 3

        @staticmethod
        def helper(x):
            return x

        def forward(self, x):
            return self.act(x)

    one, other = Two(), Two()
    assert {s.path for s in Tree.of(one).slots if s.class_level} == {"act", "function", "builtin", "partial"}
    undo = replace_slot(one, "act", nn.Identity())
    assert isinstance(other.act, nn.SiLU)
    assert isinstance(Two.act, nn.SiLU)
    undo()
    assert "act" not in vars(one)
    assert one.act is Two.act


def test_containers_are_copied_before_they_are_changed():
    acts = [F.silu, F.gelu]
    config = Frozen(Settings({"a": acts}))
    one, other = holding(config), holding(config)
    undo = replace_slot(one, "held.inner.act['a'][1]", F.relu)
    assert one.held.inner.act["a"] == [F.silu, F.relu]
    assert other.held is config
    assert acts == [F.silu, F.gelu]
    undo()
    assert one.held is config


def test_a_named_tuple_stays_one():
    model = NamedTuple()
    replace_slot(model, "acts[0]", F.relu)
    assert isinstance(model.acts, Pair)
    assert model.acts.first is F.relu


def test_a_slot_in_a_module_in_a_container_is_the_modules_own():
    inner = Held(F.silu)
    model = holding([inner])
    replace_slot(model, "held[0].act", F.relu)
    assert model.held[0] is inner, "modules are not copied"
    assert inner.act is F.relu


@dataclass
class Busy:
    """Its attributes may not be read."""

    @property
    def loud(self):
        raise RuntimeError("read")


def test_properties_are_not_read():
    assert paths(holding(Busy())) == {"a", "b"}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("c", "no module 'c': the model has no 'c'"),
        ("a.c", "no module 'a.c': Linear has no 'c'"),
        ("held[3]", r"list has no '3'"),
        ("held['x']", "list has no 'x'"),
        ("held[", "not a module path"),
        ("held[x]", "not a module path"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ends(path, message):
    with pytest.raises(BadInput, match=message.replace("[", r"\[")):
        get_path(holding([F.silu]), path)


def test_paths_are_joined_as_python_writes_them():
    assert join("", "act") == "act"
    assert join("a.b", "act") == "a.b.act"
    assert join("a", "[0]") == "a[0]"


class HoldsFunctionAndCalls(Net):
    """The same function by attribute and by name: two sites, one of which is not selected."""

    def __init__(self):
        super().__init__()
        self.act = F.silu

    def forward(self, x):
        return self.b(F.silu(self.act(self.a(x))))


@pytest.mark.parametrize(
    ("include", "outer", "inner"), [("act", F.silu, hand), ("forward@silu", hand, F.silu)], ids=["attribute", "call"]
)
def test_an_attribute_and_a_call_of_one_function_are_two_sites(include, outer, inner):
    model = HoldsFunctionAndCalls().double()
    edited = dcs.transform(model, example_inputs=(rows(),), include=include).model
    torch.testing.assert_close(edited(rows()), model.b(outer(inner(model.a(rows())))))


class Indexed(Net):
    """One function three times in a list, taken out by index and by iteration."""

    def __init__(self):
        super().__init__()
        self.acts = [F.silu, F.silu, F.silu]

    def forward(self, x):
        h = self.a(x)
        for act in self.acts:
            h = act(h) + 1
        which = 1
        return self.b(self.acts[which](h) + self.acts[2](h))


def test_equal_entries_of_a_list_are_told_apart():
    model = Indexed().double()
    edited = dcs.transform(model, example_inputs=(rows(),), include="acts[1]").model
    h = F.silu(hand(F.silu(model.a(rows())) + 1) + 1) + 1
    torch.testing.assert_close(edited(rows()), model.b(hand(h) + F.silu(h)))


def test_an_attribute_that_two_models_share_is_changed_in_one():
    config = Frozen(Settings(F.silu))
    one, other = Configured().double(), Configured().double()
    one.config = other.config = config
    before = other(rows())
    edited = dcs.transform(one, example_inputs=(rows(),), inplace=True).model
    assert edited is one
    assert other.config is config
    assert config.inner.act is F.silu
    assert torch.equal(other(rows()), before)
    assert not torch.equal(one(rows()), copy.deepcopy(other)(rows()))
