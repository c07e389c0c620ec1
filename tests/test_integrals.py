"""Antiderivatives of the activations, against quadrature, mpmath, scipy and torch's own activations."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from dcsurgery import activations
from dcsurgery.activations import (
    ACTIVATION_NAMES,
    Integrated,
    IReLU,
    activation_by_name,
    integrate,
    irelu,
    name_of,
)
from dcsurgery.errors import BadInput
from dcsurgery.subclass import amend

# torch itself scripts functions when forward-mode differentiation is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

Case = tuple[str, dict[str, Any], Callable[[Tensor], Tensor]]
# Name, settings, and torch's own activation.
CASES: list[Case] = [
    ("relu", {}, F.relu),
    ("leaky_relu", {}, F.leaky_relu),
    ("leaky_relu", {"negative_slope": 0.2}, lambda x: F.leaky_relu(x, 0.2)),
    ("relu2", {}, lambda x: F.relu(x) ** 2),
    ("elu", {}, F.elu),
    ("elu", {"alpha": 0.3}, lambda x: F.elu(x, 0.3)),
    ("silu", {}, F.silu),
    ("gelu", {}, F.gelu),
    ("gelu", {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
    ("softplus", {}, lambda x: F.softplus(x, threshold=600)),
    ("softplus", {"beta": 2.5}, lambda x: F.softplus(x, beta=2.5, threshold=600)),
    ("tanh", {}, torch.tanh),
    ("sigmoid", {}, torch.sigmoid),
]
SMOOTH = [case for case in CASES if case[0] not in ("relu", "leaky_relu", "relu2", "elu")]
IDS = [f"{name}{list(settings.values()) or ''}" for name, settings, _ in CASES]
SMOOTH_IDS = [label for label, case in zip(IDS, CASES, strict=True) if case in SMOOTH]
every = pytest.mark.parametrize(("name", "settings", "activation"), CASES, ids=IDS)
smooth = pytest.mark.parametrize(("name", "settings", "activation"), SMOOTH, ids=SMOOTH_IDS)

GRID = torch.arange(-320, 321, dtype=torch.float64) / 8  # has 0 and ±½, where formulas meet
FEW = torch.tensor([-30.0, -4.0, -0.9, -0.5, -0.3, -1e-4, 1e-4, 0.2, 0.5, 0.8, 3.0, 25.0], dtype=torch.float64)


def grad(y: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(y.sum(), x, create_graph=True)[0]


def towers(f: Callable[[Tensor], Tensor], x: Tensor, order: int) -> list[Tensor]:
    """Derivatives 0 … order of f at x."""
    x = x.clone().requires_grad_()
    found = [f(x)]
    for _ in range(order):
        found.append(grad(found[-1] + 0 * x, x))
    return [each.detach() for each in found]


def plain(f: Callable[[Tensor], Tensor], x: Tensor, order: int) -> list[Tensor]:
    """The same through torch.func, which differentiates the formula of the value."""
    found = []
    for _ in range(order + 1):
        found.append(torch.func.vmap(f)(x))
        f = torch.func.grad(f)
    return found


# Values


@every
def test_value_is_the_integral_by_quadrature(
    name: str, settings: dict[str, Any], activation: Callable[[Tensor], Tensor]
) -> None:
    module = integrate(name, **settings)

    def f(t: float) -> float:
        return activation(torch.tensor(t, dtype=torch.float64)).item()

    for end in (-40.0, -11.0, -3.0, -0.7, -0.1, 0.0, 0.1, 0.7, 3.0, 11.0, 40.0):
        value, error = scipy.integrate.quad(f, 0, end, epsabs=1e-13, epsrel=1e-13, limit=200)
        assert error < 1e-9
        assert module(torch.tensor(end, dtype=torch.float64)).item() == pytest.approx(value, abs=1e-12, rel=1e-12)


MPMATH: dict[str, Callable[[Any], Any]] = {
    "silu": lambda x: x * mpmath.log1p(mpmath.exp(x)) + mpmath.polylog(2, -mpmath.exp(x)) + mpmath.pi**2 / 12,
    "softplus": lambda x: -mpmath.polylog(2, -mpmath.exp(x)) - mpmath.pi**2 / 12,
    "gelu": lambda x: ((x * x - 1) * mpmath.ncdf(x) + x * mpmath.npdf(x)) / 2 + mpmath.mpf(1) / 4,
    "tanh": lambda x: mpmath.log(mpmath.cosh(x)),
    "sigmoid": lambda x: mpmath.log((1 + mpmath.exp(x)) / 2),
    "elu": lambda x: x * x / 2 if x > 0 else mpmath.exp(x) - 1 - x,
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MPMATH)
def test_value_has_full_relative_accuracy(name: str, dtype: torch.dtype) -> None:
    points = torch.tensor([-40, -9, -2, -0.51, -0.49, -0.1, -1e-3, -1e-7], dtype=dtype)
    points = torch.cat([points, -points])
    for x, found in zip(points.tolist(), integrate(name)(points).tolist(), strict=True):
        with mpmath.workdps(60):
            wanted = float(mpmath.re(MPMATH[name](mpmath.mpf(x))))
        assert found == pytest.approx(wanted, rel=8 * torch.finfo(dtype).eps, abs=0), x


def test_softplus_is_scipys_dilogarithm() -> None:
    x = GRID[GRID < 36]  # beyond, 1 + exp(x) is exp(x)
    wanted = -scipy.special.spence(1 + np.exp(x.numpy())) - math.pi**2 / 12
    np.testing.assert_allclose(integrate("softplus")(x).numpy(), wanted, rtol=2e-14, atol=2e-15)


@every
def test_zero_at_zero_and_continuous(
    name: str, settings: dict[str, Any], activation: Callable[[Tensor], Tensor]
) -> None:
    module = integrate(name, **settings)
    assert module(torch.zeros(3, dtype=torch.float64)).tolist() == [0.0] * 3
    for joint in (-8.0, -0.5, 0.0, 0.5, 8.0):
        here = torch.tensor([joint], dtype=torch.float64)
        left, right = (torch.nextafter(here, here + side) for side in (-1, 1))
        assert abs(module(right) - module(left)).item() < 1e-14 * (1 + joint**2)


@every
def test_finite_or_the_limit_at_large_arguments(
    name: str, settings: dict[str, Any], activation: Callable[[Tensor], Tensor]
) -> None:
    module = integrate(name, **settings)
    for dtype, far in ((torch.float32, 1e9), (torch.float64, 1e90)):
        x = torch.tensor([-far, -1e4, -200.0, 200.0, 1e4, far], dtype=dtype)
        for order, (found, formula) in enumerate(zip(towers(module, x, 3), plain(module, x, 3), strict=True)):
            assert found.isfinite().all() and formula.isfinite().all(), (dtype, order)
    infinite = module(torch.tensor([-math.inf, math.inf, math.nan], dtype=torch.float64, requires_grad=True))
    bounded = {"relu": 0.0, "relu2": 0.0, "silu": math.pi**2 / 12, "sigmoid": -math.log(2)}
    bounded |= {"gelu": 0.25} if not settings else {"gelu": infinite[0].item()}
    bounded |= {"softplus": -((math.pi / settings.get("beta", 1)) ** 2) / 12}
    assert infinite[0].item() == pytest.approx(bounded.get(name, math.inf), rel=1e-15)
    assert infinite[1].item() == math.inf and infinite[2].isnan()


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_is_the_rounded_double(
    name: str, settings: dict[str, Any], activation: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    module = integrate(name, **settings)
    x = torch.linspace(-12, 12, 997).to(dtype)
    y = module(x.clone().requires_grad_())
    assert y.dtype == dtype
    ulp = torch.finfo(torch.float32).eps * 8 if dtype == torch.float32 else torch.finfo(dtype).eps
    tiny = torch.finfo(dtype).smallest_normal
    torch.testing.assert_close(y.double(), module(x.double()), rtol=ulp, atol=tiny)


# Derivatives


@every
def test_derivative_is_torchs_activation_to_third_order(
    name: str, settings: dict[str, Any], activation: Callable[[Tensor], Tensor]
) -> None:
    found, wanted = towers(integrate(name, **settings), GRID, 3)[1:], towers(activation, GRID, 2)
    for mine, torchs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-14, atol=1e-14)


@every
def test_the_formula_differentiates_to_the_same(
    name: str, settings: dict[str, Any], activation: Callable[[Tensor], Tensor]
) -> None:
    module = integrate(name, **settings)
    for order, (found, wanted) in enumerate(zip(plain(module, GRID, 3), towers(module, GRID, 3), strict=True)):
        if name == "elu" and order == 3:  # jumps at 0, where each side's value is as good
            found, wanted = found[GRID != 0], wanted[GRID != 0]
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@every
def test_gradcheck_and_gradgradcheck(
    name: str, settings: dict[str, Any], activation: Callable[[Tensor], Tensor]
) -> None:
    module, x = integrate(name, **settings), FEW[1:-1].clone().requires_grad_()
    assert gradcheck(module, x, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(module, x, check_batched_grad=True)


@smooth
def test_gradcheck_of_the_second_derivative(
    name: str, settings: dict[str, Any], activation: Callable[[Tensor], Tensor]
) -> None:
    module = integrate(name, **settings)
    assert gradcheck(lambda t: grad(grad(module(t), t), t), FEW[1:-1].clone().requires_grad_())


@every
def test_only_the_input_is_kept(name: str, settings: dict[str, Any], activation: Callable[[Tensor], Tensor]) -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    x = torch.randn(50, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        integrate(name, **settings)(x)
    assert [tensor.data_ptr() for tensor in kept] == [x.data_ptr()]


# Modules and names


@every
def test_traces_to_one_node_and_exports(
    name: str, settings: dict[str, Any], activation: Callable[[Tensor], Tensor]
) -> None:
    module = integrate(name, **settings)
    traced = torch.fx.symbolic_trace(module)
    (node,) = [n for n in traced.graph.nodes if n.op == "call_function"]
    function: Any = irelu if name == "relu" else getattr(activations, f"integrated_{name}")
    assert node.target is function and node.kwargs == settings
    assert torch.equal(traced(FEW), module(FEW))
    for strict in (False, True):
        assert torch.equal(torch.export.export(module, (FEW,), strict=strict).module()(FEW), module(FEW))
    torch._dynamo.reset()
    assert torch.equal(torch.compile(module, backend="eager", fullgraph=True)(FEW), module(FEW))
    assert torch.equal(torch.jit.trace(module, FEW)(GRID), module(GRID))


@every
def test_pickles_by_public_names_and_has_no_state(
    name: str, settings: dict[str, Any], activation: Callable[[Tensor], Tensor]
) -> None:
    module = integrate(name, **settings)
    data = pickle.dumps(module)
    assert b"dcsurgery.activations\n" in pickle.dumps(module, protocol=0)
    for again in (pickle.loads(data), copy.deepcopy(module)):
        assert repr(again) == repr(module) and torch.equal(again(FEW), module(FEW))
    assert not module.state_dict()
    if name != "relu":
        function = getattr(activations, f"integrated_{name}")
        assert pickle.loads(pickle.dumps(function)) is function


@pytest.mark.parametrize(("spelling", "wanted"), [
    ("relu", "IReLU()"), ("ReLU", "IReLU()"), ("SiLU", "Integrated(silu)"), ("nn.SiLU", "Integrated(silu)"),
    ("torch.nn.LeakyReLU", "Integrated(leaky_relu)"), ("LEAKY_RELU", "Integrated(leaky_relu)"),
    ("leaky-relu", "Integrated(leaky_relu)"), ("Swish", "Integrated(silu)"), (" GELU ", "Integrated(gelu)"),
    ("relu^2", "Integrated(relu2)"), ("ReLU2", "Integrated(relu2)"),
])  # fmt: skip
def test_spellings(spelling: str, wanted: str) -> None:
    assert repr(integrate(spelling)) == wanted


def test_settings_are_shown_and_torchs_defaults_are_not() -> None:
    assert repr(integrate("elu", alpha=2)) == "Integrated(elu, alpha=2.0)"
    assert repr(integrate("gelu", approximate="tanh")) == "Integrated(gelu, approximate='tanh')"
    assert repr(integrate("softplus", beta=1, threshold=20)) == "Integrated(softplus)"
    assert repr(integrate("relu", inplace=True)) == "IReLU(inplace=True)"


def test_degenerate_settings_give_irelu() -> None:
    x = torch.tensor([-math.inf, -2.0, 3.0])
    assert torch.equal(integrate("elu", alpha=0)(x), irelu(x))
    assert torch.equal(integrate("leaky_relu", negative_slope=0)(x), irelu(x))


@pytest.mark.parametrize(("arguments", "message"), [
    ((("selu",), {}), "no antiderivative is known for 'selu'.*did you mean '(silu|relu|elu)'.*known: relu, leaky_relu"),
    ((("Sofplus",), {}), "did you mean 'softplus'"),
    ((("",), {}), "known: relu"),
    (((nn.SiLU(),), {}), "name is text, got SiLU"),
    ((("silu",), {"beta": 2}), "silu has no setting 'beta'.*none"),
    ((("elu",), {"alpah": 2}), "elu has no setting 'alpah'.*alpha"),
    ((("elu",), {"alpha": math.nan}), "alpha of elu is nan.*finite"),
    ((("elu",), {"alpha": "1"}), "alpha of elu is '1'"),
    ((("elu",), {"alpha": True}), "alpha of elu is True"),
    ((("softplus",), {"beta": 0}), "beta of softplus is 0.*not 0"),
    ((("softplus",), {"threshold": 5}), "threshold=5 torch's is another function"),
    ((("gelu",), {"approximate": "sigmoid"}), "approximate of gelu is 'sigmoid'.*'none' or 'tanh'"),
    ((("relu",), {"alpha": 1}), "relu has one setting"),
    ((("relu",), {"inplace": 1}), "relu has one setting"),
])  # fmt: skip
def test_bad_input_of_integrate(arguments: tuple[Any, dict[str, Any]], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        integrate(*arguments[0], **arguments[1])


def test_bad_input_of_the_module_and_the_functions() -> None:
    with pytest.raises(BadInput, match="no antiderivative of 'relu'"):
        Integrated("relu")
    with pytest.raises(BadInput, match=r"integrated_silu takes real .* got dtype torch.int64"):
        integrate("silu")(torch.arange(3))
    with pytest.raises(BadInput, match="integrated_tanh takes a tensor, got float"):
        activations.integrated_tanh(1.0)


@pytest.mark.parametrize("name", [
    *ACTIVATION_NAMES, "irelu(inplace=True)", "integrated-elu(alpha=0.5)", "integrated-gelu(approximate='tanh')",
    "integrated-softplus(beta=2.0)",
])  # fmt: skip
def test_names_and_modules_map_both_ways(name: str) -> None:
    module = activation_by_name(name)
    assert name_of(module) == name
    assert torch.equal(
        activation_by_name(name.replace("-", "_", 2).upper() if "(" not in name else name)(FEW), module(FEW)
    )


def test_registry_has_one_name_for_every_integral() -> None:
    assert set(ACTIVATION_NAMES) == {name_of(integrate(name)) for name, _, _ in CASES}
    assert isinstance(activation_by_name("integrated-relu"), IReLU)
    assert name_of(nn.SiLU()) == "SiLU"


class Nothing:
    def members(self, cls: type[nn.Module]) -> dict[str, Any]:
        return {}


def test_name_looks_through_an_amended_class() -> None:
    module = IReLU()
    amend(module, Nothing())
    assert name_of(module) == "irelu"


@pytest.mark.parametrize(("name", "message"), [
    ("ireul", "no activation is named 'ireul'.*did you mean 'irelu'"),
    ("integrated-sliu", "did you mean 'integrated-silu'"),
    ("softplus", "did you mean 'integrated-softplus'"),
    ("quark", "known: irelu, integrated-leaky-relu"),
    ("", "known: irelu"),
    (3, "name is text, got int"),
    ("integrated-elu(alpha=)", "cannot read the settings"),
    ("integrated-elu(0.5)", "cannot read the settings"),
    ("integrated-elu(**{})", "cannot read the settings"),
    ("integrated-elu(alpha=open('x'))", "cannot read the settings"),
    ("integrated-elu(alpha=1)+1", "cannot read the settings"),
    ("integrated-elu(beta=1.0)", "elu has no setting 'beta'"),
])  # fmt: skip
def test_bad_names(name: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        activation_by_name(name)


def test_no_warnings_on_ordinary_use() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ACTIVATION_NAMES:
            activation_by_name(name)(FEW.clone().requires_grad_()).sum().backward()
