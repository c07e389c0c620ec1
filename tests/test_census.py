"""The census lists every site with its place, role and reason, and tells clearly when it cannot."""

from __future__ import annotations

import json
import logging
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import dcsurgery as dcs
from dcsurgery.census import site_key
from dcsurgery.errors import BadInput
from dcsurgery.sites import AttributePlace, CallPlace, FusedPlace, ModulePlace, NodePlace


class CosineCutoff(nn.Module):
    """A cutoff; the ReLU in it is no activation."""

    def __init__(self):
        super().__init__()
        self.inside = nn.ReLU()

    def forward(self, d):
        return 0.5 * (torch.cos(d * math.pi / 5.0) + 1.0) * self.inside(5.0 - d).sign()


class Unlisted(nn.Module):
    """SiLU, written out and scaled."""

    def forward(self, x):
        return x * torch.sigmoid(x) / 0.6


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.act = nn.LeakyReLU(0.2)
        self.again = self.act
        self.scaled = Unlisted()
        self.held = {"a": torch.tanh}
        self.rnn = nn.GRU(4, 4, batch_first=True)
        self.never = nn.ReLU()

    def forward(self, x, deep=False):
        x = self.again(self.act(self.norm(self.lin(x))))
        x = self.held["a"](self.scaled(x)) * torch.sigmoid(x)
        for _ in range(3):
            x = F.softplus(x)
        if deep:
            x = self.never(x)
        x = torch.softmax(x, -1)
        return self.rnn(x)[0]


class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.SiLU()

    def forward(self, x):
        self.act(x)
        raise ValueError("no atoms\nin this batch")


class Buffered(nn.Module):
    """Changes its buffers: in place, and by putting a new one there."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", torch.zeros(2))
        self.register_buffer("idle", torch.zeros(2))

    def forward(self, x):
        self.count += 1
        self.last = x.detach().mean(0)
        return F.silu(x)


def inputs():
    return (torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)),)


@pytest.fixture(scope="module")
def census():
    torch.manual_seed(0)
    return dcs.inspect(Net(), inputs())


def test_every_site_is_listed_once_with_its_role_and_place(census):
    found = {site.name: (site.role, site.operator, site.how, type(site.place)) for site in census}
    assert found == {
        "norm": ("normalization", "layer_norm", "module", ModulePlace),
        "act": ("activation", "leaky_relu", "module", ModulePlace),
        "again": ("activation", "leaky_relu", "module", ModulePlace),
        "scaled": ("activation", "silu", "module", ModulePlace),
        "never": ("activation", "relu", "module", ModulePlace),
        "held['a']": ("activation", "tanh", "attribute", AttributePlace),
        "forward@sigmoid": ("gate", "sigmoid", "function", CallPlace),
        "forward@softplus": ("activation", "softplus", "function", CallPlace),
        "rnn@tanh": ("activation", "tanh", "fused", FusedPlace),
        "rnn@sigmoid": ("gate", "sigmoid", "fused", FusedPlace),
    }


def test_runs_are_counted(census):
    runs = {site.name: site.runs for site in census}
    assert runs["forward@softplus"] == 3
    assert runs["never"] == 0
    assert runs["norm"] == 1
    assert {site.runs for site in dcs.inspect(Net())} == {None}
    assert dcs.inspect(Net(), {"x": inputs()[0], "deep": True})["never"].runs == 1


def test_gates_carry_the_reason_why_they_are_left_alone(census):
    gates = [site for site in census.gates if site.role == "gate"]
    assert {site.name for site in gates} == {"forward@sigmoid", "rnn@sigmoid"}
    assert all(site.reason for site in gates)
    assert not {site.name for site in census.activations} & {site.name for site in gates}


def test_what_is_inside_a_basis_is_listed_with_the_reason_why_it_is_left_alone():
    census = dcs.inspect(nn.Sequential(nn.Linear(1, 1), CosineCutoff()), (torch.ones(2, 1),))
    (site,) = census
    assert (site.name, site.role) == ("1.inside", "basis")
    assert site.reason.startswith("part of CosineCutoff: ")
    assert census.gates == (site,)
    assert census.activations == ()


def test_details_of_a_site(census):
    assert census["act"].parameters["negative_slope"] == 0.2
    assert census["act"].shared_with == ("again",)
    assert census["again"].shared_with == ("act",)
    assert census["act"].match == "listed"
    assert "silu" in census["scaled"].match
    assert "1.667" in census["scaled"].match
    softplus = census["forward@softplus"]
    assert softplus.file.endswith("test_census.py")
    assert softplus.line == Net.forward.__code__.co_firstlineno + 4
    assert softplus.where.endswith(f"test_census.py:{softplus.line}")
    assert census["norm"].classes[0] == "torch.nn.modules.normalization.LayerNorm"


def test_without_inputs_the_same_sites_are_found():
    static, recorded = dcs.inspect(Net()), dcs.inspect(Net(), inputs())
    assert {site.name for site in static} == {site.name for site in recorded}
    assert not static.inputs_given
    assert not any(capture.proven for capture in static.captures)


def test_groups_and_access(census):
    assert [site.name for site in census.normalizations] == ["norm"]
    assert len(census) == len(census.sites) == 10
    assert {site.name for site in census.activations} >= {"act", "scaled"}
    with pytest.raises(KeyError):
        census["nowhere"]


def test_a_site_is_found_under_its_alias():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.SiLU()))
    model.add_module("other", model[0])
    census = dcs.inspect(model, (torch.ones(1, 2),))
    assert census["other.1"] is census["0.1"]
    assert census["0.1"].aliases == ("other.1",)
    assert len(census) == 1


def test_captures_say_how_each_module_was_seen(census):
    (root,) = [capture for capture in census.captures if capture.path == ""]
    assert root.class_name == "Net"
    assert root.proven
    assert root.graph is not None
    shown = {site.name for _, _, site in census.nodes()}
    assert {"norm", "act", "forward@softplus"} <= shown


def test_a_census_is_plain_json(census):
    entry = json.loads(json.dumps(census.to_dict()))
    assert entry["model"] == "Net"
    assert entry["counts"] == {"activation": 7, "gate": 2, "normalization": 1}
    assert [site["name"] for site in entry["sites"]] == [site.name for site in census]
    assert {capture["class"] for capture in entry["captures"]} == {"Net"}


def test_a_graph_modules_census_is_plain_json():
    census = dcs.inspect(fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.SiLU())), (torch.ones(1, 2),))
    assert json.loads(json.dumps(census.to_dict()))["captures"][0]["method"] == "exact"


def test_nodes_of_a_graph_module_are_sites():
    class Calls(nn.Module):
        def forward(self, x):
            return F.silu(x).relu() * torch.softmax(x, 0)

    census = dcs.inspect(fx.symbolic_trace(Calls()), (torch.ones(2),))
    assert {(site.operator, type(site.place), site.runs) for site in census} == {
        ("silu", NodePlace, 1),
        ("relu", NodePlace, 1),
    }


def test_printed_for_people(census):
    lines = str(census).splitlines()
    assert lines[0] == "Net: 7 activations, 1 normalization, 2 gates"
    assert "  forward@softplus: activation softplus as function ran 3x" in lines
    assert str(dcs.inspect(nn.Linear(2, 2))) == "Linear: no sites"


def test_the_notebook_table_is_escaped(census):
    page = census._repr_html_()
    assert page.count("<tr>") == 11
    assert "held[&#x27;a&#x27;]" in page
    assert "<caption>Net: 7 activations, 1 normalization, 2 gates</caption>" in page


def test_keys_of_places_are_unique(census):
    assert len({site_key(site.place) for site in census}) == len(census)


# -- nothing changes ---------------------------------------------------------------------------------------------------


def test_buffers_are_put_back_as_the_same_objects_and_idle_ones_not_touched():
    model = Buffered()
    before = dict(model.named_buffers())
    version = model.idle._version
    dcs.inspect(model, (torch.ones(3, 2),))
    for name, buffer in model.named_buffers():
        assert buffer is before[name]
        assert not buffer.any()
    assert model.idle._version == version


def test_buffers_are_put_back_when_the_forward_raises():
    class Half(Buffered):
        def forward(self, x):
            super().forward(x)
            raise ValueError("late")

    model = Half()
    with pytest.raises(BadInput, match="late"):
        dcs.inspect(model, (torch.ones(3, 2),))
    assert not model.count.any()
    assert not model.last.any()


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_stays(training):
    model = Net().train(training)
    dcs.inspect(model, inputs())
    assert {module.training for module in model.modules()} == {training}


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("example_inputs", "described"),
    [
        ((torch.ones(2, 3, 7),), "(float32[2, 3, 7])"),
        (torch.ones(2, 3, 4, dtype=torch.int64), "int64[2, 3, 4]"),
        ({"y": torch.ones(2, 4)}, "{y: float32[2, 4]}"),
        ((), "()"),
        ((torch.ones(2, 3, 4), False, "third"), "(float32[2, 3, 4], bool, str)"),
    ],
)
def test_inputs_that_do_not_fit_are_described(example_inputs, described):
    with pytest.raises(BadInput) as error:
        dcs.inspect(Net(), example_inputs)
    assert f"these were {described}" in str(error.value)
    assert "Net.forward raised" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_forward_that_raises_is_named_with_its_line():
    with pytest.raises(BadInput) as error:
        dcs.inspect(Raises(), (torch.ones(2),))
    line = Raises.forward.__code__.co_firstlineno + 2
    assert f"test_census.py:{line}: Raises.forward raised ValueError: no atoms" in str(error.value)
    assert "\n" not in str(error.value)
    assert isinstance(error.value.__cause__, ValueError)


class Logs(nn.Module):
    def forward(self, x):
        logging.warning(x)  # noqa: LOG015 - as careless models do
        self.told = shutil.rmtree
        return F.silu(x)


@pytest.mark.parametrize("inputs", [None, (torch.ones(2),)])
def test_functions_of_python_itself_are_not_tried_out(inputs, caplog):
    assert [site.operator for site in dcs.inspect(Logs(), inputs)] == ["silu"]
    assert not [told for told in caplog.messages if "float64" in told]  # a run in float32, and a trace, are the model's


def test_a_forward_that_raises_has_a_census_without_inputs():
    assert [site.name for site in dcs.inspect(Raises())] == ["act"]


@pytest.mark.parametrize("thing", [None, 3, "model.pt", nn.SiLU, torch.tanh])
def test_what_is_no_model_is_refused(thing):
    with pytest.raises(BadInput, match="not a model"):
        dcs.inspect(thing)
