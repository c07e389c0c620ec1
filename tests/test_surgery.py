"""Surgery keeps its contracts: the original, keys, tensors, hooks and modes survive, and every edit can be undone."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dcsurgery as dcs
from dcsurgery.errors import BadInput, CheckFailed
from dcsurgery.passes import FoldBatchNorm, Pipeline


class Net(nn.Module):
    """Every kind of place, batch statistics, dropout, tied weights, a frozen parameter and a buffer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.norm = nn.BatchNorm1d(8)
        self.act = nn.SiLU()
        self.acts = [nn.Tanh(), F.softplus]
        self.prelu = nn.PReLU()
        self.drop = nn.Dropout(0.5)
        self.second = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.second.weight
        self.tied.bias.requires_grad_(False)
        self.register_buffer("offset", torch.arange(8.0))
        self.last = nn.Linear(8, 1)

    def forward(self, x):
        x = self.drop(self.act(self.norm(self.first(x))))
        x = self.prelu(self.acts[1](self.acts[0](self.second(x))))
        return self.last(F.layer_norm(F.relu(self.tied(x)), (8,)) + self.offset)


class Breaks(nn.Module):
    """Gives NaN as soon as its activation is not bounded."""

    def __init__(self):
        super().__init__()
        self.lin, self.act = nn.Linear(2, 2), nn.Tanh()

    def forward(self, x):
        return torch.sqrt(1.1 - self.act(20 + self.lin(x)))


class Uncopied(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin, self.act = nn.Linear(2, 2), nn.SiLU()

    def __deepcopy__(self, memo):
        raise RuntimeError("one of a kind")

    def forward(self, x):
        return self.act(self.lin(x))


def net(seed=0):
    torch.manual_seed(seed)
    return Net()


def inputs(seed=1):
    return (torch.randn(6, 3, generator=torch.Generator().manual_seed(seed)),)


def snapshot(model):
    """Everything that an edit could change: objects, classes, attributes, and the bits of every tensor."""
    return {
        "modules": [(path, id(module), type(module)) for path, module in model.named_modules(remove_duplicate=False)],
        "attributes": {
            path: {name: id(value) for name, value in vars(module).items() if not name.startswith("_")}
            for path, module in model.named_modules()
        },
        "tensors": [
            (name, id(tensor), tensor._version, tensor.requires_grad, tensor.detach().clone())
            for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
        ],
        "keys": list(model.state_dict()),
        "training": [module.training for module in model.modules()],
        "items": list(map(id, getattr(model, "acts", ()))),
    }


def assert_same(before, after, *, versions=True):
    for part in ("modules", "attributes", "keys", "training", "items"):
        assert before[part] == after[part], part
    assert len(before["tensors"]) == len(after["tensors"])
    for mine, theirs in zip(before["tensors"], after["tensors"], strict=True):
        assert mine[:2] == theirs[:2]
        assert mine[3] == theirs[3]
        assert torch.equal(mine[4], theirs[4]), mine[0]
        assert not versions or mine[0].startswith("norm.") or mine[2] == theirs[2]


# -- the argument ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("example_inputs", [None, inputs()], ids=["static", "run"])
def test_the_argument_is_bit_identical_afterwards(training, example_inputs):
    model = net().train(training)
    before, generator = snapshot(model), torch.random.get_rng_state()
    result = dcs.transform(model, rescale=10.0, gates=True, example_inputs=example_inputs)
    assert result.model is not model
    assert_same(before, snapshot(model))
    assert torch.equal(generator, torch.random.get_rng_state())
    assert result.undo() is model


@pytest.mark.parametrize("function", [dcs.inspect, dcs.plan], ids=["inspect", "plan"])
def test_looking_changes_nothing(function):
    model = net()
    before, generator = snapshot(model), torch.random.get_rng_state()
    function(model, example_inputs=inputs())
    assert_same(before, snapshot(model))
    assert torch.equal(generator, torch.random.get_rng_state())


def test_example_inputs_are_not_changed():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    x = inputs()[0].requires_grad_()
    kept = x.detach().clone()
    result = dcs.transform(model, denorm=False, example_inputs=(x,))
    assert torch.equal(x, kept)
    assert x.grad is None
    assert result.report.ok


# -- the result --------------------------------------------------------------------------------------------------------


def test_edited_and_original_share_no_tensor():
    model = net()
    edited = dcs.transform(model, example_inputs=inputs()).model
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    assert not own & {t.untyped_storage().data_ptr() for t in [*edited.parameters(), *edited.buffers()]}


def test_the_key_map_goes_both_ways():
    model = net()
    result = dcs.transform(model, rescale=10.0, example_inputs=inputs())
    keys, old = result.key_map, model.state_dict()
    assert set(keys.deleted) == {"prelu.weight", *(key for key in old if key.startswith("norm."))}
    assert keys.added == ("label_scale",)
    assert set(keys.kept) == set(old) - set(keys.deleted)
    other = net(seed=5).state_dict()
    result.model.load_state_dict({**keys.forward(other), "label_scale": result.model.label_scale}, strict=True)
    back = keys.backward(result.model.state_dict(), original=other)
    assert set(back) == set(other)
    assert all(torch.equal(back[key], other[key]) for key in other)
    model.load_state_dict(back, strict=True)
    assert set(keys.to_dict()) == {"kept", "deleted", "added"}


def test_an_old_checkpoint_loads_as_it_is():
    result = dcs.transform(net(), example_inputs=inputs())
    other = net(seed=5)
    result.model.load_state_dict(other.state_dict(), strict=True)
    assert torch.equal(result.model.first.weight, other.first.weight)


def test_tied_weights_stay_tied_and_frozen_ones_frozen():
    edited = dcs.transform(net(), example_inputs=inputs()).model
    assert edited.tied.weight is edited.second.weight
    assert {name for name, p in edited.named_parameters() if not p.requires_grad} == {"tied.bias"}


def test_in_place_every_surviving_parameter_is_the_same_object():
    model = net()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    result = dcs.transform(model, example_inputs=inputs(), inplace=True)
    assert result.model is model
    for name, parameter in model.named_parameters(remove_duplicate=False):
        assert parameter is parameters[name]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtypes_survive(dtype):
    model = net().to(dtype)
    edited = dcs.transform(model, example_inputs=(inputs()[0].to(dtype),)).model
    assert {t.dtype for t in [*edited.parameters(), *edited.buffers()] if t.is_floating_point()} == {dtype}
    assert edited(inputs()[0].to(dtype)).dtype == dtype


@pytest.mark.parametrize("training", [True, False])
def test_modes_survive_and_dropout_stays_alive(training):
    edited = dcs.transform(net().train(training), example_inputs=inputs()).model
    assert {module.training for module in edited.modules()} == {training}
    torch.manual_seed(0)
    first, second = edited(*inputs()), edited(*inputs())
    assert torch.equal(first, second) is not training
    assert torch.equal(edited.eval()(*inputs()), edited(*inputs()))


def test_hooks_survive_where_modules_are_exchanged():
    model, seen = net(), []
    for name in ("act", "norm", "first"):
        module = getattr(model, name)
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
    edited = dcs.transform(model, inplace=True).model
    seen.clear()
    edited(*inputs())
    assert seen == ["first", "norm", "act"]


def test_the_result_is_an_instance_of_its_class_copies_and_pickles():
    edited = dcs.transform(net().eval(), rescale=2.0, example_inputs=inputs()).model
    assert isinstance(edited, Net)
    assert type(edited).__name__ == "Net"
    stream = io.BytesIO()
    torch.save(edited, stream)
    stream.seek(0)
    for twin in (copy.deepcopy(edited), torch.load(stream, weights_only=False)):
        assert torch.equal(twin(*inputs()), edited(*inputs()))
        assert list(twin.state_dict()) == list(edited.state_dict())


def test_a_site_that_was_not_selected_computes_the_same_bits():
    model = net().eval()
    seen = {}

    def keep(name):
        return lambda module, args, output: seen.setdefault(name, []).append(output)

    result = dcs.transform(model, include="forward@relu", denorm=False, example_inputs=inputs())
    for network in (model, result.model):
        network.prelu.register_forward_hook(keep("before"))
        network.last.register_forward_hook(keep("behind"))
        network(*inputs())
    assert torch.equal(*seen["before"])
    assert not torch.equal(*seen["behind"])


# -- in place and back -------------------------------------------------------------------------------------------------


def test_undo_restores_bit_for_bit():
    model = net()
    before, expected = snapshot(model), model.eval()(*inputs())
    model.train()
    result = dcs.transform(model, rescale=10.0, example_inputs=inputs(), inplace=True)
    assert type(model.act).__name__ == "IReLU"
    assert not torch.equal(model.eval()(*inputs()), expected)
    model.train()
    assert result.undo() is model
    assert_same(before, snapshot(model), versions=False)
    assert torch.equal(model.eval()(*inputs()), expected)


def test_undo_keeps_what_was_trained_since():
    model = net()
    result = dcs.transform(model, inplace=True)
    with torch.no_grad():
        model.first.weight.fill_(2.0)
    result.undo()
    assert torch.equal(model.first.weight, torch.full((8, 3), 2.0))


def test_undoing_twice_does_no_harm():
    model = net()
    before = snapshot(model)
    result = dcs.transform(model, inplace=True)
    result.undo()
    result.undo()
    assert_same(before, snapshot(model))


def test_a_failed_check_undoes_an_edit_in_place():
    torch.manual_seed(0)
    model = Breaks()
    before = snapshot(model)
    with pytest.raises(CheckFailed, match="check 'finite' failed: output: 2 values") as error:
        dcs.transform(model, example_inputs=(torch.zeros(1, 2),), inplace=True)
    assert_same(before, snapshot(model), versions=False)
    assert error.value.exit_code == 1
    assert [check.name for check in error.value.report.failures] == ["finite"]


def test_a_failed_check_out_of_place_leaves_the_argument_alone():
    model = Breaks()
    before = snapshot(model)
    with pytest.raises(CheckFailed):
        dcs.transform(model, example_inputs=(torch.zeros(1, 2),))
    assert_same(before, snapshot(model))


# -- edits of edited models --------------------------------------------------------------------------------------------


def test_an_edited_model_can_be_edited_again():
    model, x = net().eval(), inputs()
    stepwise = dcs.transform(model, include="forward@relu", denorm=False, example_inputs=x).model
    stepwise = dcs.transform(stepwise, irelu=False, example_inputs=x).model
    stepwise = dcs.transform(stepwise, denorm=False, example_inputs=x).model
    stepwise = dcs.transform(stepwise, irelu=False, denorm=False, rescale=4.0, example_inputs=x).model
    at_once = dcs.transform(model, rescale=4.0, example_inputs=x).model
    assert torch.equal(stepwise(*x), at_once(*x))
    assert len(dcs.inspect(stepwise, x).activations) == 0


def test_edits_in_place_are_undone_in_reverse_order():
    model, x = net().eval(), inputs()
    before, expected = snapshot(model), model(*x)
    first = dcs.transform(model, denorm=False, example_inputs=x, inplace=True)
    second = dcs.transform(model, irelu=False, example_inputs=x, inplace=True)
    second.undo()
    first.undo()
    assert_same(before, snapshot(model), versions=False)
    assert torch.equal(model(*x), expected)


def test_nothing_is_left_to_edit_afterwards():
    edited = dcs.transform(net(), example_inputs=inputs()).model
    with pytest.raises(dcs.NothingMatched):
        dcs.transform(edited, example_inputs=inputs())


# -- the report --------------------------------------------------------------------------------------------------------


def test_the_report_says_what_was_done_and_what_was_left_alone():
    result = dcs.transform(net(), include=["act", "norm", "forward@relu"], example_inputs=inputs())
    assert result.report.done == (
        "~ act: silu => irelu (module swapped)",
        "~ forward@relu: relu => irelu (call rewritten)",
        "- norm: batch_norm (module deleted)",
    )
    alone = [line.split(":")[0] for line in result.report.left_alone]
    assert sorted(alone) == sorted(["acts[0]", "acts[1]", "prelu", "forward@layer_norm"])
    assert all("(not selected)" in line for line in result.report.left_alone)
    assert {"keys", "residual", "value witness", "gradcheck"} <= {check.name for check in result.report}
    assert "pass residual 0 (limit 0): 3 selected sites" in str(result)
    assert "<table>" in result._repr_html_()


def test_a_kind_of_edit_that_matches_nothing_is_a_warning():
    result = dcs.transform(nn.Sequential(nn.Linear(2, 2), nn.SiLU()), example_inputs=(torch.ones(2, 2),))
    assert "Denormalize matched nothing" in result.report.warnings


def test_asking_for_nothing_is_the_identity():
    result = dcs.transform(net(), irelu=False, denorm=False, example_inputs=inputs())
    assert result.report.ok
    assert len(result.plan) == 0


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [None, "model.pt", {"a": torch.ones(1)}, nn.SiLU, torch.ones(2)], ids=lambda m: type(m).__name__
)
def test_what_is_no_model_is_bad_input(model):
    for call in (dcs.inspect, dcs.plan, dcs.transform, lambda m: dcs.apply(m, dcs.Plan())):
        with pytest.raises(BadInput, match="not a model"):
            call(model)


def test_a_model_that_cannot_be_copied_is_bad_input_and_can_be_edited_in_place():
    with pytest.raises(BadInput, match=r"cannot be copied: RuntimeError: one of a kind.*inplace=True"):
        dcs.transform(Uncopied())
    plan = dcs.plan(Uncopied())
    assert type(dcs.apply(Uncopied(), plan, inplace=True).model.act).__name__ == "IReLU"


def test_irelu_is_no_place_for_a_name():
    with pytest.raises(BadInput, match="activation=…"):
        dcs.transform(net(), irelu="silu")


def test_folding_in_place_can_be_undone():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3)).eval()
    before = snapshot(model)
    Pipeline([FoldBatchNorm()])(model, inputs(), inplace=True).undo()
    assert_same(before, snapshot(model), versions=False)
