"""The order in which structures are visited: a function of seed, epoch and step alone, so that it survives a kill."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["epoch_order", "step_indices"]


def epoch_order(structures: int, seed: int, epoch: int) -> NDArray[Any]:
    """Return the order of an epoch: a permutation of ``range(structures)``."""
    return np.random.Generator(np.random.PCG64([seed, 1, epoch])).permutation(structures)


def step_indices(structures: int, batch_size: int, seed: int, step: int) -> NDArray[Any]:
    """Return which structures a step sees, of all processes together.

    Parameters
    ----------
    structures
        Size of the training set.
    batch_size
        Structures per step; the last batch of an epoch may hold fewer.
    seed
        Seed of the training.
    step
        Steps done before, over all epochs.
    """
    epoch, within = divmod(step, -(-structures // batch_size))
    return epoch_order(structures, seed, epoch)[within * batch_size : (within + 1) * batch_size]
