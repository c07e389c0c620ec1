"""Which operations an expression may consist of: elementwise, deterministic, without effects, and differentiable through.

``detach`` is not among them on purpose: ``x * torch.sigmoid(x).detach()`` has the values of SiLU and another gradient.
"""

from __future__ import annotations

import ast
import math
import operator
from typing import Any

import torch
from torch.nn import functional as F

__all__ = ["ARITHMETIC", "COMPARISONS", "is_elementwise_function", "is_elementwise_method", "is_seed"]

ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)
COMPARISONS = (ast.Gt, ast.GtE, ast.Lt, ast.LtE)

#: What makes an expression bend: without one of these it is a polynomial or a quotient, and never tried.
_SEEDS = frozenset(
    [
        "abs",
        "absolute",
        "clamp",
        "clamp_max",
        "clamp_min",
        "clip",
        "cosh",
        "erf",
        "erfc",
        "exp",
        "exp2",
        "expit",
        "expm1",
        "fmax",
        "fmin",
        "gelu",
        "heaviside",
        "log",
        "log1p",
        "log_sigmoid",
        "logaddexp",
        "logsigmoid",
        "max",
        "maximum",
        "min",
        "minimum",
        "relu",
        "relu6",
        "sigmoid",
        "sign",
        "sinh",
        "softplus",
        "tanh",
        "threshold",
        "where",
        "hardtanh",
        "elu",
        "selu",
        "celu",
        "silu",
        "leaky_relu",
        "hardsigmoid",
        "hardswish",
        "softsign",
        "mish",
    ]
)
#: Elementwise as well, or making a constant to compare with.
_OTHERS = frozenset(
    [
        "add",
        "sub",
        "subtract",
        "rsub",
        "mul",
        "multiply",
        "div",
        "divide",
        "true_divide",
        "pow",
        "square",
        "sqrt",
        "rsqrt",
        "reciprocal",
        "neg",
        "negative",
        "positive",
        "addcmul",
        "lerp",
        "full_like",
        "ones_like",
        "zeros_like",
        "tensor",
        "as_tensor",
        "scalar_tensor",
        "float_power",
    ]
)
_ONLY_METHODS = frozenset(
    [
        "add_",
        "sub_",
        "mul_",
        "div_",
        "exp_",
        "log_",
        "log1p_",
        "sigmoid_",
        "tanh_",
        "neg_",
        "clamp_",
        "clamp_min_",
        "clamp_max_",
        "to",
        "type_as",
        "float",
        "double",
        "half",
        "bfloat16",
        "type",
        "clone",
        "contiguous",
        "new_zeros",
        "new_ones",
        "new_tensor",
        "new_full",
    ]
)
_NAMED = _SEEDS | _OTHERS
_FUNCTIONS = {
    id(held): held
    for namespace in (torch, torch.special, F, torch.Tensor)
    for name in sorted(_NAMED)
    if callable(held := getattr(namespace, name, None))
}
_NUMBERS = {id(held): held for held in (*vars(math).values(), *vars(operator).values(), float, int, abs, pow)}


def is_seed(name: str) -> bool:
    """Say whether a function or method of this name makes an expression bend."""
    return name.rstrip("_") in _SEEDS


def is_elementwise_method(name: str) -> bool:
    """Say whether a method of a tensor is one of these operations."""
    return name in _NAMED or name in _ONLY_METHODS


def is_elementwise_function(value: Any) -> bool:
    """Say whether a callable is one of these operations, or makes numbers of numbers."""
    return _FUNCTIONS.get(id(value)) is value or (callable(value) and _NUMBERS.get(id(value)) is value)
