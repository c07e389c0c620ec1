"""ExportedPrograms: their sites are those of the model, their edits too, and all that makes them programs stays."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from models.programs import Branches, Inplace, Molecule, Network, batch_of, decomposed, export, points
from torch import nn

import dcsurgery as dcs
from dcsurgery.errors import BadInput, PlanMismatch, Refused
from dcsurgery.exported import ProgramModule, module_of, program_of
from dcsurgery.plans import Plan

FORMS = ["training", "decomposed"]


def network(train=False):
    torch.manual_seed(0)
    model = Network().double().train(train)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):  # a deep IReLU network of small numbers is next to 0
                layer.bias.add_(0.6)
    return model


@pytest.fixture(scope="module")
def programs():
    """The same network exported in both modes, as it is and decomposed."""
    found = {}
    for train in (False, True):
        program = export(network(train), points())
        found[train, "training"], found[train, "decomposed"] = program, decomposed(program)
    return found


@pytest.fixture(params=[(train, form) for train in (False, True) for form in FORMS], ids=str)
def case(request, programs):
    train, _ = request.param
    return network(train), programs[request.param]


def derivatives(model, x, names=("energy", "hidden")):
    """Return outputs, first derivatives, and the gradients of a loss on the first derivatives."""
    x = x.clone().requires_grad_()
    outputs = model(x)
    total = sum(outputs[name].square().sum() for name in names)
    (slope,) = torch.autograd.grad(total, x, create_graph=True)
    weights = dict(model.named_parameters())
    second = torch.autograd.grad(slope.square().sum(), list(weights.values()), allow_unused=True)
    known = {name: g for name, g in zip(weights, second, strict=True) if g is not None}
    return [*outputs.values(), slope], known


def assert_same(one, other, x):
    """Compare two models' values, first and second derivatives to 1e-12 of the largest."""
    (values, second), (theirs, their_second) = derivatives(one, x), derivatives(other, x)
    assert second.keys() == their_second.keys()
    for a, b in [*zip(values, theirs, strict=True), *((second[k], their_second[k]) for k in second)]:
        largest = float(b.detach().abs().max())
        assert largest > 1e-9, "nothing to compare"
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12 * largest)


# -- the way there and back --------------------------------------------------------------------------------------------


def test_a_module_is_turned_back_into_its_program(case):
    _, program = case
    again = program_of(module_of(program))
    assert str(again.graph) == str(program.graph)
    assert str(again.graph_signature) == str(program.graph_signature)
    assert again.range_constraints == program.range_constraints
    assert list(again.state_dict) == list(program.state_dict)
    assert again.verifiers == program.verifiers


def test_copies_and_pickles_of_a_module_are_programs_too(programs):
    module = module_of(programs[False, "training"])
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    for again in (copy.deepcopy(module), torch.load(stream, weights_only=False)):
        assert isinstance(again, ProgramModule)
        assert torch.equal(again(points(7))["energy"], module(points(7))["energy"])
        assert str(program_of(again).graph) == str(programs[False, "training"].graph)
        for bad in (points(7, 4), {"x": points(1)}):
            with pytest.raises((AssertionError, ValueError, RuntimeError)):
                again(bad)
    assert not {id(p) for p in module.parameters()} & {id(p) for p in copy.deepcopy(module).parameters()}


def test_the_mode_of_a_program_is_fixed(programs):
    module = module_of(programs[True, "training"])
    assert module.train() is module
    with pytest.raises(NotImplementedError, match="export the model in the other mode"):
        module.eval()


def test_a_type_that_export_wrote_into_the_graph_is_converted_with_the_tensors():
    class Scattered(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(2, 2)

        def forward(self, x, index):
            h = self.lin(x)
            return torch.zeros_like(index, dtype=h.dtype).unsqueeze(-1).expand(-1, 2).index_add(0, index, h)

    torch.manual_seed(0)
    model, inputs = Scattered(), (torch.randn(3, 2), torch.tensor([0, 0, 1]))
    module = module_of(torch.export.export(model, inputs)).double()
    torch.testing.assert_close(module(inputs[0].double(), inputs[1]), model.double()(inputs[0].double(), inputs[1]))
    back = module.float()
    torch.testing.assert_close(back(*inputs), model.float()(*inputs))


def test_programs_without_example_inputs_check_shapes_as_well():
    program = export(network(), points())
    program.example_inputs = None
    module = module_of(program)
    assert module(points(7))["energy"].shape == (7,)
    with pytest.raises(RuntimeError, match="shape"):
        module(points(7, 4))


# -- sites -------------------------------------------------------------------------------------------------------------


def test_sites_are_named_as_in_the_model(case):
    model, program = case
    theirs = {s.name: (s.role, s.operator, s.in_output_block, s.block) for s in dcs.inspect(model, (points(),))}
    mine = {s.name: (s.role, s.operator, s.in_output_block, s.block) for s in dcs.inspect(program)}
    assert mine == theirs
    assert len(mine) == 10


def test_sites_know_their_lines_and_how_often_they_run(programs):
    census = dcs.inspect(programs[False, "decomposed"], (points(),))
    assert census["act"].runs == 2
    assert census["forward@elu"].runs == 1
    assert census["forward@elu"].file.endswith("models/programs.py")
    assert "F.elu(h)" in __import__("linecache").getline(
        __import__("models.programs").programs.__file__, census["forward@elu"].line
    )


@pytest.mark.parametrize(
    ("layer", "operator"),
    [
        (nn.ReLU(), "relu"),
        (nn.LeakyReLU(0.2), "leaky_relu"),
        (nn.PReLU(), "prelu"),
        (nn.ELU(), "elu"),
        (nn.CELU(1.3), "celu"),
        (nn.SELU(), "selu"),
        (nn.SiLU(), "silu"),
        (nn.Mish(), "mish"),
        (nn.GELU(), "gelu"),
        (nn.GELU("tanh"), "gelu"),
        (nn.Softplus(), "softplus"),
        (nn.Softplus(beta=2.0), "softplus"),
        (nn.Softsign(), "softsign"),
        (nn.Tanh(), "tanh"),
        (nn.Tanhshrink(), "tanhshrink"),
        (nn.Hardtanh(), "hardtanh"),
        (nn.ReLU6(), "relu6"),
        (nn.Hardswish(), "hardswish"),
        (nn.Hardshrink(), "hardshrink"),
        (nn.Softshrink(), "softshrink"),
        (nn.Threshold(0.1, 0.0), "threshold"),
        (nn.LogSigmoid(), "logsigmoid"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else v,
)
@pytest.mark.parametrize("form", FORMS)
def test_every_activation_is_found_and_replaced(layer, operator, form):
    model = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 1)).double()
    program = export(model, points())
    program = decomposed(program) if form == "decomposed" else program
    surgery = dcs.apply(program, dcs.plan(program, denorm=False))
    assert [(e.site, e.operator) for e in surgery.plan.edits] == [("1", operator)]
    x = points(4, seed=3)
    expected = F.linear(0.5 * F.relu(model[0](x)) ** 2, model[2].weight, model[2].bias)
    torch.testing.assert_close(surgery.model(x), expected, rtol=1e-13, atol=1e-13)
    assert not len(dcs.inspect(program_of(surgery.model)))


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(4),
        nn.LayerNorm(4),
        nn.GroupNorm(2, 4),
        nn.RMSNorm(4),
        nn.BatchNorm1d(4).eval(),
        nn.BatchNorm1d(4, affine=False),
    ],
    ids=repr,
)
@pytest.mark.parametrize("form", FORMS)
def test_every_normalization_is_found_and_deleted(norm, form):
    model = nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 1)).double()
    program = export(model, points())
    program = decomposed(program) if form == "decomposed" else program
    surgery = dcs.transform(program, irelu=False, example_inputs=(points(),))
    assert [e.site for e in surgery.plan.edits] == ["1"]
    assert list(surgery.model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    torch.testing.assert_close(surgery.model(points(4)), model[2](model[0](points(4))), rtol=1e-13, atol=1e-13)


# -- edits -------------------------------------------------------------------------------------------------------------


def test_an_edited_program_is_the_edited_model(case):
    model, program = case
    expected = dcs.transform(model, example_inputs=(points(),)).model
    surgery = dcs.transform(program, example_inputs=(points(),))
    assert_same(surgery.model, expected, points(9, seed=2))
    assert surgery.model.state_dict().keys() == expected.state_dict().keys()
    assert surgery.report.ok
    edited = surgery.program
    assert edited.range_constraints == program.range_constraints
    assert edited.call_spec == program.call_spec
    with pytest.raises(AssertionError, match="Guard failed"):
        surgery.model(points(5, 4))
    assert not len(dcs.inspect(edited))


def test_the_original_program_is_left_alone(programs):
    program = programs[True, "decomposed"]
    before, weights = str(program), {k: v.clone() for k, v in program.state_dict.items()}
    surgery = dcs.transform(program, rescale=10.0, outputs=["energy"], example_inputs=(points(),))
    assert str(program) == before
    assert all(torch.equal(program.state_dict[k], v) for k, v in weights.items())
    assert surgery.undo() is program


def test_nothing_asked_for_changes_nothing(case):
    _, program = case
    surgery = dcs.transform(program, irelu=False, denorm=False, example_inputs=(points(),))
    if program.graph_signature.buffers_to_mutate:  # torch cannot differentiate what it writes running statistics in
        assert torch.equal(surgery.model(points(6))["energy"], module_of(program)(points(6))["energy"])
        return
    one, other = derivatives(surgery.model, points(6)), derivatives(module_of(program), points(6))
    assert all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    assert all(torch.equal(one[1][k], other[1][k]) for k in one[1])


@pytest.mark.parametrize("form", FORMS)
def test_a_deleted_batch_norm_keeps_no_books_and_one_that_stays_does(programs, form):
    program = programs[True, form]
    gone = dcs.apply(program, dcs.plan(program, irelu=False, include="mlp.1")).program
    assert not [t for t in (*gone.graph_signature.buffers, *gone.graph_signature.parameters) if t.startswith("mlp.1")]
    assert not gone.graph_signature.buffers_to_mutate
    stays = dcs.transform(program, exclude="mlp.1", example_inputs=(points(),)).model
    mean, count = stays.get_buffer("mlp.1.running_mean").clone(), int(stays.get_buffer("mlp.1.num_batches_tracked"))
    stays(points(6))
    assert not torch.equal(stays.get_buffer("mlp.1.running_mean"), mean)
    assert int(stays.get_buffer("mlp.1.num_batches_tracked")) == count + 1


@pytest.mark.parametrize("form", FORMS)
def test_output_blocks_and_selectors_mean_the_same_sites(programs, form):
    model = network()
    for options in ({"scope": "output-blocks"}, {"include": "blocks.*"}, {"exclude": ["act", "re:mlp.*"]}):
        mine = [e.site for e in dcs.plan(programs[False, form], **options).edits]
        assert sorted(mine) == sorted(e.site for e in dcs.plan(model, example_inputs=(points(),), **options).edits)


@pytest.mark.parametrize("form", FORMS)
def test_sizes_of_graphs_stay_free_and_forces_can_be_trained(form):
    torch.manual_seed(1)
    model = Molecule().double()
    free = torch.export.Dim.DYNAMIC
    shapes = ({0: free}, {0: free}, {1: free}, {0: free}, {0: free})
    program = export(model, *batch_of((3, 4)), shapes=shapes)
    program = decomposed(program) if form == "decomposed" else program
    surgery = dcs.transform(program, example_inputs=batch_of((3, 4)))
    names = ["filter.1", "readout.1", "update.1"]
    assert sorted(e.site for e in surgery.plan.edits) == names, "no basis, no cutoff, no norm of a distance"
    expected = dcs.transform(model, example_inputs=batch_of((3, 4))).model
    for sizes in ((5,), (2, 6, 3), (4, 4)):
        z, pos, *rest = batch_of(sizes, seed=2)
        found = []
        for edited in (surgery.model, expected):
            moved = pos.clone().requires_grad_()
            energy = edited(z, moved, *rest)
            (force,) = torch.autograd.grad(energy.sum(), moved, create_graph=True)
            weights = dict(edited.named_parameters())
            grads = torch.autograd.grad(force.square().sum(), list(weights.values()), allow_unused=True)
            found.append((energy, force, {k: g for k, g in zip(weights, grads, strict=True) if g is not None}))
        torch.testing.assert_close(found[0][:2], found[1][:2], rtol=1e-11, atol=1e-13)
        assert found[0][2].keys() == found[1][2].keys()
        for name, grad in found[0][2].items():
            torch.testing.assert_close(grad, found[1][2][name], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_branches_of_control_flow_are_edited(form):
    torch.manual_seed(0)
    model = Branches().double()
    program = export(model, points(4))
    program = decomposed(program) if form == "decomposed" else program
    inputs = points(4)
    assert sorted(s.operator for s in dcs.inspect(program)) == ["silu", "tanh"]
    surgery = dcs.transform(program, example_inputs=(inputs,))
    assert len(surgery.plan.edits) == 2
    for x in (inputs.abs(), -inputs.abs()):
        h = model.a(x)
        hand = 0.5 * F.relu(h) ** 2 + (0 if x.sum() > 0 else 1)
        torch.testing.assert_close(surgery.model(x), model.b(hand), rtol=1e-13, atol=1e-13)
    assert not len(dcs.inspect(surgery.program))


def test_what_writes_into_its_input_still_does():
    torch.manual_seed(0)
    model = Inplace().double()
    expected = dcs.transform(model, example_inputs=(points(),)).model
    for program in (export(model, points()), decomposed(export(model, points()))):
        edited = dcs.transform(program, example_inputs=(points(),)).model
        torch.testing.assert_close(edited(points(7)), expected(points(7)), rtol=1e-13, atol=1e-13)


# -- replacements and rescaling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["integrated-silu", "integrated-softplus(beta=2.0)", "integrated-leaky-relu"])
@pytest.mark.parametrize("form", FORMS)
def test_other_activations_become_aten_operators_too(programs, name, form):
    model, program = network(), programs[False, form]
    options = {"activation": name, "denorm": False, "scope": "output-blocks", "example_inputs": (points(),)}
    surgery = dcs.transform(program, **options)
    assert_same(surgery.model, dcs.transform(model, **options).model, points(6, seed=4))
    targets = {node.target for node in surgery.program.graph.nodes if node.op == "call_function"}
    assert all(isinstance(t, torch._ops.OpOverload) or t.__module__ == "_operator" for t in targets)
    left = {site.name for site in dcs.inspect(surgery.program)}
    assert "out_block.1" not in left, "what surgery has put in is no site"


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.7, dtype=torch.float64))
        self.register_buffer("shift", torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x):
        return torch.tanh(self.weight * x) + self.shift


@pytest.mark.parametrize("form", FORMS)
def test_an_activation_of_your_own_brings_its_tensors(programs, form):
    options = {"activation": Scaled(), "denorm": False, "include": ["out_block.1", "mlp.2"]}
    surgery = dcs.transform(programs[False, form], example_inputs=(points(),), **options)
    added = sorted(surgery.key_map.added)
    assert added == sorted(f"dcs_activation_{i}.{n}" for i in range(2) for n in ("weight", "shift"))
    expected = dcs.transform(network(), example_inputs=(points(),), **options).model
    torch.testing.assert_close(surgery.model(points(6)), expected(points(6)), rtol=1e-12, atol=1e-13)
    signature = surgery.program.graph_signature
    assert {"dcs_activation_0.weight", "dcs_activation_1.weight"} <= set(signature.parameters)
    assert {"dcs_activation_0.shift", "dcs_activation_1.shift"} <= set(signature.buffers)


class Wide(nn.Module):
    def forward(self, x):
        return x / x.shape[-1]


def test_an_activation_that_depends_on_its_inputs_shape_is_refused(programs):
    program = programs[False, "training"]
    with pytest.raises(Refused, match="Wide cannot be written into a program: it depends on the shape"):
        dcs.apply(program, dcs.plan(program, activation=Wide(), denorm=False))


@pytest.mark.parametrize("form", FORMS)
def test_labels_are_rescaled_by_a_buffer_of_the_program(programs, form):
    program = programs[False, form]
    options = {"irelu": False, "denorm": False, "outputs": ["energy"], "example_inputs": (points(),)}
    surgery = dcs.transform(program, rescale=1e3, **options)
    raw, scaled = module_of(program)(points(6)), surgery.model(points(6))
    torch.testing.assert_close(scaled["energy"], 1e3 * raw["energy"], rtol=1e-14, atol=0)
    assert torch.equal(scaled["hidden"], raw["hidden"])
    assert surgery.program.state_dict["label_scale"] == 1e3
    with pytest.raises(Refused, match="rescaled already"):
        dcs.transform(surgery.program, rescale=10.0, **options)


# -- plans -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_plan_is_replayed_on_the_program_when_it_is_read_again(programs, form):
    program = programs[False, form]
    plan = dcs.plan(program, example_inputs=(points(),))
    again = Plan.from_yaml(plan.to_yaml())
    assert again == plan
    stream = io.BytesIO()
    torch.export.save(program, stream)
    stream.seek(0)
    edited = dcs.apply(torch.export.load(stream), again).model
    expected = dcs.apply(program, plan).model
    assert torch.equal(edited(points(6))["energy"], expected(points(6))["energy"])


def test_a_plan_for_another_form_of_the_program_does_not_fit(programs):
    plan = dcs.plan(programs[False, "training"])
    with pytest.raises(PlanMismatch):
        dcs.apply(programs[False, "decomposed"], plan)


def test_programs_are_not_edited_in_place(programs):
    program = programs[False, "training"]
    with pytest.raises(BadInput, match="an ExportedProgram cannot be edited in place"):
        dcs.transform(program, inplace=True)
    with pytest.raises(BadInput, match="was no ExportedProgram"):
        _ = dcs.transform(network(), example_inputs=(points(),)).program
