"""Values of ∫₀ˣ f(t) dt for the usual activations f, as plain torch operations.

The formulas keep full *relative* accuracy near 0 and far from it, stay finite wherever the result is, and have no kink
where two of them meet, so that automatic differentiation of them is right as well.

SiLU, GELU and softplus share f(x) - f(-x) = x, hence A(x) + A(-x) = x²/2: for x > 0 the antiderivative is IReLU(x)
minus the bounded A(-x), and only x ≤ 0 has to be worked out. There, softplus and SiLU need the dilogarithm,
D(x) = -Li₂(-eˣ), for which D' = softplus.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "integral_of_elu",
    "integral_of_gelu",
    "integral_of_leaky_relu",
    "integral_of_relu2",
    "integral_of_sigmoid",
    "integral_of_silu",
    "integral_of_softplus",
    "integral_of_tanh",
    "integral_of_tanh_gelu",
]

_LN2 = math.log(2)
# Below this |x| a power series replaces closed forms that would cancel.
_SMALL = 0.5
# Bernoulli numbers B₂, B₄, …, B₂₀.
_BERNOULLI = (
    1 / 6,
    -1 / 30,
    1 / 42,
    -1 / 30,
    5 / 66,
    -691 / 2730,
    7 / 6,
    -3617 / 510,
    43867 / 798,
    -174611 / 330,
)


def _dilogarithm_about_ln2() -> list[float]:
    """Coefficients c₁, c₂, … of D = D(0) + Σ cₖ dᵏ in d = softplus(x) - ln 2.

    In u = softplus(x), D = u + u²/4 + Σ B₂ₙ u²ⁿ⁺¹/(2n+1)! (|u| < 2π); shifted to u = ln 2 the terms beyond the
    eighth Bernoulli number are below 1e-17 for x ≤ 0, where |d| ≤ ln 2.
    """
    about_zero = [0.0, 1.0, 0.25] + [0.0] * 15
    for n, bernoulli in enumerate(_BERNOULLI[:8], start=1):
        about_zero[2 * n + 1] = bernoulli / math.factorial(2 * n + 1)
    degree = len(about_zero)
    return [
        math.fsum(math.comb(j, k) * about_zero[j] * _LN2 ** (j - k) for j in range(k, degree)) for k in range(1, degree)
    ]


_DILOGARITHM = _dilogarithm_about_ln2()
# ∫₀ˣ ½ t tanh(t/2) dt = x³ Σ₀ (2²ⁿ⁺² - 1) B₂ₙ₊₂ x²ⁿ / ((2n+2)! (2n+3))
_SILU = [(4**n - 1) * b / (math.factorial(2 * n) * (2 * n + 1)) for n, b in enumerate(_BERNOULLI, start=1)]
# ∫₀ˣ ½ t erf(t/√2) dt = x³ Σ₀ (-½)ⁿ x²ⁿ / (√(2π) n! (2n+1) (2n+3))
_GELU = [
    (-0.5) ** n / (math.sqrt(2 * math.pi) * math.factorial(n) * (2 * n + 1) * (2 * n + 3))
    for n in range(len(_BERNOULLI))
]
# eˣ - 1 - x = x² Σ₀ xⁿ / (n+2)!
_EXPM1 = [1 / math.factorial(n + 2) for n in range(13)]
# Nodes and weights on [0, 1]. The poles of tanh-GELU nearest to [-8, 0] give an error of about 1.8⁻⁸⁰.
_NODES, _WEIGHTS = (
    (0.5 * (a + b)).tolist() for a, b in zip(np.polynomial.legendre.leggauss(40), (1.0, 0.0), strict=True)
)


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """Return c₀ + c₁ x + c₂ x² + … (Horner)."""
    result = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result


def _irelu(x: Tensor) -> Tensor:
    positive = torch.relu(x)
    return 0.5 * positive * positive


def _by_reflection(x: Tensor, left: Callable[[Tensor], Tensor]) -> Tensor:
    """Return A(x) for an A with A(x) + A(-x) = x²/2, given A on the non-positive axis."""
    right_half = x > 0
    # where(…) instead of -abs(x): at x = 0 abs would lose the even derivatives.
    half = left(torch.where(right_half, -x, x))
    return _irelu(x) + torch.where(right_half, -half, half)


def _near_or_far(x: Tensor, near: Callable[[Tensor], Tensor], far: Callable[[Tensor], Tensor]) -> Tensor:
    """Return near(x) where |x| < ½ and far(x) elsewhere, for x of either sign."""
    # The clamp keeps the unused branch finite: 0 · inf would turn its derivative into NaN.
    return torch.where(x.abs() < _SMALL, near(x.clamp(-_SMALL, _SMALL)), far(x))


def _left_centred_softplus(x: Tensor) -> Tensor:
    """Return softplus(x) - ln 2 for x ≤ 0."""
    return torch.log1p(0.5 * torch.expm1(x))


def _left_softplus(x: Tensor) -> Tensor:
    d = _left_centred_softplus(x)
    return d * _polynomial(_DILOGARITHM, d)


def _left_silu(x: Tensor) -> Tensor:
    def near(t: Tensor) -> Tensor:
        return t * t * (0.25 + t * _polynomial(_SILU, t * t))

    def far(t: Tensor) -> Tensor:
        # x · softplus(x) - D(x) + D(0); the product is 0 in every dtype long before the clamp acts.
        return t.clamp(min=-1000) * torch.log1p(torch.exp(t)) - _left_softplus(t)

    return _near_or_far(x, near, far)


def _left_gelu(x: Tensor) -> Tensor:
    def near(t: Tensor) -> Tensor:
        return t * t * (0.25 + t * _polynomial(_GELU, t * t))

    def far(t: Tensor) -> Tensor:
        t = t.clamp(min=-50)  # erfc and exp are 0 beyond in every dtype, and 0 · inf would be NaN
        density = torch.exp(-0.5 * t * t) / math.sqrt(2 * math.pi)
        return 0.25 + 0.25 * (t * t - 1) * torch.erfc(t * -math.sqrt(0.5)) + 0.5 * t * density

    return _near_or_far(x, near, far)


def _left_tanh_gelu(x: Tensor) -> Tensor:
    x = x.clamp(min=-8)  # tanh-GELU is below 1e-20 beyond
    # x ∫₀¹ f(x s) ds by Gauss-Legendre
    total = torch.zeros_like(x)
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        total = total + weight * F.gelu(node * x, approximate="tanh")
    return x * total


def integral_of_softplus(x: Tensor, beta: float = 1.0) -> Tensor:
    """Return [-Li₂(-exp(βx)) - π²/12] / β²."""
    return _by_reflection(beta * x, _left_softplus) / beta**2


def integral_of_silu(x: Tensor) -> Tensor:
    """Return x ln(1 + eˣ) + Li₂(-eˣ) + π²/12."""
    return _by_reflection(x, _left_silu)


def integral_of_gelu(x: Tensor) -> Tensor:
    """Return ½ (x² - 1) Φ(x) + ½ x φ(x) + ¼, with the normal distribution Φ and its density φ."""
    return _by_reflection(x, _left_gelu)


def integral_of_tanh_gelu(x: Tensor) -> Tensor:
    """Return the integral of the tanh approximation of GELU, by quadrature with 40 nodes (error below 1e-14)."""
    return _by_reflection(x, _left_tanh_gelu)


def integral_of_leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Return x²/2 for x > 0 and s x²/2 elsewhere."""
    if negative_slope == 0:
        return _irelu(x)  # -inf · 0 would be NaN
    return 0.5 * x * F.leaky_relu(x, negative_slope)


def integral_of_relu2(x: Tensor) -> Tensor:
    """Return x³/3 for x > 0 and 0 elsewhere."""
    positive = torch.relu(x)
    return positive * positive * positive / 3


def integral_of_elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Return x²/2 for x > 0 and alpha (eˣ - 1 - x) elsewhere."""
    if alpha == 0:
        return _irelu(x)
    left = _near_or_far(
        x.clamp(max=0),
        near=lambda t: t * t * _polynomial(_EXPM1, t),
        far=lambda t: torch.expm1(t) - t,
    )
    return _irelu(x) + alpha * left


def integral_of_tanh(x: Tensor) -> Tensor:
    """Return ln cosh x."""

    def near(t: Tensor) -> Tensor:
        return torch.log1p(2 * torch.sinh(0.5 * t) ** 2)

    def far(t: Tensor) -> Tensor:
        size = t.abs()
        return size + (torch.log1p(torch.exp(-2 * size)) - _LN2)

    return _near_or_far(x, near, far)


def integral_of_sigmoid(x: Tensor) -> Tensor:
    """Return ln(1 + eˣ) - ln 2."""
    right_half = x > 0
    left = _left_centred_softplus(torch.where(right_half, -x, x))
    return torch.relu(x) + left
