"""What is wrong with the published set-ups (PDEBench's PINN code, which the paper's scripts copy), and their odd parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dcsurgery.zoo.pde.fields import Field

__all__ = ["DEVIATIONS", "published_data_points"]

_NORM = (
    "batch normalization uses the statistics of the batch in evaluation too, and its scale and shift are not trained"
)

DEVIATIONS: Mapping[str, tuple[str, ...]] = {
    "advection": (
        (
            "the paper's data file (DaRUS 133100) holds waves that move at 2 β, not β: the equation and the test data contradict"
            " each other, and no network can satisfy both; files made here, and PDEBench's since 2023-10-10, move at β"
        ),
        _NORM,
    ),
    "cfd": (
        "the momentum equation has - p_x, where it must be + p_x",
        "the energy flux mixes all pairs of points: its derivative is about as many times too large as there are points",
        "mass, momentum and energy are added before they are squared, so that they can cancel",
        "the equations are imposed on [0, 1], and the data live on [-1, 1]: initial values and test points lie outside",
        "the three periodic conditions all compare the density (the field's number is passed as the axis)",
        _NORM,
    ),
    "diffusion-reaction": (
        "both equations are added before they are squared, so that they can cancel",
        "the initial values are put at (x, y), and the shown values and the test data are read as (y, x)",
        "no flux through the sides is asked of u only",
        (
            "30 % of the values were to be shown to the network; 38 points in one corner are, since the length of the first axis"
            " is taken for the number of values (drawn here with a CPU generator, there with a GPU's)"
        ),
        _NORM,
    ),
}

_SEED = 42
_PART = 0.3


def published_data_points(field: Field) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return coordinates and values that the published code shows to a diffusion-reaction network.

    Of the rows (x, y, t), t fastest, it draws 30 % of the first 128: all have the first x and one of the first two y.
    """
    n_x = len(field.space[0])
    shown = int(n_x * _PART)
    generator = torch.Generator().manual_seed(_SEED)
    chosen = torch.randperm(n_x, generator=generator)[:shown].numpy()
    times = len(field.t)
    column, frame = chosen // times, chosen % times
    at = np.stack([np.full(shown, field.space[0][0]), field.space[1][column], field.t[frame]], axis=1)
    return at.astype(np.float64), field.values[frame, 0, column]
