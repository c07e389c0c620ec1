"""Edit log, undo, replay on another instance, and the key map both ways."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dcsurgery as dcs
from dcsurgery.errors import BadInput, PlanMismatch
from dcsurgery.passes import FoldBatchNorm, Pipeline, ReplaceActivations
from dcsurgery.surgery import KeyMap


class Net(nn.Module):
    """A site of every kind: module, attribute, call, kernel, norm, parameters in an activation."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.act = nn.SiLU()
        self.prelu = nn.PReLU()
        self.function = torch.tanh
        self.rnn = nn.LSTM(6, 5, batch_first=True)
        self.scale_norm = nn.LayerNorm(5)
        self.last = nn.Linear(5, 1)

    def forward(self, x):
        x = self.prelu(self.act(self.norm(self.first(x))))
        x = F.softplus(self.function(x))
        x, _ = self.rnn(x[:, None, :])
        return self.last(self.scale_norm(x[:, 0]))


def net(seed=0):
    torch.manual_seed(seed)
    model = Net()
    with torch.no_grad():
        model(inputs(seed + 10)[0])  # moves the running statistics
        model.norm.weight.uniform_(0.5, 1.5)
        model.norm.bias.normal_()
    return model.double().eval()


def inputs(seed=0):
    return (torch.randn(7, 4, generator=torch.Generator().manual_seed(seed)),)


def doubles(seed=0):
    return (inputs(seed)[0].double(),)


def steps(model, count=3):
    """Train, as one does between a surgery and its undoing."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for step in range(count):
        optimizer.zero_grad()
        model.train()(doubles(step)[0]).square().sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def snapshot(model):
    """Return everything that makes a model what it is: classes, attributes, hooks, bits, outputs and gradients."""
    output = model(*doubles())
    gradients = torch.autograd.grad(output.square().sum(), list(model.parameters()), allow_unused=True)
    return {
        "classes": {path: type(module) for path, module in model.named_modules(remove_duplicate=False)},
        "modes": {path: module.training for path, module in model.named_modules()},
        "attributes": {
            (path, key): value
            for path, module in model.named_modules()
            for key, value in vars(module).items()
            if not key.startswith("_") and not isinstance(value, torch.Tensor)
        },
        "bits": {key: value.clone() for key, value in model.state_dict().items()},
        "output": output.detach(),
        "gradients": gradients,
    }


def assert_same(one, other):
    assert one["classes"] == other["classes"]
    assert one["modes"] == other["modes"]
    assert one["attributes"].keys() == other["attributes"].keys()
    for key, value in one["attributes"].items():
        assert value is other["attributes"][key] or value == other["attributes"][key]
    assert list(one["bits"]) == list(other["bits"])
    assert all(torch.equal(value, other["bits"][key]) for key, value in one["bits"].items())
    assert torch.equal(one["output"], other["output"])
    for mine, theirs in zip(one["gradients"], other["gradients"], strict=True):
        assert (mine is None and theirs is None) or torch.equal(mine, theirs)


def fold(model, example_inputs, **options):
    """Fold every batch norm; without the checks of a whole transform."""
    return dcs.apply(model, Pipeline([FoldBatchNorm()]).plan(model, example_inputs), **options)


@pytest.fixture(scope="module")
def plan():
    return dcs.plan(net(), rescale=100.0, example_inputs=doubles())


# --------------------------------------------------------------------------------------------------------------- log


def test_the_log_tells_every_edit_in_order_and_how_it_was_realised(plan):
    surgery = dcs.apply(net(), plan)
    assert [done.edit for done in surgery.log] == list(plan)
    how = {done.edit.site or "labels": done.how for done in surgery.log}
    assert how["act"] == how["prelu"] == "module swapped"
    assert how["function"] == "attribute swapped"
    assert how["forward@softplus"] == "call rewritten"
    assert how["norm"] == how["scale_norm"] == "module deleted"
    assert how["labels"] == "outputs multiplied"
    assert {h for site, h in how.items() if site.startswith("rnn")} == {"kernel opened"}
    assert surgery.report.done == tuple(str(done) for done in surgery.log)
    assert str(surgery.log[0]) == f"{surgery.log[0].edit} ({surgery.log[0].how})"


def test_the_log_goes_into_the_record_as_plain_types(plan):
    record = dcs.apply(net(), plan).to_record()
    assert json.loads(json.dumps(record)) == record
    assert [entry["site"] for entry in record["log"]] == [edit.site for edit in plan]
    assert dcs.Plan.from_yaml(record["plan"]) == plan
    assert KeyMap.from_dict(record["key_map"]) == dcs.apply(net(), plan).key_map


def test_folds_are_logged_as_such():
    surgery = fold(net(), doubles())
    assert [done.how for done in surgery.log] == ["folded into the layer before"]


# -------------------------------------------------------------------------------------------------------------- undo


@pytest.mark.parametrize("training", [True, False])
def test_undo_in_place_gives_the_original_back_bit_for_bit(plan, training):
    model = net()
    before = snapshot(model)
    surgery = dcs.apply(model, plan, inplace=True)
    assert not torch.equal(model(*doubles()), before["output"])
    model.train(training)
    assert surgery.undo() is model
    assert {module.training for module in model.modules()} == {training}  # what was put aside has missed that
    assert_same(snapshot(model.eval()), before)


def test_undo_out_of_place_gives_the_original_whatever_the_edited_model_has_learned(plan):
    model = net()
    before = snapshot(model)
    surgery = dcs.apply(model, plan)
    steps(surgery.model)
    assert surgery.undo() is model
    assert_same(snapshot(model), before)


def test_undo_in_place_after_training_keeps_what_was_learned_and_gives_back_what_was_deleted(plan):
    model = net()
    before = snapshot(model)
    surgery = dcs.apply(model, plan, inplace=True)
    steps(model)
    learned = {key: value.clone() for key, value in model.state_dict().items()}
    surgery.undo()
    after = snapshot(model)
    assert after["classes"] == before["classes"]
    assert list(after["bits"]) == list(before["bits"])
    for key, value in after["bits"].items():
        assert torch.equal(value, before["bits"][key] if key in surgery.key_map.deleted else learned[key])
    model.load_state_dict(before["bits"], strict=True)
    assert_same(snapshot(model), before)


def test_undo_of_a_fold_gives_back_the_layers_weights_also_after_training():
    model = net()
    before = snapshot(model)
    surgery = fold(model, doubles(), inplace=True)
    steps(model, 1)
    surgery.undo()
    for key in ("first.weight", "first.bias", "norm.weight", "norm.running_var"):
        assert torch.equal(model.state_dict()[key], before["bits"][key])


def test_two_surgeries_in_place_are_undone_one_after_the_other(plan):
    model = net()
    before = snapshot(model)
    first = dcs.apply(model, dcs.plan(model, denorm=False, example_inputs=doubles()), inplace=True)
    between = snapshot(model)
    second = dcs.apply(model, dcs.plan(model, irelu=False, rescale=10.0, example_inputs=doubles()), inplace=True)
    second.undo()
    assert_same(snapshot(model), between)
    first.undo()
    assert_same(snapshot(model), before)


# ------------------------------------------------------------------------------------------------------------- replay


@pytest.mark.parametrize("through_yaml", [False, True], ids=["object", "yaml"])
@pytest.mark.parametrize("inplace", [False, True], ids=["copy", "in place"])
def test_a_replayed_plan_makes_the_same_model_of_another_instance(plan, through_yaml, inplace):
    first, other = dcs.apply(net(), plan), net(seed=5)
    weights = {key: value.clone() for key, value in other.state_dict().items()}
    replayed = dcs.apply(other, dcs.Plan.from_yaml(plan.to_yaml()) if through_yaml else plan, inplace=inplace)
    assert (replayed.model is other) == inplace
    assert [done.how for done in replayed.log] == [done.how for done in first.log]
    assert replayed.key_map == first.key_map
    for key in replayed.key_map.kept:
        assert torch.equal(replayed.model.state_dict()[key], weights[key])
    replayed.model.load_state_dict(first.model.state_dict(), strict=True)
    assert torch.equal(replayed.model(*doubles()), first.model(*doubles()))


def test_replay_works_for_another_dtype_and_in_training_mode(plan):
    replayed = dcs.apply(net(seed=5).float().train(), plan).model
    assert replayed(*inputs()).dtype == torch.float32
    assert all(module.training for module in replayed.modules())


def test_both_plans_are_replayed_in_order_after_a_second_surgery(plan):
    model = net()
    first = dcs.apply(model, dcs.plan(model, denorm=False, example_inputs=doubles()))
    text = first.plan.to_yaml()
    second = dcs.apply(first.model, dcs.plan(first.model, irelu=False, rescale=10.0, example_inputs=doubles()))
    assert first.plan.to_yaml() == text  # the second has not touched it
    other = net(seed=5)
    alone = dcs.apply(other, first.plan)
    assert torch.equal(alone.undo()(*doubles()), net(seed=5)(*doubles()))
    both = dcs.apply(alone.model, dcs.Plan.from_yaml(second.plan.to_yaml()))
    both.model.load_state_dict(second.model.state_dict(), strict=True)
    assert torch.equal(both.model(*doubles()), second.model(*doubles()))
    with pytest.raises(PlanMismatch, match="the plan does not fit the model"):
        dcs.apply(other, second.plan)  # it was made for the edited one
    with pytest.raises(PlanMismatch):
        dcs.apply(both.model, first.plan)


def test_a_plan_with_a_users_own_activation_is_replayed_without_yaml():
    class Bump(nn.Module):
        def forward(self, x):
            return torch.exp(-x * x)

    surgery = Pipeline([ReplaceActivations(Bump(), where="act")])(net())
    replayed = dcs.apply(net(seed=5), surgery.plan)
    assert isinstance(replayed.model.act, Bump)
    assert replayed.model.act is not surgery.model.act
    with pytest.raises(BadInput, match="the plan holds a Bump"):
        surgery.plan.to_yaml()


def test_a_fold_is_replayed_with_the_other_instances_numbers():
    plan = fold(net(), doubles()).plan
    other = net(seed=5)
    replayed = dcs.apply(other, dcs.Plan.from_yaml(plan.to_yaml()))
    torch.testing.assert_close(replayed.model(*doubles()), other(*doubles()), rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------ key map


@pytest.mark.parametrize("prefix", ["", "module.", "module.module.", "_orig_mod.module."])
def test_an_old_checkpoint_goes_into_the_edited_model_and_comes_back(plan, prefix):
    surgery, old = dcs.apply(net(), plan), net(seed=5).state_dict()
    surgery.key_map.load(surgery.model, {f"{prefix}{key}": value for key, value in old.items()})
    expected = dcs.apply(net(seed=5), plan).model
    assert torch.equal(surgery.model(*doubles()), expected(*doubles()))
    assert float(surgery.model.label_scale) == 100.0
    back = surgery.key_map.export(surgery.model, old)
    assert back.keys() == old.keys()
    assert all(torch.equal(back[key], old[key]) for key in old)


def test_weights_trained_in_the_edited_model_go_back_into_the_original(plan):
    model = net()
    surgery = dcs.apply(model, plan)
    steps(surgery.model)
    model.load_state_dict(surgery.key_map.export(surgery.model, model), strict=True)
    again = dcs.apply(model, plan).model
    assert torch.equal(again(*doubles()), surgery.model(*doubles()))


def test_the_gates_of_a_recurrent_layer_keep_their_keys(plan):
    keys = dcs.apply(net(), plan).key_map
    assert {key for key in net().state_dict() if key.startswith("rnn.")} <= set(keys.kept)
    assert keys.added == ("label_scale",)
    assert set(keys.deleted) == {k for k in net().state_dict() if k.split(".")[0] in ("norm", "scale_norm", "prelu")}


class Folded(nn.Module):
    """Batch norms behind layers with and without bias, with and without scale and shift."""

    def __init__(self, bias, affine):
        super().__init__()
        self.convolution = nn.Conv1d(3, 4, 2, bias=bias)
        self.one = nn.BatchNorm1d(4, affine=affine, eps=1e-3)
        self.linear = nn.Linear(8, 5, bias=bias)
        self.two = nn.BatchNorm1d(5, affine=affine)

    def forward(self, x):
        return self.two(self.linear(torch.tanh(self.one(self.convolution(x))).flatten(1)))


def folded(bias, affine, seed=0):
    torch.manual_seed(seed)
    model = Folded(bias, affine).double()
    for _ in range(20):
        model.train()(2 + 3 * torch.randn(16, 3, 3, dtype=torch.float64))
    if affine:
        for norm in (model.one, model.two):
            nn.init.normal_(norm.weight, 1.0, 0.3)
            nn.init.normal_(norm.bias)
    return model.eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_an_old_checkpoint_is_folded_on_its_way_into_a_folded_model(bias, affine):
    x = torch.randn(6, 3, 3, dtype=torch.float64)
    surgery = fold(folded(bias, affine), x)
    assert len(surgery.key_map.folds) == 2
    other = folded(bias, affine, seed=5)
    surgery.key_map.load(surgery.model, other.state_dict())
    torch.testing.assert_close(surgery.model(x), other(x), rtol=1e-12, atol=1e-12)
    assert KeyMap.from_dict(json.loads(json.dumps(surgery.key_map.to_dict()))) == surgery.key_map


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_folded_model_goes_back_into_one_with_norms_that_change_nothing(bias, affine):
    x = torch.randn(6, 3, 3, dtype=torch.float64)
    original = folded(bias, affine)
    surgery = fold(original, x)
    with torch.no_grad():
        for parameter in surgery.model.parameters():  # stands for training
            parameter.mul_(1.1).add_(0.05)
    fresh = folded(bias, affine, seed=5)
    fresh.load_state_dict(surgery.key_map.export(surgery.model, original), strict=True)
    torch.testing.assert_close(fresh(x), surgery.model(x), rtol=1e-12, atol=1e-12)


def test_maps_of_two_surgeries_are_used_one_after_the_other():
    model = net()
    first = dcs.apply(model, dcs.plan(model, denorm=False, example_inputs=doubles()))
    second = dcs.apply(first.model, dcs.plan(first.model, irelu=False, rescale=10.0, example_inputs=doubles()))
    old = net(seed=5).state_dict()
    weights = second.key_map.forward(first.key_map.forward(old))
    second.model.load_state_dict({**weights, "label_scale": second.model.label_scale}, strict=True)
    middle = second.key_map.backward(second.model.state_dict(), first.key_map.forward(old))
    back = first.key_map.backward(middle, old)
    assert all(torch.equal(back[key], old[key]) for key in old)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda old: old.pop("first.weight"), r"1 tensors are missing \(first.weight\)"),
        (lambda old: old.update(extra=torch.ones(1)), r"has 1 tensors that the original does not have \(extra\)"),
        (
            lambda old: old.update({"last.weight": torch.ones(2, 5)}),
            r"last.weight must have the shape \[1, 5\], got \[2, 5\]",
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_and_nothing_is_loaded(plan, change, told):
    surgery, old = dcs.apply(net(), plan), net(seed=5).state_dict()
    before = copy.deepcopy(surgery.model.state_dict())
    change(old)
    with pytest.raises(BadInput, match=told):
        surgery.key_map.load(surgery.model, old)
    assert all(torch.equal(value, before[key]) for key, value in surgery.model.state_dict().items())


def test_what_the_way_back_or_a_fold_needs_is_named(plan):
    surgery = dcs.apply(net(), plan)
    with pytest.raises(BadInput, match=r"tensors are missing \(norm.weight, norm.bias, norm.running_mean, …\)"):
        surgery.key_map.backward(surgery.model.state_dict())
    keys = fold(net(), doubles()).key_map
    old = {key: value for key, value in net().state_dict().items() if key != "norm.running_var"}
    with pytest.raises(BadInput, match=r"norm.running_var.*the norm cannot be folded"):
        keys.forward(old)


@pytest.mark.parametrize(
    "plain", [{}, {"kept": 3, "deleted": [], "added": []}, [], {"kept": [], "deleted": [], "added": [], "folds": [{}]}]
)
def test_what_is_no_key_map_is_refused(plain):
    with pytest.raises(BadInput, match="not a key map"):
        KeyMap.from_dict(plain)
