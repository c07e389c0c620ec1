"""What a replaced activation has to compute, written down a second time.

Nothing here comes from `dcsurgery.activations`: IReLU is its formula as the paper has it, the other antiderivatives are
closed forms where there is a short one and Gauss-Legendre quadrature of torch's own activation elsewhere. What a user
brought along himself is its own reference.
"""

from __future__ import annotations

import ast
import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Reference", "gated", "reference_of"]

Reference = Callable[[Tensor], Tensor]

# Per panel of the quadrature: nodes and weights on [0, 1].
_NODES, _WEIGHTS = (
    (0.5 * (a + b)).tolist() for a, b in zip(np.polynomial.legendre.leggauss(24), (1.0, 0.0), strict=True)
)
_PANEL = 2.0  # the activations' poles nearest to the real axis are at least 1.7 away: 24 nodes give full precision


def reference_of(replacement: str | nn.Module) -> Reference | None:
    """Return the function that a replacement stands for.

    Parameters
    ----------
    replacement
        The name that a plan has (``irelu``, ``integrated-softplus(beta=2.0)``), or a module of the user's own.

    Returns
    -------
    callable or None
        None for a name that has no reference here.
    """
    if isinstance(replacement, nn.Module):
        return copy.deepcopy(replacement)
    name, parenthesis, rest = replacement.strip().partition("(")
    name = name.strip().lower().replace("_", "-").replace("relu^2", "relu2")
    if name in ("irelu", "integrated-relu"):
        return _irelu
    known = _INTEGRALS.get(name)
    if known is None:
        return None
    settings = _settings(f"f({rest}") if parenthesis else {}
    return None if settings is None else lambda x: known(x, **settings)


def gated(x: Tensor, reference: Reference, dim: int) -> Tensor:
    """Return ``a * reference(b)``, (a, b) the halves of ``x``: a GLU with another gate."""
    half = x.shape[dim] // 2
    return x.narrow(dim, 0, half) * reference(x.narrow(dim, half, half))


def _settings(text: str) -> dict[str, Any] | None:
    """Read ``f(key=value, …)``; None where it is anything else."""
    try:
        call = ast.parse(text, mode="eval").body
        if isinstance(call, ast.Call) and not call.args:
            return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError):
        pass
    return None


def _irelu(x: Tensor) -> Tensor:
    return torch.where(x > 0, 0.5 * x * x, torch.zeros_like(x))


def _leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    return 0.5 * x * x * torch.where(x > 0, torch.ones_like(x), torch.full_like(x, negative_slope))


def _relu2(x: Tensor) -> Tensor:
    return torch.where(x > 0, x * x * x / 3, torch.zeros_like(x))


# Closed forms of these would cancel near 0, where networks of several layers work.
def _tanh(x: Tensor) -> Tensor:
    return _known(x, lambda t: _quadrature(torch.tanh, t, scale=2.0), torch.tanh)


def _sigmoid(x: Tensor) -> Tensor:
    return _known(x, lambda t: _quadrature(torch.sigmoid, t), torch.sigmoid)


def _elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    def slope(t: Tensor) -> Tensor:
        return F.elu(t, alpha)

    return _known(x, lambda t: _quadrature(slope, t), slope)


def _silu(x: Tensor) -> Tensor:
    return _known(x, lambda t: _quadrature(F.silu, t), F.silu)


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    def slope(t: Tensor) -> Tensor:
        return F.gelu(t, approximate=approximate)

    return _known(x, lambda t: _quadrature(slope, t), slope)


def _softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    del threshold  # softplus is integrated without torch's cut

    def slope(t: Tensor) -> Tensor:
        return torch.logaddexp(beta * t, torch.zeros_like(t)) / beta

    return _known(x, lambda t: _quadrature(slope, t, scale=abs(beta)), slope)


_INTEGRALS: dict[str, Callable[..., Tensor]] = {
    "integrated-leaky-relu": _leaky_relu,
    "integrated-relu2": _relu2,
    "integrated-elu": _elu,
    "integrated-silu": _silu,
    "integrated-gelu": _gelu,
    "integrated-softplus": _softplus,
    "integrated-tanh": _tanh,
    "integrated-sigmoid": _sigmoid,
}


def _quadrature(function: Reference, x: Tensor, scale: float = 1.0) -> Tensor:
    """Return the integral of a function from 0 to each element of ``x``, in panels of at most `_PANEL` / scale."""
    largest = float(x.abs().max()) if x.numel() else 0.0
    panels = max(1, math.ceil(min(largest, 1e4) * scale / _PANEL))
    total = torch.zeros_like(x)
    for panel in range(panels):
        for node, weight in zip(_NODES, _WEIGHTS, strict=True):
            total = total + weight * function(x * ((panel + node) / panels))
    return total * x / panels


class _Known(torch.autograd.Function):
    """x → value(x), with derivative slope(x): torch differentiates the slope, whatever the value is computed from."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Reference, slope: Reference) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return value(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * ctx.slope(x), None, None


def _known(x: Tensor, value: Reference, slope: Reference) -> Tensor:
    result: Tensor = _Known.apply(x, value, slope)
    return result
