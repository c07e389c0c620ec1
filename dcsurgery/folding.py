"""A batch norm in evaluation mode as part of the layer before it, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

__all__ = ["Fold", "fold_batch_norm"]


def fold_batch_norm(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    variance: torch.Tensor,
    eps: float,
    gain: torch.Tensor | None,
    shift: torch.Tensor | None,
) -> tuple[nn.Parameter, nn.Parameter]:
    """Return weight and bias of a linear (weight of 2 dimensions) or convolution layer with a batch norm in it.

    Parameters
    ----------
    weight, bias
        The layer's; a bias that it does not have counts as 0.
    mean, variance, eps
        The norm's running statistics (n_out,), and what it adds to the variance.
    gain, shift
        The norm's weight and bias (n_out,); None for 1 and 0.
    """
    gain = torch.ones_like(mean) if gain is None else gain
    shift = torch.zeros_like(mean) if shift is None else shift
    fuse = fuse_conv_bn_weights if weight.dim() > 2 else fuse_linear_bn_weights
    return fuse(weight, bias, mean, variance, eps, gain, shift)


@dataclass(frozen=True)
class Fold:
    """A batch norm whose scale and shift went into the layer before it.

    Attributes
    ----------
    layer, norm
        Paths of the two modules.
    eps
        What the norm adds to a variance.
    """

    layer: str
    norm: str
    eps: float

    def forward(self, tensors: dict[str, Any]) -> None:
        """Fold the norm's tensors into the layer's; the norm's stay."""
        weight, bias = f"{self.layer}.weight", f"{self.layer}.bias"
        mean, variance = (tensors[f"{self.norm}.{name}"] for name in ("running_mean", "running_var"))
        gain, shift = (tensors.get(f"{self.norm}.{name}") for name in ("weight", "bias"))
        with torch.no_grad():
            fused = fold_batch_norm(tensors[weight], tensors.get(bias), mean, variance, self.eps, gain, shift)
        tensors[weight], tensors[bias] = (tensor.detach() for tensor in fused)

    def backward(self, tensors: dict[str, Any], keys: Sequence[str], *, bias_added: bool) -> None:
        """Give the original a norm that changes nothing, and shifts by the bias that its layer does not have.

        Parameters
        ----------
        tensors
            The edited model's; the norm's are added, an added bias is taken out.
        keys
            The keys that the norm has in the original.
        bias_added
            Whether the layer got its bias by the fold.
        """
        weight = tensors[f"{self.layer}.weight"]
        shift = tensors.pop(f"{self.layer}.bias") if bias_added else weight.new_zeros(weight.shape[0])
        values = {
            "running_mean": -shift,
            "running_var": torch.ones_like(shift) - self.eps,
            "weight": torch.ones_like(shift),
            "bias": torch.zeros_like(shift),
            "num_batches_tracked": torch.zeros((), dtype=torch.int64),
        }
        for key in keys:
            tensors[key] = values[key.removeprefix(f"{self.norm}.")]
