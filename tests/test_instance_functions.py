"""Hooks and patched forwards: edited like any other code, on the one module that they stand on."""

import copy
import functools
import io
import types

import pytest
import torch
import torch.nn.functional as F
from models.case import Net, hand, rows
from torch import nn

import dcsurgery as dcs
from dcsurgery.instance_functions import EditedFunction


def hook_with_activation(module, inputs, output):
    return F.silu(output)


def doubling_pre_hook(module, inputs):
    return (2 * torch.tanh(inputs[0]),)


def patched(self, x):
    return self.b(F.gelu(self.a(x)))


class Plain(Net):
    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


def net(cls=Plain):
    torch.manual_seed(0)
    return cls().double()


def test_activations_in_forward_hooks_are_replaced_on_the_hooked_module_only():
    model = net()
    model.a.register_forward_hook(hook_with_activation)
    surgery = dcs.transform(model, example_inputs=(rows(),))
    assert surgery.report.ok
    assert sorted(edit.site for edit in surgery.plan) == ["a.hook_with_activation@silu", "forward@tanh"]
    x = rows()
    linear = F.linear(x, model.a.weight, model.a.bias)
    torch.testing.assert_close(surgery.model(x), F.linear(hand(hand(linear)), model.b.weight, model.b.bias))
    assert next(iter(model.a._forward_hooks.values())) is hook_with_activation
    torch.testing.assert_close(model(x), F.linear(torch.tanh(F.silu(linear)), model.b.weight, model.b.bias))


def test_pre_hooks_and_their_order_are_kept():
    model = net()
    calls = []
    model.b.register_forward_pre_hook(lambda m, i: calls.append("first"))
    model.b.register_forward_pre_hook(doubling_pre_hook)
    model.b.register_forward_pre_hook(lambda m, i: calls.append("last"))
    edited = dcs.transform(model, example_inputs=(rows(),)).model
    calls.clear()
    x = rows()
    linear = F.linear(x, model.a.weight, model.a.bias)
    torch.testing.assert_close(edited(x), F.linear(2 * hand(hand(linear)), model.b.weight, model.b.bias))
    assert calls == ["first", "last"]


def test_a_patched_forward_is_edited_and_the_class_keeps_its_own():
    model = net()
    model.forward = types.MethodType(patched, model)
    surgery = dcs.transform(model, example_inputs=(rows(),))
    assert "patched@gelu" in {edit.site for edit in surgery.plan}
    x = rows()
    torch.testing.assert_close(surgery.model(x), model.b(hand(F.linear(x, model.a.weight, model.a.bias))))
    torch.testing.assert_close(model(x), model.b(F.gelu(model.a(x))))


@pytest.mark.parametrize("inputs", [(rows(),), None], ids=["run", "static"])
def test_the_sites_are_found_with_and_without_a_run(inputs):
    model = net()
    model.a.register_forward_hook(hook_with_activation)
    assert "a.hook_with_activation@silu" in {site.name for site in dcs.inspect(model, inputs)}


def test_a_partial_as_forward_is_edited():
    model = net()
    model.forward = functools.partial(patched, model)
    surgery = dcs.transform(model, example_inputs=(rows(),), inplace=True)  # a partial holds the model itself
    x = rows()
    torch.testing.assert_close(surgery.model(x), model.b(hand(model.a(x))))
    assert surgery.undo() is model
    torch.testing.assert_close(model(x), model.b(F.gelu(model.a(x))))


def test_undo_puts_the_hooks_themselves_back():
    model = net()
    model.a.register_forward_hook(hook_with_activation)
    expected = model(rows())
    surgery = dcs.transform(model, example_inputs=(rows(),), inplace=True)
    assert isinstance(next(iter(model.a._forward_hooks.values())), EditedFunction)
    surgery.undo()
    assert next(iter(model.a._forward_hooks.values())) is hook_with_activation
    assert torch.equal(model(rows()), expected)


def test_a_second_surgery_starts_from_the_authors_hook():
    model = net()
    model.a.register_forward_hook(hook_with_activation)
    plan = dcs.plan(model, example_inputs=(rows(),), include="a.hook_with_activation@silu", denorm=False)
    once = dcs.apply(model, plan).model
    assert "a.hook_with_activation@silu" not in {site.name for site in dcs.inspect(once, (rows(),))}
    again = dcs.transform(once, example_inputs=(rows(),)).model
    x = rows()
    linear = F.linear(x, model.a.weight, model.a.bias)
    torch.testing.assert_close(again(x), F.linear(hand(hand(linear)), model.b.weight, model.b.bias))


def test_edited_hooks_survive_deepcopy_and_pickle():
    model = net()
    model.a.register_forward_hook(hook_with_activation)
    edited = dcs.transform(model, example_inputs=(rows(),)).model
    expected = edited(rows())
    assert torch.equal(copy.deepcopy(edited)(rows()), expected)
    stream = io.BytesIO()
    torch.save(edited, stream)
    stream.seek(0)
    assert torch.equal(torch.load(stream, weights_only=False)(rows()), expected)


def test_hooks_of_replaced_and_deleted_modules_are_edited_where_they_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.SiLU(), nn.Linear(4, 2)).double()
    model[1].register_forward_hook(hook_with_activation)
    model[2].register_forward_hook(hook_with_activation)
    surgery = dcs.transform(model, example_inputs=(rows(),))
    x = rows()
    torch.testing.assert_close(surgery.model(x), model[3](hand(hand(hand(model[0](x))))))
