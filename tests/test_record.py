"""The record of edits on a model: the same plans after pickling, whatever they hold; a damaged one is told."""

from __future__ import annotations

import copy
import pickle
import pickletools
from typing import Any

import pytest
from torch import nn

import dcsurgery as dcs
from dcsurgery.errors import BadInput
from dcsurgery.plans import Edit, Plan
from dcsurgery.record import Record, recorded
from dcsurgery.sites import AttributePlace, CallPlace, CallStep, FusedPlace, ModulePlace, NodePlace

PLACES = [
    None,
    ModulePlace("a.b", "0"),
    AttributePlace("a", "acts['x'].f"),
    CallPlace("a", (((CallStep("m:f", 3, (4, 20), ((4, 1, 4, 20),))), CallStep("m:g", 9, (11, 7))),)),
    NodePlace("", "silu_1", "linear", (("linear_2", "silu_2"),), "act"),
    FusedPlace("rnn", "tanh"),
]


def plan(place: Any = None, **settings: Any) -> Plan:
    edit = Edit("a.act", "replace", "silu", place, "irelu", settings)
    return Plan((edit,), "Net", "f00d", {"irelu": True}, ("a note",), ("b.act",))


def again(record: Record) -> Record:
    found: Record = pickle.loads(pickle.dumps(record))
    return found


@pytest.mark.parametrize("place", PLACES, ids=lambda place: type(place).__name__)
def test_plans_survive_pickling_and_copying(place: Any) -> None:
    record = Record((plan(place), plan(place, C=1.1e6, into="layer", intercept=True, many=[1, {"k": None}])))
    for found in (again(record), again(again(record)), copy.deepcopy(record), copy.copy(record)):
        assert found.plans == record.plans


@pytest.mark.parametrize("value", [(1, 2), {3: "x"}, 2 + 1j, b"raw", {1, 2}], ids=lambda value: type(value).__name__)
def test_what_no_text_gives_back_is_kept_as_it_is(value: Any) -> None:
    record = Record((plan(None, odd=value),))
    found = again(record)
    assert found.plans == record.plans
    assert type(found.plans[0].edits[0].settings["odd"]) is type(value)
    optional = Record((Plan(options={"odd": value}),))
    assert again(optional).plans == optional.plans
    assert type(again(optional).plans[0].options["odd"]) is type(value)


def test_a_file_holds_one_text_however_many_edits_there_are() -> None:
    def opcodes(count: int) -> int:
        edits = tuple(Edit(f"s{i}", "replace", "silu", NodePlace("", f"s{i}"), "irelu") for i in range(count))
        return len(list(pickletools.genops(pickle.dumps(Record((Plan(edits),))))))

    assert opcodes(3) == opcodes(300)


def test_records_of_earlier_versions_are_read() -> None:
    record = Record.__new__(Record)
    record.__setstate__((None, {"plans": (plan(),)}))
    assert record.plans == (plan(),)


@pytest.mark.parametrize("state", [{}, {"text": 3}, (None, {})], ids=["empty", "number", "earlier"])
def test_a_damaged_record_is_told(state: Any) -> None:
    with pytest.raises(BadInput, match="record of edits is damaged"):
        Record.__new__(Record).__setstate__(state)


@pytest.mark.parametrize("text", ["", "[", "3", "[3]", '[{"model": 3}]', '{"a": 1}'])
def test_a_record_whose_text_is_wrong_is_told(text: str) -> None:
    record = Record.__new__(Record)
    record.__setstate__({"text": text})
    with pytest.raises(BadInput):
        _ = record.plans


def test_a_saved_model_knows_its_edits(tmp_path: Any) -> None:
    surgery = dcs.transform(nn.Sequential(nn.Linear(2, 2), nn.SiLU(), nn.LayerNorm(2)))
    dcs.save(surgery, tmp_path / "edited.pt")
    found = recorded(dcs.load(tmp_path / "edited.pt"))
    assert found == (surgery.plan,)
    assert recorded(surgery.undo()) == ()
