"""What a run of a model leaves behind: sites with their runs, one graph per module, and nothing in the model itself."""

from __future__ import annotations

import contextlib
import copy
import math
from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from models import calls, compounds, helpers, properties, structure
from models.case import Net, build, hand, rows
from models.hard_cases import ALL, COMPOUNDS, MESSAGES, STRUCTURE
from torch import fx, nn

import dcsurgery as dcs
from dcsurgery.activations import irelu
from dcsurgery.calls import pass_on, replace_in_place
from dcsurgery.capture.graphs import ModuleGraph, graph_lines, key_of, outside
from dcsurgery.capture.nodes import node_match
from dcsurgery.capture.origin import is_library_file, method_codes, origin_of, short_file
from dcsurgery.capture.places import Places
from dcsurgery.capture.recording import Recorder
from dcsurgery.capture.symbolic import disagreement, trace
from dcsurgery.census import take_census
from dcsurgery.errors import BadInput
from dcsurgery.example_inputs import arguments, call, converted, describe, fresh, preserved
from dcsurgery.recognition import may_be_activation_module, recognise


@pytest.mark.parametrize("name", [*STRUCTURE, *MESSAGES, *COMPOUNDS])
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


def recorded(model: nn.Module, *args, **kwargs) -> Recorder:
    with Recorder(model, Places(model)) as recorder:
        model(*args, **kwargs)
    return recorder


# -- sites -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("loop over layers", {"forward@tanh": 3}),
        ("two ways down to one helper", {"forward@silu": 3}),
        ("recursive", {"forward@tanh": 3}),
        ("list comprehension", {"forward@silu": 2}),
        ("shared module", {"net.1": 1, "net.3": 1, "last": 1}),
        ("two names for one list", {"layers.1": 2, "layers.3": 2}),
        ("list", {"acts[0]": 1, "acts[1]": 1}),
        ("one of two attributes", {"act1": 1, "act2": 1}),
        ("branch not reached", {"forward@tanh": 1, "forward@silu": 0, "forward@relu": 0}),
        ("GraphModule", {"act": 1, "norm": 1, "tanh@tanh": 1, "gelu@gelu": 1, "relu@relu": 1}),
        ("in-place module", {"act": 1}),
        ("module made on the fly", {"forward@softplus": 1}),
        ("message, update, edge_update", {"message@silu": 1, "update@relu": 1, "edge_update@tanh": 1}),
        ("autograd.Function", {"forward@silu": 1}),
        ("LSTM", {"rnn@tanh": 1, "rnn@sigmoid": 1}),
        ("gates", {"glu": 1, "gate": 1, "forward@glu": 1, "forward@silu": 1}),
    ],
)
def test_sites_know_how_often_they_ran(name, runs):
    census = take_census(build(ALL[name]), ALL[name].inputs)
    assert {site.name: site.runs for site in census} == runs


def test_aliases_and_shared_slots_are_named():
    census = take_census(build(ALL["two names for one list"]), (rows(),))
    assert census["layers.1"].aliases == ("blocks.1",)
    assert census["blocks.1"] is census["layers.1"]
    census = take_census(build(ALL["shared module"]), (rows(),))
    assert set(census["net.3"].shared_with) == {"net.1", "last"}


def test_compounds_say_what_they_behave_as():
    match = take_census(build(ALL["held scaled silu"]), (rows(),))["act"].match
    assert match == "behaves as 1.667 * silu(x)"
    assert take_census(build(ALL["swish function"]), (rows(),))["forward@silu"].match == "behaves as silu(x)"


def test_gates_are_listed_with_the_reason_and_left_alone():
    model, surgery = properties.operated("gates")
    census = take_census(model, (rows(),))
    assert {site.name for site in census.gates} == {"glu", "gate", "forward@glu"}
    assert all("weight between 0 and 1" in site.reason for site in census.gates)
    assert sum("gate" in line or "glu" in line for line in surgery.report.left_alone) == 3


def test_a_recurrent_kernel_holds_tanh_and_gates():
    census = take_census(build(ALL["GRU"]), (rows(),))
    assert [(s.name, s.role, s.how) for s in census] == [
        ("rnn@tanh", "activation", "fused"),
        ("rnn@sigmoid", "gate", "fused"),
    ]


def test_a_replaced_autograd_function_takes_its_backward_along():
    """Replacing only what its forward calls would leave the old derivative."""
    _, surgery = properties.operated("autograd.Function")
    x = rows().requires_grad_()
    assert torch.autograd.gradcheck(surgery.model, (x,))
    assert torch.autograd.gradgradcheck(surgery.model, (x,))


# -- graphs ----------------------------------------------------------------------------------------------------------


def test_a_faithful_trace_is_proven_and_shown():
    (capture,) = take_census(structure.Traceable(), (rows().float(),)).captures
    assert (capture.method, capture.proven, capture.reason) == ("symbolic", True, "")
    targets = [str(n.target) for n in capture.graph.nodes if n.op == "call_module"]
    assert targets == ["a", "norm", "act", "b", "c"]
    assert str(capture) == "(model): Traceable, symbolic, proven, 12 nodes"


def test_a_trace_that_freezes_a_branch_is_still_compared_with_the_run():
    (capture,) = take_census(structure.Branches().double(), (rows(),)).captures
    assert capture.method == "recorded"
    assert capture.reason.startswith("TraceError: ")
    assert "structure.py:" in capture.reason


class Forgets(Net):
    """torch.fx sees None where a run has a tensor, and so traces another model."""

    def forward(self, x, scale=None):
        return self.b(torch.tanh(self.a(x))) * (1 if scale is None else 2)


class Random(Net):
    def forward(self, x):
        return self.b(F.dropout(self.a(x), 0.5, self.training)).relu()


def test_a_trace_that_computes_something_else_is_not_used():
    model = Forgets()
    (capture,) = take_census(model, (rows().float(), None)).captures
    assert capture.method == "recorded"
    assert capture.reason == "the re-run of its trace gave another output"


def test_random_numbers_are_the_same_in_the_run_and_its_proof():
    (capture,) = take_census(Random(), (rows().float(),)).captures
    assert capture.method == "symbolic"


def test_without_a_run_a_trace_is_unproven():
    (capture,) = take_census(structure.Traceable()).captures
    assert (capture.method, capture.proven) == ("symbolic", False)
    (capture,) = take_census(structure.Branches()).captures
    assert (capture.method, capture.graph) == ("opaque", None)
    assert str(capture).startswith("(model): Branches, opaque, unproven, 0 nodes (TraceError")


def test_every_site_that_ran_is_a_node():
    for name in ("functional", "nested", "shared module", "list", "message, update, edge_update", "swish function"):
        census = take_census(build(ALL[name]), ALL[name].inputs)
        shown = {site.name for _, _, site in census.nodes()}
        assert shown == {site.name for site in census if site.runs}, name


def test_a_recorded_graph_has_children_as_leaves_and_parameters_by_name():
    graph = recorded(helpers.Property(), rows().float()).recording.graphs[""]
    assert [(n.op, getattr(n.target, "__name__", n.target)) for n in graph.nodes] == [
        ("placeholder", "input_0"),
        ("get_attr", "a.weight"),
        ("call_function", "tanh"),
        ("call_function", "linear"),
        ("call_module", "b"),
        ("output", "output"),
    ]
    tanh = next(n for n in graph.nodes if n.name.startswith("tanh"))
    assert key_of(tanh)[:2] == ("call", "")
    assert tanh.meta["dcs_shape"] == (4, 3)
    assert tanh.meta["dcs_line"][0].endswith("helpers.py")


class Unpacks(Net):
    def forward(self, pair):
        left, right = torch.split(self.a(pair["x"]), 2, dim=1)
        stacked = torch.stack([right, left], -1).sum(-1)
        return {"out": (stacked, torch.from_numpy(stacked.detach().numpy()).relu())}


def test_outputs_in_containers_and_tensors_from_outside_are_nodes_too():
    recorder = recorded(Unpacks(), {"x": rows().float()})
    names = [getattr(n.target, "__name__", n.target) for n in recorder.recording.graphs[""].nodes]
    assert names.count("getitem") == 2
    assert "outside" in names
    assert [e.match.operator.name for e in recorder.recording.events.values()] == ["relu"]
    with pytest.raises(RuntimeError, match="it is for reading"):
        outside("a tensor (3,)")


def test_a_graph_after_an_edit_has_the_planned_lines():
    graph = fx.symbolic_trace(structure.Traceable()).graph
    for node in graph.nodes:
        if node.op == "call_module" and node.target in ("act", "norm"):
            node.meta["dcs_key"] = ("module", "", node.target)
    planned = graph_lines(graph, {("module", "", "act"): "=> new", ("module", "", "norm"): ""})
    assert planned[:4] == [
        "%0 = placeholder x()",
        "%1 = call_module a(%0)",
        "%2 = => new(%1)",
        "%3 = call_module b(%2)",
    ]
    edited = fx.Graph()
    x = edited.placeholder("x")
    h = edited.call_module("a", (x,))
    h = edited.call_function(irelu, (edited.call_function(pass_on, (h, True)),))
    edited.output(edited.call_module("b", (edited.call_function(replace_in_place, (h, irelu)),)))
    assert graph_lines(edited)[:3] == planned[:3]
    assert graph_lines(graph)[2] == "%2 = call_module norm(%1)", "nothing is renamed that is not planned"


def test_nodes_are_recognised_by_target_and_method():
    matches = {n.name: node_match(n) for n in fx.symbolic_trace(structure.Traceable()).graph.nodes}
    found = {name: match.operator.name for name, match in matches.items() if match is not None}
    assert found == {"tanh": "tanh", "gelu": "gelu", "relu": "relu"}


def test_traces_of_children_carry_the_keys_of_their_slots():
    model = nn.ModuleDict({"inner": structure.Traceable()})
    graph, reason = trace(model["inner"], "inner", Places(model))
    assert reason == ""
    keys = [key_of(n) for n in graph.nodes if key_of(n) is not None]
    assert [k[:3] for k in keys if k[0] == "module"] == [("module", "inner", "norm"), ("module", "inner", "act")]
    assert sum(k[0] == "call" and k[1] == "inner" for k in keys) == 3


def test_a_trace_that_cannot_be_rerun_says_so():
    model = structure.Traceable()
    graph, _ = trace(model, "", Places(model))
    state = torch.random.get_rng_state()
    reason = disagreement(model, graph, (rows(5, 7).float(),), {}, torch.zeros(1), state)
    assert reason == "the re-run of its trace failed with RuntimeError"
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_graph_module_is_its_own_capture():
    model = fx.symbolic_trace(structure.Traceable())
    (capture,) = take_census(model, (rows().float(),)).captures
    assert (capture.method, capture.graph) == ("exact", model.graph)
    assert isinstance(capture, ModuleGraph)


# -- nothing stays behind ---------------------------------------------------------------------------------------------


class Busy(nn.Module):
    """Counts, caches, appends, and moves running statistics."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("count", torch.zeros(()))
        self.also = self.count
        self.seen, self.known, self.table, self.calls = [], set(), {}, 0

    def forward(self, x):
        self.calls += 1
        self.seen.append(x)
        self.known.add(self.calls)
        self.table[self.calls] = x
        self.fresh = x * 2
        self.count += 1
        self.count = self.count * 1
        return F.silu(self.norm(x))


@pytest.mark.parametrize("inputs", [None, (rows().float(),)])
def test_looking_leaves_nothing_behind(inputs):
    model = Busy()
    before = copy.deepcopy(model.state_dict())
    tensors = {name: (id(t), t._version) for name, t in model.named_buffers()}
    with preserved(model):
        model(rows().float())
    places = Places(model)
    trace(model, "", places)
    if inputs is not None:
        recorded(model, *inputs)
    assert (model.seen, model.known, model.table, model.calls) == ([], set(), {}, 0)
    assert not hasattr(model, "fresh")
    assert {name: (id(t), t._version) for name, t in model.named_buffers()} == tensors
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    copy.deepcopy(model)


def test_what_a_model_holds_comes_back_after_an_exception_too():
    model = Busy()
    with contextlib.suppress(RuntimeError), preserved(model):
        model(rows().float())
        raise RuntimeError
    assert model.calls == 0
    assert model.seen == []


def test_hooks_and_modes_are_gone_after_a_recording():
    model = calls.Functional()
    for broken in (False, True):
        with contextlib.suppress(RuntimeError):
            recorded(model, torch.zeros(2, 5 if broken else 3))
        assert torch._C._len_torch_function_stack() == 0
        assert not nn.modules.module._global_forward_hooks
        assert not nn.modules.module._global_forward_pre_hooks


class Unhashable(compounds.Swish):
    """What it is has to be tried out for every instance."""

    def __init__(self):
        super().__init__()
        self.settings = [1.0]


class MakesModules(Net):
    """Makes a module of its own in every call: it is probed while the recording runs."""

    def forward(self, x):
        return self.b(Unhashable()(self.a(x)))


def test_probing_while_recording_is_not_recorded():
    model = MakesModules().double()
    graph = recorded(model, rows()).recording.graphs[""]
    assert [n.op for n in graph.nodes] == ["placeholder", "call_module", "call_module", "call_module", "output"]
    edited = dcs.transform(model, example_inputs=(rows(),)).model
    torch.testing.assert_close(edited(rows()), model.b(hand(model.a(rows()))))


# -- where a call came from -------------------------------------------------------------------------------------------


class Asks(nn.Module):
    def forward(self, x):
        return self.below(x)

    def below(self, x):
        (only,) = [self.found(y) for y in [x]]
        return only

    @staticmethod
    def found(x):
        import sys

        ORIGINS.append(origin_of(sys._getframe()))
        return x


ORIGINS: list = []


def test_the_origin_of_a_call_is_the_nearest_method_of_a_module():
    model = Asks()
    model(rows())
    origin = ORIGINS.pop()
    assert origin.owner is model
    assert [s.function.rpartition(":")[2] for s in origin.steps] == ["Asks.below", "Asks.found"]
    assert origin.file.endswith("test_capture.py")
    assert origin.library_module is None
    assert origin.in_autograd_function is None


def test_without_a_module_there_is_no_owner():
    Asks.found(1)
    assert ORIGINS.pop().owner is None


def test_methods_are_found_behind_decorators():
    names = set(method_codes(helpers.Decorated).values())
    assert "forward" in names
    codes = [key.qualname for key, name in method_codes(helpers.Decorated).items() if name == "forward"]
    assert codes == ["decorated.<locals>.wrapper", "Decorated.forward"]


def test_files_are_named_without_what_differs_between_machines():
    assert short_file("/any/site-packages/torch_geometric/nn/x.py") == "torch_geometric/nn/x.py"
    assert short_file("/any/dist-packages/x.py") == "x.py"
    assert is_library_file(F.__file__)
    assert is_library_file(dcs.__file__)
    assert not is_library_file(__file__)


# -- what a thing is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (F.silu, "silu"),
        (torch.relu_, "relu"),
        (torch.Tensor.tanh, "tanh"),
        (nn.SiLU(), "silu"),
        (nn.SiLU().forward, "silu"),
        (nn.SiLU().__call__, "silu"),
        (compounds.swish, "silu"),
        (compounds.Swish(), "silu"),
        (compounds.SavedSwish.apply, "silu"),
        (compounds.ScaledSiLU(), "silu"),
        (torch.jit.script(compounds.Swish()).forward, "silu"),
        (lambda x: torch.tanh(x), "tanh"),
        (lambda x, y: torch.tanh(x), None),
        (lambda x, *, y: torch.tanh(x), None),
        (lambda *x: torch.tanh(x[0]), "tanh"),
        (lambda x: x + 1, None),
        (torch.exp, None),
        (nn.Linear(3, 3), None),
        (nn.Linear, None),
        (nn.Sequential(nn.SiLU()), None),
        (3, None),
        ([], None),
        (None, None),
    ],
    ids=lambda v: getattr(v, "__name__", type(v).__name__) if not isinstance(v, str) else v,
)
def test_things_are_recognised_by_list_or_behaviour(value, expected):
    match = recognise(value)
    assert (None if match is None else match.operator.name) == expected


class Uncopyable(nn.Module):
    def __deepcopy__(self, memo):
        raise RuntimeError("one of a kind")

    def forward(self, x):
        return torch.tanh(x)


def test_what_cannot_be_copied_is_not_probed():
    assert may_be_activation_module(Uncopyable())
    assert recognise(Uncopyable()) is None


def test_edited_modules_and_containers_are_no_activations():
    assert not may_be_activation_module(nn.Sequential())
    assert not may_be_activation_module(nn.Linear(1, 1))
    assert not may_be_activation_module(torch.jit.script(compounds.Swish()))
    model, surgery = properties.operated("functional")
    assert not may_be_activation_module(surgery.model)
    assert not may_be_activation_module(model)


class BehavesLikeSiLU(nn.Module):
    """As a child it would be replaced whole; as the model it has no place to be replaced at."""

    def __init__(self):
        super().__init__()
        self.acts = [nn.SiLU()]

    def forward(self, x):
        return self.acts[0](x)


def test_a_model_that_behaves_like_an_activation_is_looked_into():
    surgery = dcs.transform(BehavesLikeSiLU(), example_inputs=(rows(),))
    assert [edit.site for edit in surgery.plan.edits] == ["acts[0]"]
    torch.testing.assert_close(surgery.model(rows()), hand(rows()))


# -- example inputs ---------------------------------------------------------------------------------------------------


class Batch(dict):
    def __init__(self, **entries):
        super().__init__(entries)


def test_inputs_are_split_into_arguments():
    x = rows()
    assert arguments((x, 1)) == ((x, 1), {})
    assert arguments({"x": x}) == ((), {"x": x})
    assert arguments(x) == ((x,), {})


def test_fresh_inputs_are_new_leaves_of_the_same_kind():
    from torch_geometric.data import Data

    data = Data(x=rows(), edge_index=torch.zeros(2, 1, dtype=torch.long))
    x = rows().requires_grad_()
    copied = fresh((x * 1, [x], {"d": data}, "text", 3))
    assert copied[0].is_leaf
    assert copied[0].requires_grad
    assert copied[1][0] is not x
    assert copied[2]["d"] is not data
    copied[2]["d"].x.zero_()
    assert bool(data.x.any())
    assert copied[3:] == ("text", 3)


def test_a_model_may_change_its_inputs():
    x = rows()

    class Changes(nn.Module):
        def forward(self, x):
            return x.zero_()

    call(Changes(), (x,))
    assert torch.equal(x, rows())


def test_only_floating_tensors_are_converted():
    from torch_geometric.data import Data

    data = Data(x=rows(), edge_index=torch.zeros(2, 1, dtype=torch.long))
    found = converted((rows(), torch.arange(3), data, "text"), torch.float32)
    assert [t.dtype for t in found[:2]] == [torch.float32, torch.int64]
    assert (found[2].x.dtype, found[2].edge_index.dtype, data.x.dtype) == (torch.float32, torch.int64, torch.float64)


def test_inputs_are_described_for_people():
    assert describe((rows(), {"i": torch.arange(3)}, [1.5])) == "(float64[5, 3], {i: int64[3]}, (float))"


def test_inputs_that_do_not_fit_are_bad_input_with_the_place():
    with pytest.raises(BadInput, match=r"Functional\.forward raised RuntimeError: mat1 and mat2.*float64\[5, 7\]"):
        dcs.inspect(calls.Functional().double(), (rows(5, 7),))
    with pytest.raises(BadInput, match=r"missing 1 required positional argument.*these were \{\}"):
        dcs.inspect(calls.Functional(), {})


class ScaledByMath(nn.Module):
    def forward(self, x):
        scale = math.sqrt(x.size(-1)) + sqrt(x.size(0)) + math.prod([x.size(0), 2], start=1)
        return torch.tanh(x / scale)


def test_python_s_math_is_traced_and_left_as_it_was():
    before = dict(vars(math))
    census = take_census(ScaledByMath(), (torch.ones(3, 4),))
    (capture,) = census.captures
    assert capture.method == "symbolic"
    assert capture.proven
    called = [node.target for node in capture.graph.nodes if node.op == "call_function"]
    assert called[:1] == [math.sqrt]
    assert math.prod in called
    assert dict(vars(math)) == before
    assert all(vars(math)[name] is value for name, value in before.items())
