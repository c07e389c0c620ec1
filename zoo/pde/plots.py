"""Pictures of a run: the field, what the network makes of it, the error, and the terms of the loss over the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcsurgery.errors import BadInput
from dcsurgery.zoo.pde.fields import Field
from dcsurgery.zoo.pde.problems import Problem
from dcsurgery.zoo.pde.training import History
from dcsurgery.zoo.writing import replacing

__all__ = ["plot_field", "plot_losses"]

Array = NDArray[Any]

_MOST = 256  # cells and frames of a picture's axis
_DPI = 110


def plot_field(path: Path, problem: Problem, field: Field, predicted: Array) -> Path:
    """Draw target, prediction and error of each field: over x and t, in two dimensions over x and y at the last time.

    Raises
    ------
    BadInput
        If matplotlib is missing or the picture cannot be written.
    """
    figure_class = _figure_class()
    rows = len(problem.fields)
    figure = figure_class(figsize=(10, 0.6 + 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False)
    plane = len(field.space) == 2
    for i, name in enumerate(problem.fields):
        target, guess = (values[-1] if plane else values for values in (field.values[..., i], predicted[..., i]))
        low, high = float(target.min()), float(target.max())
        error = guess - target
        most = max(float(np.abs(error).max()), 1e-30)
        pictures = (
            (f"{name}", target, {"vmin": low, "vmax": high, "cmap": "viridis"}),
            (f"{name}, network", guess, {"vmin": low, "vmax": high, "cmap": "viridis"}),
            (f"{name}, error", error, {"vmin": -most, "vmax": most, "cmap": "RdBu_r"}),
        )
        for axis, (title, values, style) in zip(axes[i], pictures, strict=True):
            (left, right), (bottom, top) = field.domain[0], field.domain[1] if plane else (0.0, problem.end)
            image = axis.imshow(
                _thinned(values.T if plane else values),
                origin="lower",
                aspect="auto",
                extent=(left, right, bottom, top),
                interpolation="nearest",
                **style,
            )
            axis.set(title=title, xlabel="x", ylabel="y" if plane else "t")
            figure.colorbar(image, ax=axis)
    return _write(figure, path)


def plot_losses(path: Path, history: History) -> Path:
    """Draw each term of the loss over the steps, on a logarithmic scale; zeros are left out.

    Raises
    ------
    BadInput
        As in `plot_field`.
    """
    figure = _figure_class()(figsize=(7.5, 4.2), layout="constrained")
    axis = figure.subplots()
    step = np.arange(history.steps)
    for i, name in enumerate(history.names):
        values = np.where(history.losses[:, i] > 0, history.losses[:, i], np.nan)
        axis.plot(step, values, label=name, linewidth=1)
    if (history.losses > 0).any():
        axis.set_yscale("log")
    axis.set(xlabel="step", ylabel="mean square")
    axis.legend(ncols=3, fontsize="small")
    axis.grid(visible=True, alpha=0.3)
    return _write(figure, path)


def _figure_class() -> Any:
    try:
        # Not pyplot: it opens windows and keeps figures.
        from matplotlib.figure import Figure
    except ImportError:
        raise BadInput("pictures need matplotlib", fix='install it with pip install "dcsurgery[pde]"') from None
    return Figure


def _thinned(values: Array) -> Array:
    return values[:: max(1, len(values) // _MOST), :: max(1, values.shape[1] // _MOST)]


def _write(figure: Any, path: Path) -> Path:
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix(".") or "png", dpi=_DPI)
    return path
