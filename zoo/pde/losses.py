"""The terms of a loss, each a mean of squares, from a network and a problem's points.

Two ways give the same numbers to rounding. DeepXDE's own evaluates the network once, on all points together, and the
equations on all of them, boundary and initial points included, of which only the equations' are used. The other one
evaluates the equations where they count, and points that several conditions share once. The first is needed where a
value depends on the other points of the batch: batch normalization, and the published energy flux.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dcsurgery.zoo.pde.backend import deepxde
from dcsurgery.zoo.pde.network import couples_points
from dcsurgery.zoo.pde.problems import Terms

__all__ = ["Loss"]


@dataclass
class _Batch:
    """Points of some conditions; ``spans`` says which rows each condition, by index, reads."""

    points: NDArray[Any]
    tensor: Tensor
    spans: list[tuple[int, int, int]]
    differentiates: bool


class Loss:
    """Terms of a loss as a function of a network's parameters.

    Parameters
    ----------
    terms
        What `Problem.terms` returns. Conditions on normal derivatives work in the precision of DeepXDE at the time: call
        this inside `dcsurgery.zoo.pde.backend.settings`.
    model
        The network; only whether it couples points is read from it.
    dtype, device
        Of the network.
    """

    def __init__(self, terms: Terms, model: nn.Module, dtype: torch.dtype, device: str | torch.device = "cpu") -> None:
        self.names = terms.names
        self._data = terms.data
        self._dtype, self._device = dtype, device
        self.joint = terms.couples_points or couples_points(model)
        self._all = self._tensor(terms.data.train_x)
        if not self.joint:
            self._inside, self._batches = self._split()

    @property
    def points(self) -> int:
        """Rows that a step evaluates the network at."""
        if self.joint:
            return len(self._all)
        return len(self._inside) + sum(len(batch.tensor) for batch in self._batches)

    def __call__(self, model: nn.Module) -> Tensor:
        """Return the terms, (n_terms,), with gradients to the model's parameters."""
        try:
            return torch.stack(self._joint(model) if self.joint else self._separate(model))
        finally:
            deepxde().grad.clear()  # it keeps every derivative, and the graph behind it

    def _joint(self, model: nn.Module) -> list[Tensor]:
        inputs = self._all.detach().requires_grad_()
        outputs = model(inputs)
        losses: list[Tensor] = self._data.losses(None, outputs, deepxde().losses.mean_squared_error, inputs, None)
        return losses

    def _separate(self, model: nn.Module) -> list[Tensor]:
        inside = self._inside.detach().requires_grad_()
        found = [residual.square().mean() for residual in self._data.pde(inside, model(inside))]
        equations = len(found)
        found += [inside.new_zeros(())] * len(self._data.bcs)
        for batch in self._batches:
            inputs = batch.tensor.detach().requires_grad_(batch.differentiates)
            outputs = model(inputs)
            for index, start, stop in batch.spans:
                error = self._data.bcs[index].error(batch.points, inputs, outputs, start, stop)
                found[equations + index] = error.square().mean()
        return found

    def _tensor(self, points: NDArray[Any]) -> Tensor:
        return torch.as_tensor(points, dtype=self._dtype, device=self._device)

    def _split(self) -> tuple[Tensor, list[_Batch]]:
        """Sort the points: the equations', those of conditions on values, those of conditions on derivatives."""
        data = self._data
        ends = np.cumsum([0, *data.num_bcs])
        kinds: dict[bool, list[tuple[NDArray[Any], list[int]]]] = {False: [], True: []}
        for index, condition in enumerate(data.bcs):
            rows = data.train_x[ends[index] : ends[index + 1]]
            same = kinds[isinstance(condition, deepxde().icbc.NeumannBC)]
            for known, indices in same:
                if np.array_equal(known, rows):
                    indices.append(index)
                    break
            else:
                same.append((rows, [index]))
        batches = []
        for differentiates, sets in kinds.items():
            if not sets:
                continue
            points = np.ascontiguousarray(np.vstack([rows for rows, _ in sets]))
            starts = np.cumsum([0, *(len(rows) for rows, _ in sets)])
            spans = [
                (index, int(starts[place]), int(starts[place + 1]))
                for place, (_, indices) in enumerate(sets)
                for index in indices
            ]
            batches.append(_Batch(points, self._tensor(points), spans, differentiates))
        return self._tensor(data.train_x[ends[-1] :]), batches
