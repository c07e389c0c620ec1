"""Callables that nobody listed are named by what they do, and nothing else is."""

from __future__ import annotations

import functools
import math
import random
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dcsurgery.catalog import OPERATORS
from dcsurgery.fingerprint import identify

# --- what has to be recognised ----------------------------------------------------------------------------------------

#: Formulas written as users write them, beside the text that the census shows.
FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu(x)": lambda x: x.clamp(min=0),
    "-relu(-x)": lambda x: x.clamp(max=0),
    "leaky_relu(x)": lambda x: torch.where(x > 0, x, 0.01 * x),
    "leaky_relu(x, negative_slope=0.2)": lambda x: torch.maximum(x, 0.2 * x),
    "2 * leaky_relu(x, negative_slope=3) + 1": lambda x: 2 * torch.minimum(x, 3 * x) + 1,
    "relu6(x)": lambda x: x.clamp(0, 6),
    "0.5 * relu6(2.3 * x)": lambda x: (2.3 * x).clamp(0, 6) / 2,
    "hardtanh(x)": lambda x: x.clamp(-1, 1),
    "hardtanh(x, min_val=0)": lambda x: x.clamp(0, 1),
    "hardtanh(x, min_val=-5, max_val=5)": lambda x: x.clamp(-5, 5),
    "2 * hardtanh(3 * x) + 1": lambda x: 2 * (3 * x).clamp(-1, 1) + 1,
    "hardsigmoid(x)": lambda x: (x + 3).clamp(0, 6) / 6,
    "hardsigmoid(1.2 * x)": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "hardswish(x)": lambda x: x * (x + 3).clamp(0, 6) / 6,
    "hardshrink(x)": lambda x: torch.where(x.abs() > 0.5, x, torch.zeros_like(x)),
    "softshrink(x)": lambda x: torch.sign(x) * (x.abs() - 0.5).clamp(min=0),
    "softshrink(x, lambd=0.3)": lambda x: torch.sign(x) * (x.abs() - 0.3).clamp(min=0),
    "elu(x)": lambda x: torch.where(x > 0, x, torch.expm1(x.clamp(max=0))),
    "elu(x) + 1": lambda x: torch.where(x > 0, x + 1, torch.exp(x.clamp(max=0))),
    "elu(x, alpha=1.7)": lambda x: torch.where(x > 0, x, 1.7 * torch.expm1(x.clamp(max=0))),
    "elu(-3 * x, alpha=0.2)": lambda x: torch.where(x < 0, -3 * x, 0.2 * torch.expm1(-3 * x.clamp(min=0))),
    "celu(x, alpha=2)": lambda x: torch.where(x > 0, x, 2 * torch.expm1(x.clamp(max=0) / 2)),
    "celu(x, alpha=0.01)": lambda x: torch.where(x > 0, x, 0.01 * torch.expm1(x.clamp(max=0) / 0.01)),
    "selu(x)": lambda x: (
        1.0507009873554804934193349852946 * torch.where(x > 0, x, 1.6732632423543772848170429916717 * torch.expm1(x))
    ),
    "silu(x)": lambda x: x / (1 + torch.exp(-x)),
    "silu(-x)": lambda x: -x * torch.sigmoid(-x),
    "0.5875 * silu(1.702 * x)": lambda x: x * torch.sigmoid(1.702 * x),
    "1.667 * silu(x)": lambda x: F.silu(x) / 0.6,
    "1.679 * silu(x)": lambda x: F.silu(x) * 1.6791767923989418,
    "siqu(x)": lambda x: x * x * torch.sigmoid(x),
    "mish(x)": lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
    "gelu(x)": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu(x, approximate=tanh)": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "0.2 * gelu(3.3 * x)": lambda x: 0.2 * F.gelu(3.3 * x),
    "softplus(x)": lambda x: torch.log(1 + torch.exp(x)),
    "softplus(x) - 0.6931": lambda x: F.softplus(x) - math.log(2),
    "softplus(-x)": lambda x: torch.logaddexp(-x, torch.zeros_like(x)),
    "softplus(x, beta=100)": lambda x: F.softplus(100 * x) / 100,
    "softplus(x, beta=1000)": lambda x: F.softplus(x, beta=1000),
    "logsigmoid(x)": lambda x: -F.softplus(-x),
    "softsign(x)": lambda x: x / (1 + x.abs()),
    "softsign(0.3333 * x)": lambda x: x / (3 + x.abs()),
    "tanh(x)": lambda x: (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1),
    "1.716 * tanh(0.6667 * x)": lambda x: 1.7159 * torch.tanh(2 / 3 * x),
    "tanh(0.02 * x)": lambda x: torch.tanh(x / 50),
    "tanhshrink(x)": lambda x: x - torch.tanh(x),
    "sigmoid(x)": lambda x: 0.5 * (1 + torch.tanh(x / 2)),
    "sigmoid(3 * x)": lambda x: 1 / (1 + torch.exp(-3 * x)),
    "sigmoid(-x)": lambda x: 1 - torch.sigmoid(x),
}


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_named_with_its_constants(text: str) -> None:
    match = identify(FORMULAS[text])
    assert match is not None
    assert match.match == f"behaves as {text}"


@pytest.mark.parametrize("text", FORMULAS)
def test_the_reported_constants_reproduce_the_callable(text: str) -> None:
    # Independent of the grid and of the fit: other points, torch's own function by its public name.
    match = identify(FORMULAS[text])
    assert match is not None
    parameters = dict(match.parameters)
    scale, shift, gain = parameters.pop("scale", 1), parameters.pop("shift", 0), parameters.pop("gain", 1)
    function = getattr(F, match.operator.name, None) or match.operator.reference
    x = torch.linspace(-9.7, 9.3, 1001, dtype=torch.float64)
    expected = FORMULAS[text](x)
    torch.testing.assert_close(scale * function(gain * x, **parameters) + shift, expected, rtol=1e-6, atol=1e-6)


#: Curves that equal another row's up to constants; which name is right is then a matter of the constants.
SAME_CURVE = [{"celu", "elu"}, {"logsigmoid", "softplus"}, {"sigmoid", "tanh"}, {"hardsigmoid", "hardtanh"}]


#: Curves with straight pieces: at small gains their bends lie outside of the grid.
BENDING = {"relu6", "hardtanh", "hardsigmoid", "hardswish", "softshrink"}


@pytest.mark.parametrize("row", [row for row in OPERATORS if row.reference is not None], ids=lambda row: row.name)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    octave=st.floats(-5.5, 6.5),
    sign=st.sampled_from([1, -1]),
    scale=st.floats(0.01, 100) | st.floats(-100, -0.01),
    shift=st.sampled_from([0.0, 0.7, -12.3]),
)
def test_scale_shift_and_gain_never_hide_a_row(row, octave: float, sign: int, scale: float, shift: float) -> None:
    gain = sign * 2 ** (max(octave, -0.9) if row.name in BENDING else octave)
    gain = 1.0 if row.name == "hardshrink" else gain  # it moves a jump, which no grid can locate
    match = identify(lambda x: scale * row.reference(gain * x) + shift)
    assert match is not None
    assert match.operator.name in next((names for names in SAME_CURVE if row.name in names), {row.name})


def test_constants_that_are_neutral_are_not_reported() -> None:
    assert identify(F.silu).parameters == {}  # type: ignore[union-attr]
    parameters = identify(lambda x: 3 * F.silu(2 * x) - 1).parameters  # type: ignore[union-attr]
    assert parameters == {"scale": 3.0, "gain": 2.0, "shift": -1.0}


def test_constants_are_the_numbers_that_were_written() -> None:
    assert identify(FORMULAS["softplus(x, beta=1000)"]).parameters == {"beta": 1000.0}  # type: ignore[union-attr]
    assert identify(lambda x: 1.7159 * torch.tanh(2 / 3 * x)).parameters["scale"] == 1.7159  # type: ignore[union-attr]


def test_tanh_and_sigmoid_are_told_apart_by_their_range() -> None:
    about_zero = identify(lambda x: 1.3 * torch.tanh(0.7 * x))
    from_zero = identify(lambda x: 1.3 * torch.sigmoid(0.7 * x) + 0.4)
    assert about_zero is not None
    assert from_zero is not None
    assert (about_zero.operator.name, about_zero.operator.role) == ("tanh", "activation")
    assert (from_zero.operator.name, from_zero.operator.role) == ("sigmoid", "gate")


# --- what must never be recognised ------------------------------------------------------------------------------------


class Counting:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return F.silu(x) * self.calls


def raising(x: Tensor) -> Tensor:
    raise KeyError("no")


NEGATIVES: dict[str, Callable] = {
    "identity": lambda x: x,
    "affine": lambda x: 2 * x + 1,
    "constant": torch.ones_like,
    "nearly affine": lambda x: x + 1e-12 * F.silu(x),
    "square": lambda x: x**2,
    "square + x": lambda x: x**2 + x,
    "cube": lambda x: x**3,
    "exp": torch.exp,
    "sinh": torch.sinh,
    "sin": torch.sin,
    "x + sin(x)**2": lambda x: x + torch.sin(x) ** 2,
    "cos": torch.cos,
    "abs": torch.abs,
    "sign": torch.sign,
    "step": lambda x: (x > 0).to(x.dtype),
    "round": torch.round,
    "atan": torch.atan,
    "erf": torch.erf,
    "gaussian": lambda x: torch.exp(-(x**2)),
    "log cosh": lambda x: torch.log(torch.cosh(x)),
    "sqrt(1 + x**2)": lambda x: torch.sqrt(1 + x * x),
    "squared relu": lambda x: F.relu(x) ** 2,
    "integrated relu": lambda x: 0.5 * F.relu(x) ** 2,
    "x * tanh(x)": lambda x: x * torch.tanh(x),
    "tanh(x) + x": lambda x: torch.tanh(x) + 0.1 * x,
    "nearly silu": lambda x: F.silu(x) + 1e-5 * torch.sin(x),
    "silu with a bump": lambda x: F.silu(x) + 1e-4 * torch.exp(-((x - 3) ** 2)),
    "shifted input": lambda x: F.relu(x - 1),
    "slightly shifted input": lambda x: F.silu(x + 1e-3),
    "clamp from -10": lambda x: x.clamp(min=-10),
    "clamp as a guard": lambda x: x.clamp(-20, 20),
    "softmax": lambda x: x.softmax(-1),
    "layer norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "normalize": lambda x: F.normalize(x, dim=-1),
    "minus the mean": lambda x: F.silu(x) - F.silu(x).mean(),
    "cumsum": lambda x: F.silu(x).cumsum(-1),
    "flipped": lambda x: F.silu(x).flip(-1),
    "shape dependent": lambda x: F.silu(x) * x.dim(),
    "dropout": F.dropout,
    "noise": lambda x: F.silu(x) + torch.rand_like(x),
    "python's noise": lambda x: F.silu(x) * random.random(),
    "rrelu in training": lambda x: F.rrelu(x, training=True),
    "stateful": Counting(),
    "linear": nn.Linear(3, 3),
    "prelu": nn.PReLU(dtype=torch.float64),
    "glu": F.glu,
    "two tensors": lambda x, y: x * y,
    "tuple": lambda x: (F.silu(x), x),
    "nothing": lambda x: None,
    "a number": lambda x: 1.0,
    "booleans": lambda x: x > 0,
    "integers": lambda x: x.long(),
    "complex": lambda x: torch.complex(x, x),
    "raises": raising,
    "ends the process": sys.exit,
    "ends the process in a function": lambda x: sys.exit(str(x)),
    "infinite": lambda x: 1 / x,
    "not a number": torch.log,
    "no callable": 3,  # type: ignore[dict-item]
    "empty module": nn.Module(),
    "module list": nn.ModuleList([nn.SiLU()]),
}


@pytest.mark.parametrize("name", NEGATIVES)
def test_what_is_no_activation_is_not_recognised(name: str) -> None:
    assert identify(NEGATIVES[name]) is None


# --- every kind of callable -------------------------------------------------------------------------------------------


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("beta", torch.tensor(2.0))
        self.inner = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.beta * x)


class SwishFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad * s * (1 + x * (1 - s))


class Model(nn.Module):
    """A model whose activation is a method, and counts what it does in an attribute and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("steps", torch.zeros(1))
        self.calls = 0

    def act(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.calls += 1
        self.last = x
        return x * torch.sigmoid(x)


class Callable_:
    def __call__(self, x: Tensor) -> Tensor:
        self.seen = x
        return x * torch.sigmoid(x)


@pytest.mark.parametrize(
    "fn",
    [
        swish,
        lambda x: x * x.sigmoid(),
        functools.partial(lambda x, beta: x * torch.sigmoid(beta * x), beta=1.0),
        functools.partial(functools.partial(F.silu, inplace=True)),
        Swish(),
        Swish().eval(),
        SwishFunction.apply,
        torch.jit.script(swish),
        torch.jit.script(Swish()),
        Model().act,
        Callable_(),
        Callable_().__call__,
        torch.ops.aten.silu.default,
        torch._C._nn.silu_,
    ],
    ids=[
        *("function", "lambda", "partial", "partial of partial", "module", "module in eval", "autograd.Function"),
        *("scripted function", "scripted module", "method of a model", "callable object", "bound __call__"),
        *("aten overload", "in-place builtin"),
    ],
)
def test_every_kind_of_callable_is_probed(fn: Callable) -> None:
    match = identify(fn)
    assert match is not None
    assert (match.operator.name, match.parameters, match.match) == ("silu", {}, "behaves as silu(x)")


def test_a_module_with_buffers_and_children_is_probed() -> None:
    assert identify(Scaled()).match == "behaves as silu(2 * x)"  # type: ignore[union-attr]


def test_a_module_is_probed_in_its_mode() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.rrelu(x, 0.1, 0.3, training=self.training)

    assert identify(Both()) is None
    match = identify(Both().eval())
    assert match is not None
    assert match.match == "behaves as leaky_relu(x, negative_slope=0.2)"


# --- no traces --------------------------------------------------------------------------------------------------------


def test_probing_leaves_a_model_as_it_was() -> None:
    model = Model()
    before = dict(vars(model))
    assert identify(model.act) is not None
    assert vars(model).keys() == before.keys()
    assert (model.calls, float(model.steps)) == (0, 0.0)


def test_probing_leaves_modules_and_callable_objects_as_they_were() -> None:
    class Stepping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.zeros(1))
            self.history: list[int] = []

        def forward(self, x: Tensor) -> Tensor:
            self.steps += 1
            self.history.append(1)
            return F.silu(x)

    module, plain = Stepping(), Callable_()
    assert identify(module) is not None
    assert identify(plain) is not None
    assert (float(module.steps), module.history, vars(plain)) == (0.0, [], {})


def test_hooks_of_modules_are_not_run() -> None:
    module, ran = Scaled(), []
    for child in module.modules():
        child.register_forward_hook(lambda *_: ran.append("after"))
        child.register_forward_pre_hook(lambda *_: ran.append("before"))
    assert identify(module) is not None
    assert ran == []
    module(torch.zeros(1))
    assert len(ran) == 4


def test_random_states_go_on_as_if_nothing_had_been_probed() -> None:
    def draw() -> tuple[float, float, float]:
        return float(torch.rand(1)), random.random(), float(np.random.rand())  # noqa: NPY002

    def noisy(x: Tensor) -> Tensor:
        return x + torch.rand_like(x) + random.random() + float(np.random.rand())  # noqa: NPY002

    def seeded() -> None:
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002

    seeded()
    expected = draw()
    seeded()
    assert identify(noisy) is None
    assert draw() == expected


def test_grad_mode_and_watching_modes_do_not_matter_and_see_nothing() -> None:
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    class Dispatched(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    def scaled(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x * torch.tensor(2.0))

    with Functions(), Dispatched():
        match = identify(scaled)
    assert [str(func) for func in seen] == []
    assert match is not None
    assert match.match == "behaves as 0.5 * silu(2 * x)"
    with torch.device("meta"):
        assert identify(scaled) == match
    assert torch.is_grad_enabled()


def test_two_probes_give_the_same_answer() -> None:
    def formula(x: Tensor) -> Tensor:
        return 0.3 * F.gelu(1.234 * x) + 0.1

    assert identify(formula) == identify(formula)


def test_warnings_of_a_callable_stay_inside() -> None:
    import warnings

    def warning(x: Tensor) -> Tensor:
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        return F.silu(x)

    assert identify(warning) is not None  # pytest turns warnings into errors
