"""Errors of a predicted field: PDEBench's six, by their formulas, and the error over the whole field.

With p and q prediction and target, for each frame and channel: RMSE √⟨(p - q)²⟩ over the cells; nRMSE the same over
√⟨q²⟩; conserved |Σp - Σq| / number of cells; max the largest |p - q|; boundary the RMSE over the cells at the ends of the
axes; Fourier |p̂ - q̂| / number of cells, averaged over wave numbers below 4, from 4 to 11, and from 12 on (in two dimensions
the sizes of wave vectors rounded down, whose squares are added). Each is averaged over frames and channels.
Source: Takamoto et al., *PDEBench*, arXiv:2210.07182, appendix B.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.pde.fields import Field
from dcsurgery.zoo.pde.training import predict

__all__ = ["LAST_FRAMES", "errors", "evaluate"]

Array = NDArray[Any]

LAST_FRAMES = 20
_BANDS = {"fourier_low": (0, 4), "fourier_middle": (4, 12), "fourier_high": (12, None)}


def errors(predicted: Array, target: Array) -> dict[str, float]:
    """Return the metrics of frames, each array (n_frames, n_x[, n_y], channels).

    Raises
    ------
    BadInput
        If the shapes differ or are no frames of one or two axes.
    """
    if predicted.shape != target.shape or predicted.ndim not in (3, 4):
        raise BadInput(
            f"prediction and target must have one shape (frames, cells of one or two axes, channels), got "
            f"{predicted.shape} and {target.shape}",
            where="metrics",
        )
    p, q = predicted.astype(np.float64), target.astype(np.float64)
    space = tuple(range(1, p.ndim - 1))
    off = p - q
    rmse = np.sqrt((off**2).mean(space))  # (n_frames, channels)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = rmse / np.sqrt((q**2).mean(space))
    return {
        "rmse": float(rmse.mean()),
        "nrmse": float(relative.mean()),
        "conserved": float(np.abs(off.mean(space)).mean()),
        "max": float(np.abs(off).max(space).mean()),
        "boundary": float(np.sqrt(_at_the_ends(off)).mean()),
        **_fourier(off),
    }


def evaluate(model: nn.Module, field: Field, device: str | torch.device = "cpu") -> tuple[dict[str, float], Array]:
    """Return a network's errors on a field, and its prediction (shape of ``field.values``).

    The metrics are of the last 20 frames, as published; ``mse`` is their mean square error, ``field_rmse`` and ``field_max``
    are over all frames.
    """
    predicted = predict(model, field, device)
    if predicted.shape != field.values.shape:
        raise BadInput(
            f"the network returns {predicted.shape[-1]} fields, the file holds {field.channels}", where=field.source
        )
    last = slice(-LAST_FRAMES, None)
    off = predicted - field.values
    found = errors(predicted[last], field.values[last])
    found["mse"] = float((off[last] ** 2).mean())
    found["field_rmse"] = float(np.sqrt((off**2).mean()))
    found["field_max"] = float(np.abs(off).max())
    return found, predicted


def _at_the_ends(off: Array) -> Array:
    """Return the mean square over the outermost cells, (n_frames, channels); a corner counts for both axes."""
    squares, sides = np.zeros((len(off), off.shape[-1])), 0
    for axis in range(1, off.ndim - 1):
        for end in (0, -1):
            side = np.take(off, end, axis=axis).reshape(len(off), -1, off.shape[-1])
            squares += (side**2).sum(1)
            sides += side.shape[1]
    return squares / sides


def _fourier(off: Array) -> dict[str, float]:
    if off.ndim == 3:
        size = np.abs(np.fft.rfft(off, axis=1)) / off.shape[1]  # (n_frames, wave number, channels)
    else:
        n_x, n_y = off.shape[1:3]
        square = np.abs(np.fft.fft2(off, axes=(1, 2))) ** 2
        most = min(n_x // 2, n_y // 2)
        length = np.floor(np.hypot(*np.meshgrid(np.arange(n_x // 2), np.arange(n_y // 2), indexing="ij"))).astype(int)
        size = np.zeros((len(off), most, off.shape[-1]))
        for wave in range(most):
            size[:, wave] = square[:, : n_x // 2, : n_y // 2][:, length == wave].sum(1)
        size = np.sqrt(size) / (n_x * n_y)
    return {
        name: float(size[:, low:high].mean()) if size[:, low:high].size else 0.0 for name, (low, high) in _BANDS.items()
    }
