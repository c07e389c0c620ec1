"""The models of the coverage table: each builds, runs in every mode, and can be written to a file."""

import os
import pickle
import subprocess
import sys

import pytest
import torch

from dcsurgery.zoo import coverage
from dcsurgery.zoo.coverage import CASES

# Both are about PyTorch's sparse matrices, inside PyG's GraphUNet.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in value for tensor in tensors(item)] if isinstance(value, tuple | list) else []


def test_the_fourteen_models_are_there():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) == 14
    assert {case.name for case in CASES if case.scope == "output-blocks"} == {"PyG DimeNet++"}


@EVERY_CASE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_are_finite_and_not_zero_in_train_and_eval_mode(case, dtype):
    model = case.build().to(dtype)
    for mode in (True, False):
        outputs = tensors(model.train(mode)(*case.inputs(model)))
        assert outputs
        for output in outputs:
            assert output.dtype == dtype
            assert output.isfinite().all()
            assert output.abs().max() > 0


@EVERY_CASE
def test_weights_inputs_and_outputs_are_the_same_every_time(case):
    torch.manual_seed(1)
    first = case.build().eval()
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = case.build().eval()
    assert torch.equal(state, torch.random.get_rng_state())
    with torch.no_grad():
        outputs = [tensors(model(*case.inputs(model))) for model in (first, first, second)]
    assert all(torch.equal(a, b) for other in outputs[1:] for a, b in zip(outputs[0], other, strict=True))


@EVERY_CASE
def test_float32_and_float64_agree(case):
    single, double = (
        tensors(model(*case.inputs(model))) for model in (case.build().eval(), case.build().double().eval())
    )
    for a, b in zip(single, double, strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-3, atol=1e-4 * b.abs().max().item())


@EVERY_CASE
def test_the_output_depends_on_a_floating_point_input(case):
    model = case.build().double().eval()
    inputs = case.inputs(model)
    variables = [tensor.requires_grad_() for tensor in tensors(inputs) if tensor.is_floating_point()]
    gradients = torch.autograd.grad(tensors(model(*inputs))[0].sum(), variables, allow_unused=True)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)


@EVERY_CASE
def test_a_pickle_computes_the_same_and_holds_installed_classes_only(case):
    model = case.build().eval()
    other = pickle.loads(pickle.dumps(model))
    for a, b in zip(tensors(model(*case.inputs(model))), tensors(other(*case.inputs(model))), strict=True):
        assert torch.equal(a, b)
    packages = {type(module).__module__.partition(".")[0] for module in model.modules()}
    assert packages <= {"torch", "torch_geometric", "deepxde", "dcsurgery"}


def test_importing_deepxde_leaves_backend_choice_device_and_terminal_alone():
    code = (
        "import os, torch; from dcsurgery.zoo.coverage import deepxde\n"
        "before = torch.get_default_device()\n"
        "assert deepxde().backend.backend_name == 'pytorch'\n"
        "assert torch.get_default_device() == before\n"
        "print(os.environ['DDE_BACKEND'])"
    )
    environment = {**os.environ, "DDE_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "jax"
    assert not done.stderr


def test_importing_deepxde_chooses_no_backend_for_others(monkeypatch):
    monkeypatch.delenv("DDE_BACKEND", raising=False)
    coverage.deepxde()
    assert "DDE_BACKEND" not in os.environ


@pytest.mark.parametrize("before", [None, "meta"])
def test_a_default_device_that_deepxde_sets_is_taken_back(before, monkeypatch):
    import builtins

    original = builtins.__import__

    def moving_import(name, *args, **kwargs):
        if name == "deepxde":
            torch.set_default_device("cuda:0")  # as on a machine that has one
        return original(name, *args, **kwargs)

    coverage.deepxde()
    torch.set_default_device(before)
    try:
        wanted, modes = torch.get_default_device(), len(torch.overrides._get_current_function_mode_stack())
        monkeypatch.setattr(builtins, "__import__", moving_import)
        coverage.deepxde()
        monkeypatch.undo()
        assert torch.get_default_device() == wanted
        assert len(torch.overrides._get_current_function_mode_stack()) == modes
    finally:
        torch.set_default_device(None)
