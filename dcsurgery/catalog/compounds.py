"""The rows for activations that packages build from others: scaled, shifted, clipped or approximated.

Nearly all have no reference: a callable nobody listed is told as the basic operator with its scale, shift and gain.
They stand behind all other rows, since the kernels inside belong to the operators that they are built from.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dcsurgery.catalog.rows import Operator

__all__ = ["COMPOUNDS"]


def _siqu(x: Tensor) -> Tensor:
    return x * F.silu(x)


COMPOUNDS: tuple[Operator, ...] = (
    Operator(
        "scaled_silu",
        "activation",
        modules=("fairchem.*.ScaledSiLU", "ocpmodels.*.ScaledSiLU"),
        kernels=("silu",),
        parameters=("scale_factor",),
    ),
    Operator(
        "siqu",
        "activation",
        modules=("fairchem.*.SiQU", "ocpmodels.*.SiQU"),
        kernels=("silu",),
        reference=_siqu,
    ),
    Operator(
        "smooth_leaky_relu",
        "activation",
        modules=("fairchem.*.SmoothLeakyReLU", "ocpmodels.*.SmoothLeakyReLU"),
        kernels=("sigmoid",),
        parameters=("alpha",),
    ),
    Operator(
        "gelu_tanh",
        "activation",
        modules=(
            "transformers.activations.NewGELUActivation",
            "transformers.activations.FastGELUActivation",
            "transformers.activations.AccurateGELUActivation",
            "transformers.activations.PytorchGELUTanh",
            "transformers.activations.GELUTanh",
            "timm.layers.activations.GELUTanh",
        ),
        kernels=("gelu", "tanh"),
    ),
    Operator(
        "quick_gelu",
        "activation",
        modules=("transformers.activations.QuickGELUActivation", "timm.layers.activations.QuickGELU"),
        kernels=("sigmoid",),
    ),
    Operator(
        "clipped_gelu",
        "activation",
        modules=("transformers.activations.ClippedGELUActivation",),
        kernels=("gelu",),
        parameters=("min", "max"),
    ),
    Operator(
        "relu_squared",
        "activation",
        modules=("transformers.activations.ReLUSquaredActivation",),
        kernels=("relu",),
    ),
    Operator(
        "shifted_softplus",
        "activation",
        modules=(
            "torch_geometric.nn.models.schnet.ShiftedSoftplus",
            "fairchem.*.ShiftedSoftplus",
            "ocpmodels.*.ShiftedSoftplus",
        ),
        functions=("schnetpack.nn.activations.shifted_softplus",),
        kernels=("softplus",),
        parameters=("shift",),
    ),
)
