"""∫₀ˣ f(t) dt as overridable functions, with f itself as derivative.

In eager mode the value comes from `dcsurgery.activations.antiderivatives` and the backward *is* the activation, written
in torch operations, so that derivatives of every order are torch's own. Tracers, compilers and functorch transforms
differentiate the value's formula, which agrees to rounding. Half precision is computed in single and rounded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from dcsurgery.activations import antiderivatives as values
from dcsurgery.activations.eager import only_autograd_watches, require_floating

__all__ = [
    "integrated_elu",
    "integrated_gelu",
    "integrated_leaky_relu",
    "integrated_relu2",
    "integrated_sigmoid",
    "integrated_silu",
    "integrated_softplus",
    "integrated_tanh",
]

Elementwise = Callable[[Tensor], Tensor]


class _Antiderivative(Function):
    """x → value(x), with derivative slope(x); saves x only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Elementwise, slope: Elementwise) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return value(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * ctx.slope(x), None, None


def _antiderivative(x: Tensor, value: Elementwise, slope: Elementwise) -> Tensor:
    if only_autograd_watches(x) and x.requires_grad and torch.is_grad_enabled():
        return _Antiderivative.apply(x, functools.partial(_in_single_precision_at_least, value), slope)
    return _in_single_precision_at_least(value, x)


def _in_single_precision_at_least(value: Elementwise, x: Tensor) -> Tensor:
    return value(x.float()).to(x.dtype) if x.dtype.itemsize < 4 else value(x)


def _overridable(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let torch-function modes, tensor subclasses and fx proxies see one call of ``function``."""

    @functools.wraps(function)
    def public(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if has_torch_function_unary(x):
            return handle_torch_function(public, (x,), x, *args, **kwargs)
        require_floating(x, function.__name__)
        return function(x, *args, **kwargs)

    # Pickles and traced graphs name the public path.
    public.__module__ = "dcsurgery.activations"
    return public


@_overridable
def integrated_leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Return x²/2 where x > 0 and ``negative_slope`` · x²/2 elsewhere.

    Same shape, dtype and device as ``x``.

    Parameters
    ----------
    x
        Real floating-point tensor of any shape.
    negative_slope
        Slope of the leaky ReLU for x < 0.

    Raises
    ------
    BadInput
        If ``x`` is not a real floating-point tensor.
    """
    return _antiderivative(
        x,
        functools.partial(values.integral_of_leaky_relu, negative_slope=negative_slope),
        functools.partial(F.leaky_relu, negative_slope=negative_slope),
    )


@_overridable
def integrated_elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Return x²/2 where x > 0 and ``alpha`` (eˣ - 1 - x) elsewhere.

    Same shape, dtype and device as ``x``.

    Parameters
    ----------
    x
        Real floating-point tensor of any shape.
    alpha
        Minus the limit of the ELU for x → -∞.

    Raises
    ------
    BadInput
        If ``x`` is not a real floating-point tensor.
    """
    return _antiderivative(
        x, functools.partial(values.integral_of_elu, alpha=alpha), functools.partial(F.elu, alpha=alpha)
    )


@_overridable
def integrated_relu2(x: Tensor) -> Tensor:
    """Return x³/3 where x > 0 and 0 elsewhere, the integral of relu(x)² from 0.

    Its second derivative is 2 relu(x), so that the second derivatives of a network are continuous: for residuals of
    second order, where IReLU's step is not enough. Same shape, dtype and device as ``x``.

    Raises
    ------
    BadInput
        If ``x`` is not a real floating-point tensor.
    """
    return _antiderivative(x, values.integral_of_relu2, _relu2)


@_overridable
def integrated_silu(x: Tensor) -> Tensor:
    """Return x ln(1 + eˣ) + Li₂(-eˣ) + π²/12, the integral of x · sigmoid(x) from 0.

    Same shape, dtype and device as ``x``.

    Raises
    ------
    BadInput
        If ``x`` is not a real floating-point tensor.
    """
    return _antiderivative(x, values.integral_of_silu, F.silu)


@_overridable
def integrated_gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """Return the integral of GELU from 0: closed form, or 40-point quadrature for ``approximate="tanh"``.

    Same shape, dtype and device as ``x``.

    Parameters
    ----------
    x
        Real floating-point tensor of any shape.
    approximate
        ``"none"``, or ``"tanh"`` for the integral of the tanh approximation, which costs 40 evaluations of it.

    Raises
    ------
    BadInput
        If ``x`` is not a real floating-point tensor.
    """
    value = values.integral_of_tanh_gelu if approximate == "tanh" else values.integral_of_gelu
    return _antiderivative(x, value, functools.partial(F.gelu, approximate=approximate))


@_overridable
def integrated_softplus(x: Tensor, beta: float = 1.0) -> Tensor:
    """Return [-Li₂(-exp(βx)) - π²/12] / β², the integral of ln(1 + exp(βx)) / β from 0.

    Same shape, dtype and device as ``x``.

    Parameters
    ----------
    x
        Real floating-point tensor of any shape.
    beta
        β, not 0.

    Raises
    ------
    BadInput
        If ``x`` is not a real floating-point tensor.
    """
    return _antiderivative(
        x, functools.partial(values.integral_of_softplus, beta=beta), functools.partial(_softplus, beta=beta)
    )


@_overridable
def integrated_tanh(x: Tensor) -> Tensor:
    """Return ln cosh x, the integral of tanh from 0.

    Same shape, dtype and device as ``x``.

    Raises
    ------
    BadInput
        If ``x`` is not a real floating-point tensor.
    """
    return _antiderivative(x, values.integral_of_tanh, torch.tanh)


@_overridable
def integrated_sigmoid(x: Tensor) -> Tensor:
    """Return ln(1 + eˣ) - ln 2, the integral of the logistic function from 0.

    Same shape, dtype and device as ``x``.

    Raises
    ------
    BadInput
        If ``x`` is not a real floating-point tensor.
    """
    return _antiderivative(x, values.integral_of_sigmoid, torch.sigmoid)


def _relu2(x: Tensor) -> Tensor:
    positive = torch.relu(x)
    return positive * positive


def _softplus(x: Tensor, beta: float) -> Tensor:
    # F.softplus switches to the identity above a threshold; this is the exact function.
    return -F.logsigmoid(-beta * x) / beta
