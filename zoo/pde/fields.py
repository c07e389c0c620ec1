"""A field on a grid: one sample of a data set, with its coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcsurgery.errors import BadInput

__all__ = ["Field"]


@dataclass(frozen=True)
class Field:
    """Values of all fields of a problem at all times on a grid of cell centres.

    Attributes
    ----------
    space
        Cell centres of each space axis, each (n_cells,), evenly spaced and ascending.
    t
        Times, (n_times,), ascending.
    values
        (n_times, n_x, channels) or (n_times, n_x, n_y, channels).
    source
        File and sample, for messages.
    attributes
        What the file says about the sample.
    """

    space: tuple[NDArray[Any], ...]
    t: NDArray[Any]
    values: NDArray[Any]
    source: str = "field"
    attributes: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        shape = (len(self.t), *(len(axis) for axis in self.space))
        if self.values.ndim != len(shape) + 1 or self.values.shape[:-1] != shape:
            raise BadInput(
                f"values must have shape {(*shape, 'channels')}: {shape[0]} times and "
                f"{' x '.join(map(str, shape[1:]))} cells, got {self.values.shape}",
                where=self.source,
            )
        for name, axis in zip(("x", "y"), self.space, strict=False):
            steps = np.diff(axis.astype(np.float64))
            if len(axis) < 2 or (steps <= 0).any() or np.ptp(steps) > 1e-3 * steps.mean():
                raise BadInput(
                    f"the cell centres {name} must be evenly spaced and ascending, at least 2", where=self.source
                )
        if len(self.t) < 2 or (np.diff(self.t) <= 0).any():
            raise BadInput("the times must ascend, at least 2", where=self.source)
        if not np.isfinite(self.values).all():
            bad = np.argwhere(~np.isfinite(self.values))[0].tolist()
            raise BadInput(f"the values are not finite, first at index {bad}", where=self.source)

    @property
    def channels(self) -> int:
        """Number of fields."""
        return int(self.values.shape[-1])

    @property
    def domain(self) -> tuple[tuple[float, float], ...]:
        """Lower and upper end of each space axis: half a cell beyond the outermost centres."""
        ends = []
        for axis in self.space:
            half = 0.5 * float(axis[-1] - axis[0]) / (len(axis) - 1)
            ends.append((float(axis[0]) - half, float(axis[-1]) + half))
        return tuple(ends)

    def frames(self, which: slice) -> Field:
        """Return some of the times."""
        return Field(self.space, self.t[which], self.values[which], self.source, self.attributes)

    def points(self, dtype: Any = np.float32) -> NDArray[Any]:
        """Return the coordinates of all values, (n_values, dim), space first and time last, in the order of ``values``.

        Reshaped to (n_points, channels), ``values`` has the same order.
        """
        grids = np.meshgrid(self.t, *self.space, indexing="ij")
        return np.stack([*(grid.ravel() for grid in grids[1:]), grids[0].ravel()], axis=1).astype(dtype)

    def fingerprint(self) -> str:
        """Return a hash of coordinates and values, for run records."""
        digest = sha256()
        for array in (*self.space, self.t, self.values):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array, dtype=np.float32).tobytes())
        return digest.hexdigest()[:16]
