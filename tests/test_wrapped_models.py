"""Compiled, parallel, parametrized, quantized and frozen models: edited as they are, or refused with the way round."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from models.case import Net, hand, rows
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import dcsurgery as dcs


class Mixed(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.b(torch.tanh(self.act(self.norm(self.a(x)))))


def by_hand(model, x):
    return model.b(hand(hand(model.a(x))))


def net():
    torch.manual_seed(0)
    return Mixed().double()


@pytest.fixture
def process_group():
    with tempfile.TemporaryDirectory() as folder:
        store = (Path(folder) / "store").as_uri()
        torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()


# -- compiled --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_is_edited_and_compiles_to_the_edited_values(backend):
    model = net()
    surgery = dcs.transform(torch.compile(model, backend=backend), example_inputs=(rows(),))
    assert surgery.report.ok
    assert isinstance(surgery.model, torch._dynamo.OptimizedModule)
    torch.testing.assert_close(surgery.model(rows()), by_hand(model, rows()))
    assert [key.removeprefix("_orig_mod.") for key in surgery.model.state_dict()] == [
        "a.weight",
        "a.bias",
        "b.weight",
        "b.bias",
    ]


def test_what_was_compiled_before_an_edit_in_place_is_compiled_anew():
    model = net()
    compiled = torch.compile(model, backend="eager")
    before = compiled(rows())
    surgery = dcs.transform(compiled, example_inputs=(rows(),), inplace=True)
    torch.testing.assert_close(compiled(rows()), by_hand(model, rows()))
    surgery.undo()
    torch.testing.assert_close(compiled(rows()), before)


def test_module_compile_in_place_is_seen_through():
    model = net()
    model.compile(backend="eager")
    model(rows())
    dcs.transform(model, example_inputs=(rows(),), inplace=True)
    torch.testing.assert_close(model(rows()), by_hand(model, rows()))


class CompiledForward(Net):
    @torch.compile(backend="eager")
    def forward(self, x):
        return self.b(F.silu(self.a(x)))


@torch.compile(backend="eager")
def compiled_activation(x):
    return F.gelu(x)


class CallsCompiled(Net):
    def forward(self, x):
        return self.b(compiled_activation(self.a(x)))


@pytest.mark.parametrize("cls", [CompiledForward, CallsCompiled])
def test_a_compiled_function_inside_is_seen_through(cls):
    torch.manual_seed(0)
    model = cls().double()
    surgery = dcs.transform(model, example_inputs=(rows(),))
    assert len(surgery.plan.edits) == 1
    torch.testing.assert_close(surgery.model(rows()), model.b(hand(model.a(rows()))))


# -- parallel --------------------------------------------------------------------------------------------------------


def test_data_parallel_stays_on():
    model = net()
    surgery = dcs.transform(nn.DataParallel(model), example_inputs=(rows(),))
    assert isinstance(surgery.model, nn.DataParallel)
    torch.testing.assert_close(surgery.model(rows()), by_hand(model, rows()))


def test_distributed_data_parallel_is_refused_with_the_way_round(process_group):
    wrapped = nn.parallel.DistributedDataParallel(net())
    assert len(dcs.inspect(wrapped, (rows(),))) == 3  # looking does no harm
    with pytest.raises(dcs.SurgeryError, match="DistributedDataParallel is not edited") as caught:
        dcs.transform(wrapped, example_inputs=(rows(),))
    assert "dcs.transform(model.module" in caught.value.fix
    assert dcs.transform(wrapped.module, example_inputs=(rows(),)).report.ok
    dcs.transform(wrapped, irelu=False, denorm=False, example_inputs=(rows(),))  # nothing to do, nothing to refuse


# -- parametrized ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrized_layers_keep_their_parametrization(name):
    model = net()
    getattr(parametrizations, name)(model.a)
    surgery = dcs.transform(model.eval(), example_inputs=(rows(),))
    assert surgery.report.ok
    assert parametrize.is_parametrized(surgery.model.a)
    torch.testing.assert_close(surgery.model(rows()), by_hand(model, rows()))


class Squashed(nn.Module):
    def forward(self, weight):
        return F.softplus(weight) + weight.tanh()


def test_an_activation_that_shapes_a_weight_is_left_alone():
    model = net()
    parametrize.register_parametrization(model.a, "weight", Squashed())
    parametrize.register_parametrization(model.b, "weight", nn.Tanh())
    surgery = dcs.transform(model, example_inputs=(rows(),))
    census = dcs.inspect(model, (rows(),))
    weights = [site for site in census if "parametrizations" in site.name]
    assert len(weights) == 3
    assert all(site.role == "basis" and "weight" in site.reason for site in weights)
    assert "1 activation" not in str(census).splitlines()[0]
    assert "3 bases" in str(census).splitlines()[0]
    torch.testing.assert_close(surgery.model(rows()), by_hand(model, rows()))


def test_the_old_weight_norm_leaves_a_computed_weight_and_can_be_copied_all_the_same():
    model = net()
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model.a)
    model(rows())
    surgery = dcs.transform(model, example_inputs=(rows(),))
    torch.testing.assert_close(surgery.model(rows()), by_hand(model, rows()))
    assert surgery.model.a.weight_g is not model.a.weight_g
    (gradient,) = torch.autograd.grad(surgery.model(rows()).sum(), surgery.model.a.weight_g)
    assert bool(gradient.any())


# -- frozen, low precision, quantized --------------------------------------------------------------------------------


def test_frozen_parameters_stay_frozen():
    model = net().requires_grad_(False)
    surgery = dcs.transform(model, example_inputs=(rows(),))
    assert not any(p.requires_grad for p in surgery.model.parameters())
    torch.testing.assert_close(surgery.model(rows()), by_hand(model, rows()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_models_keep_their_dtype(dtype):
    model = net().to(dtype)
    surgery = dcs.transform(model, example_inputs=(rows().to(dtype),))
    assert surgery.report.ok
    assert surgery.model(rows().to(dtype)).dtype is dtype


def test_a_replacement_with_parameters_gets_the_dtype_of_its_surroundings():
    model = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1)).double()
    surgery = dcs.transform(model, activation=nn.PReLU(4), example_inputs=(rows(),), denorm=False)
    assert surgery.model[1].weight.dtype is torch.float64
    assert surgery.report.ok


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="no quantized kernels here")
def test_quantized_layers_are_refused_with_the_way_round():
    quantization = torch.ao.quantization
    model = quantization.QuantWrapper(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))).eval()
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    quantization.prepare(model, inplace=True)
    model(torch.randn(8, 3))
    quantization.convert(model, inplace=True)
    with pytest.raises(dcs.SurgeryError, match="computes with integers") as caught:
        dcs.transform(model, example_inputs=(torch.randn(8, 3),))
    assert "quantize the result" in caught.value.fix


def test_averaged_models_keep_their_counter():
    model = torch.optim.swa_utils.AveragedModel(net())
    surgery = dcs.transform(model, example_inputs=(rows(),))
    assert "n_averaged" in surgery.model.state_dict()
    torch.testing.assert_close(surgery.model(rows()), by_hand(model.module, rows()))


def test_wrapping_after_the_edit_works(process_group):
    edited = dcs.transform(net(), example_inputs=(rows(),)).model
    wrapped = nn.parallel.DistributedDataParallel(edited)
    for _ in range(3):  # DDP notices a parameter without gradient in the second step
        wrapped(rows()).square().sum().backward()
    assert all(p.grad is not None for p in edited.parameters())
    assert os.environ.get("RANK") is None
