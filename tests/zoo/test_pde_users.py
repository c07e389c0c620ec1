"""Models of people who use DeepXDE: transformed with one call, put back into ``dde.Model``, trained, L-BFGS included."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import dcsurgery as dcs
from dcsurgery.cli.app import main
from dcsurgery.errors import BadInput
from dcsurgery.zoo.pde import backend
from dcsurgery.zoo.pde.backend import deepxde, settings

_NORMAL = "Glorot normal"


@pytest.fixture(autouse=True)
def seeded():
    dde = deepxde()
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - DeepXDE draws from these
    with settings(torch.float32):
        yield dde
    dde.grad.clear()


def hard(x, y):
    """u = 0 at both ends, whatever the network says."""
    return x * (1 - x) * y


def periodic(x):
    return torch.cat([torch.sin(torch.pi * x), torch.cos(torch.pi * x)], 1)


def poisson(dde, points=16, bcs=None):
    """-u'' = π² sin(πx) on [0, 1], u = 0 at the ends; the solution is sin(πx)."""
    interval = dde.geometry.Interval(0, 1)

    def residual(x, y):
        return -dde.grad.hessian(y, x) - torch.pi**2 * torch.sin(torch.pi * x)

    if bcs is None:
        bcs = [dde.icbc.DirichletBC(interval, lambda _x: 0, lambda _x, on: on)]
    return dde.data.PDE(interval, residual, bcs, num_domain=points, num_boundary=2, num_test=20)


def trained(dde, data, net, steps=60, lr=5e-3, **compile_):
    """Compile and train; return the loss before and after."""
    model = dde.Model(data, net)
    model.compile("adam", lr=lr, **compile_)
    history, _ = model.train(iterations=steps, display_every=steps, verbose=0)
    return model, float(np.sum(history.loss_train[0])), float(np.sum(history.loss_train[-1]))


# -- back into dde.Model -----------------------------------------------------------------------------------------------


def test_a_plain_network_trains_after_surgery_and_with_l_bfgs(seeded):
    dde = seeded
    net = dde.nn.FNN([1, 20, 20, 1], "tanh", _NORMAL)
    result = dcs.transform(net, irelu=True, denorm=False, example_inputs=torch.rand(32, 1))
    assert result.report.ok and len(result.plan.edits) == 1
    x = torch.rand(5, 1)
    by_hand = net.linears[1](dcs.activations.irelu(net.linears[0](x)))
    torch.testing.assert_close(result.model(x), net.linears[2](dcs.activations.irelu(by_hand)))
    model, before, after = trained(dde, poisson(dde), result.model, steps=200)
    assert after < 0.5 * before
    dde.optimizers.set_LBFGS_options(maxiter=60)
    try:
        model.compile("L-BFGS")  # the optimizer holds parameters: compile again
        history, _ = model.train(verbose=0)
    finally:
        dde.optimizers.set_LBFGS_options()
    assert float(np.sum(history.loss_train[-1])) < after
    assert all(p.grad is not None for p in result.model.parameters())


def test_parameters_survive_so_that_a_compiled_model_would_train_the_old_network(seeded):
    """Why to compile again: the optimizer was given the parameters of the network it was compiled with."""
    dde = seeded
    net = dde.nn.FNN([1, 8, 1], "tanh", _NORMAL)
    model = dde.Model(poisson(dde), net)
    model.compile("adam", lr=1e-2)
    edited = dcs.transform(net, irelu=True, denorm=False, example_inputs=torch.rand(8, 1)).model
    start = [p.clone() for p in edited.parameters()]
    model.net = edited
    model.train(iterations=2, verbose=0, display_every=5)
    assert all(torch.equal(a, b) for a, b in zip(start, edited.parameters(), strict=True))
    model.compile("adam", lr=1e-2)
    model.train(iterations=2, verbose=0, display_every=5)
    assert not all(torch.equal(a, b) for a, b in zip(start, edited.parameters(), strict=True))


@pytest.mark.parametrize(
    "activation",
    ["irelu", *(pytest.param(n, marks=pytest.mark.exam) for n in ("integrated-softplus", "integrated-relu2"))],
)
def test_transforms_and_hard_constraints_stay(seeded, activation):
    dde = seeded
    net = dde.nn.FNN([2, 16, 16, 1], "tanh", _NORMAL)
    net.apply_feature_transform(periodic)
    net.apply_output_transform(hard)
    edited = dcs.transform(net, denorm=False, activation=activation, example_inputs=torch.rand(32, 1)).model
    ends = edited(torch.tensor([[0.0], [1.0]]))
    assert torch.equal(ends, torch.zeros(2, 1))
    x = torch.rand(4, 1)
    by_hand = periodic(x)
    act = dcs.activations.activation_by_name(activation)
    for linear in edited.linears[:-1]:
        by_hand = act(linear(by_hand))
    torch.testing.assert_close(edited(x), hard(x, edited.linears[-1](by_hand)))
    _, before, after = trained(dde, poisson(dde, bcs=[]), edited, steps=100, lr=1e-2)
    assert after < before


def test_a_parallel_network_trains(seeded):
    dde = seeded
    net = dde.nn.PFNN([1, [8, 8], [8, 8], 2], "tanh", _NORMAL)
    edited = dcs.transform(net, irelu=True, denorm=False, example_inputs=torch.rand(16, 1)).model
    interval = dde.geometry.Interval(0, 1)

    def residual(x, y):
        return [dde.grad.jacobian(y, x, i=0) - y[:, 1:2], dde.grad.jacobian(y, x, i=1) + y[:, 0:1]]

    def start(component, value):
        return dde.icbc.DirichletBC(interval, lambda _x: value, lambda x, on: on and x[0] < 0.5, component=component)

    ends = [start(0, 0.0), start(1, 1.0)]
    _, before, after = trained(dde, dde.data.PDE(interval, residual, ends, 16, 2), edited, steps=200, lr=1e-2)
    assert after < 0.5 * before


@pytest.mark.exam
def test_a_parameter_of_the_equation_is_found(seeded):
    """u' = k u, u = e^(0.7 x): k is learnt along with the network."""
    dde = seeded
    k = dde.Variable(0.2)
    net = dde.nn.FNN([1, 16, 1], "tanh", _NORMAL)
    edited = dcs.transform(net, irelu=True, denorm=False, example_inputs=torch.rand(16, 1)).model
    interval = dde.geometry.Interval(0, 1)
    at = np.linspace(0, 1, 20)[:, None]
    seen = dde.icbc.PointSetBC(at, np.exp(0.7 * at))
    data = dde.data.PDE(interval, lambda x, y: dde.grad.jacobian(y, x) - k * y, [seen], 30, 2, anchors=at)
    trained(dde, data, edited, steps=600, lr=1e-2, external_trainable_variables=[k])
    assert float(k.detach()) == pytest.approx(0.7, abs=0.1)


def antiderivatives(dde, operator):
    """Pairs of functions and their integrals, as DeepXDE's operator networks take them."""
    rng = np.random.default_rng(0)
    sensors, at = np.linspace(0, 1, 10), np.linspace(0, 1, 12)[:, None]
    a, b = rng.normal(size=(2, 40, 1)).astype("f4")
    values = (a * np.cos(3 * sensors) + b).astype("f4")
    integrals = (a / 3 * np.sin(3 * at.T) + b * at.T).astype("f4")
    split = slice(0, 30), slice(30, None)
    if operator == "DeepONet":
        return dde.data.TripleCartesianProd(
            (values[split[0]], at.astype("f4")),
            integrals[split[0]],
            (values[split[1]], at.astype("f4")),
            integrals[split[1]],
        )
    halves = values, (b * np.ones_like(sensors)).astype("f4")
    return dde.data.QuadrupleCartesianProd(
        (*(h[split[0]] for h in halves), at.astype("f4")), integrals[split[0]],
        (*(h[split[1]] for h in halves), at.astype("f4")), integrals[split[1]],
    )  # fmt: skip


@pytest.mark.parametrize("operator", ["DeepONet", pytest.param("MIONet", marks=pytest.mark.exam)])
def test_operator_networks_train(seeded, operator):
    dde = seeded
    data = antiderivatives(dde, operator)
    if operator == "DeepONet":
        net = dde.nn.DeepONetCartesianProd([10, 16, 16], [1, 16, 16], {"branch": "relu", "trunk": "tanh"}, _NORMAL)
    else:
        net = dde.nn.MIONetCartesianProd(
            [10, 16, 16], [10, 16, 16], [1, 16, 16], {"branch1": "relu", "branch2": "tanh", "trunk": "tanh"}, _NORMAL
        )
    inputs = tuple(torch.as_tensor(part) for part in data.train_x)
    edited = dcs.transform(net, irelu=True, denorm=False, example_inputs=(inputs,)).model
    _, before, after = trained(dde, data, edited, steps=200)
    assert after < 0.5 * before


# -- from files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["FNN", *(pytest.param(name, marks=pytest.mark.exam) for name in ("PFNN", "DeepONet", "MIONet"))]
)
def test_saved_networks_are_transformed_from_the_command_line(seeded, name, tmp_path):
    dde = seeded
    nets = {
        "FNN": lambda: (dde.nn.FNN([1, 8, 8, 1], "tanh", _NORMAL), (torch.rand(16, 1),)),
        "PFNN": lambda: (dde.nn.PFNN([1, [8, 8], 2], "tanh", _NORMAL), (torch.rand(16, 1),)),
        "DeepONet": lambda: (
            dde.nn.DeepONetCartesianProd([10, 8, 8], [1, 8, 8], "tanh", _NORMAL),
            ((torch.rand(5, 10), torch.rand(6, 1)),),
        ),
        "MIONet": lambda: (
            dde.nn.MIONetCartesianProd(
                [10, 8, 8], [10, 8, 8], [1, 8], {"branch1": "tanh", "branch2": "tanh", "trunk": "tanh"}, _NORMAL
            ),
            ((torch.rand(5, 10), torch.rand(5, 10), torch.rand(6, 1)),),
        ),
    }  # fmt: skip
    net, inputs = nets[name]()
    torch.save(net, tmp_path / "net.pt")
    torch.save(inputs, tmp_path / "inputs.pt")
    arguments = [str(tmp_path / "net.pt"), "--irelu", "--inputs", str(tmp_path / "inputs.pt"), "--quiet"]
    assert main(["transform", *arguments]) == 0
    edited = dcs.load(tmp_path / "net.dcs.pt")
    assert type(net).__name__ in {c.__name__ for c in type(edited).__mro__}
    assert not torch.equal(edited(*inputs), net(*inputs))


# -- the backend -------------------------------------------------------------------------------------------------------

_SCRIPT = """
import json, os, sys
{before}
from dcsurgery.zoo.pde import deepxde
from dcsurgery.errors import BadInput
try:
    name = deepxde().backend.backend_name
except BadInput as error:
    name = str(error)
print(json.dumps([name, os.environ.get("DDE_BACKEND")]))
"""


def in_a_process(before, **environment):
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(before=before)],
        capture_output=True, text=True, check=True, env={**os.environ, **environment},
    )  # fmt: skip
    return json.loads(done.stdout), done.stderr


@pytest.mark.exam
def test_the_users_choice_of_a_backend_is_left_alone():
    (name, chosen), err = in_a_process("", DDE_BACKEND="jax")
    assert (name, chosen) == ("pytorch", "jax") and "backend" not in err


def test_another_backend_in_use_is_said_with_how_to_switch():
    fake = (
        "import types; m = types.ModuleType('deepxde'); m.backend = types.SimpleNamespace(backend_name='jax');"
        "sys.modules['deepxde'] = m"
    )
    (message, _), _ = in_a_process(fake)
    assert "runs on its backend 'jax'" in message and "DDE_BACKEND=pytorch" in message


def test_a_missing_deepxde_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepxde", None)
    backend._imported.cache_clear()
    try:
        with pytest.raises(BadInput, match=r"DeepXDE cannot be imported.*dcsurgery\[pde\]"):
            deepxde()
    finally:
        monkeypatch.undo()
        backend._imported.cache_clear()


def test_precisions_that_pinns_are_not_trained_in():
    with pytest.raises(BadInput, match="float32 or float64, not in float16"), settings(torch.float16):
        pass
