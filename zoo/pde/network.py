"""The network of PDEBench's PINNs: DeepXDE's fully connected one, with batch normalization where it is asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.pde.backend import deepxde

__all__ = ["NORMS", "PINN"]

_dde = deepxde()

#: ``batch-fixed`` is what the published scripts compute: their layers stand in a plain list, so that neither scale and
#: shift are trained nor running statistics are used, in evaluation as little as in training.
NORMS = ("none", "batch", "batch-fixed")


class PINN(_dde.nn.FNN):  # type: ignore[name-defined]
    """Fully connected network, hidden layers of one width, each followed by its activation and then its norm.

    Parameters
    ----------
    inputs, outputs
        Coordinates (space, then time) and fields.
    width, depth
        Units of a hidden layer, number of hidden layers.
    activation
        DeepXDE's name of the activation.
    norm
        ``none``, ``batch`` (BatchNorm1d after each activation, as in the published set-up, but registered with the
        model) or ``batch-fixed`` (see `NORMS`).
    initializer
        DeepXDE's name of the weights' initializer; biases start at 0.

    Raises
    ------
    BadInput
        If a setting is unknown.
    """

    def __init__(
        self,
        inputs: int = 2,
        outputs: int = 1,
        width: int = 40,
        depth: int = 6,
        activation: str = "tanh",
        norm: str = "none",
        initializer: str = "Glorot normal",
    ) -> None:
        if norm not in NORMS:
            raise BadInput(f"unknown norm {norm!r}", fix=f"use one of {', '.join(NORMS)}")
        super().__init__([inputs, *[width] * depth, outputs], activation, initializer)
        fixed = norm == "batch-fixed"
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(width, affine=not fixed, track_running_stats=not fixed, dtype=self.linears[0].weight.dtype)
            for _ in range(depth if norm != "none" else 0)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map coordinates (n_points, inputs) to fields (n_points, outputs)."""
        if self.norms and self.training and len(inputs) < 2:
            raise BadInput(
                "batch normalization needs at least 2 points in a batch, got 1",
                where=type(self).__name__,
                fix="give more points, or use norm='none'",
            )
        x = inputs if self._input_transform is None else self._input_transform(inputs)
        for index, linear in enumerate(self.linears[:-1]):
            x = self.activation(linear(x))
            if self.norms:
                x = self.norms[index](x)
        x = self.linears[-1](x)
        return x if self._output_transform is None else self._output_transform(inputs, x)


def couples_points(model: nn.Module) -> bool:
    """Return whether a row of the model's output depends on other rows of its input in train mode."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the precision of a model's first floating-point parameter."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
