"""The rows for gates: listed, and left alone unless gates are asked for."""

from __future__ import annotations

from torch.nn import functional as F

from dcsurgery.catalog.rows import Operator

__all__ = ["GATES"]

_GATE = "its value is a weight between 0 and 1, not a feature: an unbounded activation in its place changes the meaning"

GATES: tuple[Operator, ...] = (
    Operator(
        "sigmoid",
        "gate",
        modules=(
            "torch.nn.modules.activation.Sigmoid",
            "timm.layers.activations.Sigmoid",
            "fairchem.*.ScaledSigmoid",
        ),
        functions=(
            "torch.sigmoid",
            "torch.sigmoid_",
            "torch.special.expit",
            "torch.nn.functional.sigmoid",
            "deepxde.backend.pytorch.tensor.sigmoid",
            "timm.layers.activations.sigmoid",
        ),
        methods=("sigmoid", "sigmoid_"),
        kernels=("sigmoid", "special_expit"),
        parameters=("scale_factor",),
        reference=F.sigmoid,
        reason=_GATE,
    ),
    Operator(
        "hardsigmoid",
        "gate",
        modules=("torch.nn.modules.activation.Hardsigmoid", "timm.layers.activations.HardSigmoid"),
        functions=("torch.nn.functional.hardsigmoid", "torch._C._nn.hardsigmoid", "torch._C._nn.hardsigmoid_"),
        kernels=("hardsigmoid",),
        reference=F.hardsigmoid,
        reason=_GATE,
    ),
    Operator(
        "glu",
        "gate",
        modules=("torch.nn.modules.activation.GLU",),
        functions=("torch.nn.functional.glu", "torch._C._nn.glu"),
        kernels=("glu",),
        parameters=("dim",),
        reason="one half of its input is multiplied with the sigmoid of the other half: " + _GATE,
    ),
)
