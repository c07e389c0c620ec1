"""Training of a PINN: full batches, every term of the loss kept for every step, resumable to the bit on a CPU."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.pde.backend import settings
from dcsurgery.zoo.pde.checkpoints import Clock, Store
from dcsurgery.zoo.pde.fields import Field
from dcsurgery.zoo.pde.losses import Loss
from dcsurgery.zoo.pde.network import dtype_of
from dcsurgery.zoo.pde.problems import Physics, Points, Problem

__all__ = ["Diverged", "History", "predict", "train"]

_LOOK_EVERY = 50  # steps between looks at the loss, each of which waits for a GPU


class Diverged(BadInput):
    """A term of the loss became NaN or infinite; ``history`` has the steps before."""

    history: History


@dataclass(frozen=True)
class History:
    """What a training did.

    Attributes
    ----------
    names
        Names of the terms.
    losses
        Each term at each step, before that step's update, (n_steps, n_terms).
    final
        Each term after the last update.
    seconds
        Time of the steps, all resumed parts together.
    points
        Rows that a step evaluates the network at.
    """

    names: tuple[str, ...]
    losses: NDArray[Any]
    final: Mapping[str, float]
    seconds: float
    points: int

    @property
    def steps(self) -> int:
        """Number of updates."""
        return len(self.losses)

    def total(self) -> NDArray[Any]:
        """Return the sum of the terms at each step, (n_steps,)."""
        total: NDArray[Any] = self.losses.sum(1)
        return total


def train(
    model: nn.Module,
    problem: Problem,
    field: Field,
    *,
    steps: int,
    lr: float = 1e-3,
    physics: Physics = "correct",
    points: Points | None = None,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    save_every: float = 20.0,
    progress: Callable[[int], object] | None = None,
) -> History:
    """Fit a network to a problem with Adam, in place.

    Parameters
    ----------
    model
        Maps coordinates (n, dim), time last, to fields (n, channels).
    problem, field, physics, points
        What to solve: see `Problem.terms`.
    steps, lr
        Number of updates (each of all points), Adam's learning rate.
    weights
        Weights of terms in the sum that is minimized, by name; 1 where a name is missing.
    seed
        Of the points.
    device
        Where to train; the model is moved there.
    folder
        Keep ``checkpoint.pt`` and ``losses.csv`` here. None keeps nothing.
    resume
        Go on from the folder's checkpoint, if there is one.
    save_every
        Seconds between checkpoints.
    progress
        Called with the number of the step after every step, and once before the first.

    Returns
    -------
    History
        Every term at every step.

    Raises
    ------
    BadInput
        If an argument is out of range, the model does not fit the problem, or a checkpoint is of another training.
    Diverged
        If a term is not finite; the message names the term and the step. The checkpoint before it is kept.
    """
    if steps < 0:
        raise BadInput(f"steps must not be negative, got {steps}")
    if not (math.isfinite(lr) and lr > 0):
        raise BadInput(f"lr must be a positive number, got {lr}")
    dtype = dtype_of(model)
    terms = problem.terms(field, physics=physics, points=points, seed=seed, dtype=dtype, device=device)
    factors = _factors(terms.names, weights, dtype, device)
    model.to(device)
    loss = Loss(terms, model, dtype, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    store = Store(folder, loss.names)
    begun, losses, before = store.load(model, optimizer, steps, device) if resume else (0, None, 0.0)
    table = torch.full((steps, len(loss.names)), math.nan, dtype=dtype, device=device)
    if losses is not None:
        table[:begun] = losses
    if progress is not None:
        progress(begun)
    mode, clock = model.training, Clock(before)
    model.train()
    try:
        # A model's own random numbers (dropout) come from the seed and the step, so that a resumed run has the same.
        with settings(dtype, device), torch.random.fork_rng(devices=_gpus(device)):
            _fits(model, problem, dtype, device)
            seen = begun
            for step in range(begun, steps):
                torch.manual_seed(seed * 1_000_003 + step)
                values = loss(model)
                optimizer.zero_grad()
                (values * factors).sum().backward()
                optimizer.step()
                table[step] = values.detach()
                last = step + 1 == steps
                if last or (step + 1) % _LOOK_EVERY == 0:
                    _look(table, seen, step + 1, loss.names, store, clock)
                    seen = step + 1
                    if last or clock.since_saved() > save_every:
                        store.save(model, optimizer, table[: step + 1], clock.seconds())
                        clock.saved()
                if progress is not None:
                    progress(step + 1)
            values = loss(model).detach()
        final = dict(zip(loss.names, values.double().tolist(), strict=True))
        bad = next((name for name, value in final.items() if not math.isfinite(value)), None)
        if bad is not None:
            raise _diverged(bad, final[bad], steps, table, loss.names, clock)
    finally:
        model.train(mode)
        optimizer.zero_grad()
    store.write(table)
    return History(loss.names, table.double().cpu().numpy(), final, clock.seconds(), loss.points)


def _factors(
    names: tuple[str, ...], weights: Mapping[str, float] | None, dtype: torch.dtype, device: str | torch.device
) -> Tensor:
    unknown = [name for name in weights or {} if name not in names]
    if unknown:
        raise BadInput(f"no term is named {unknown[0]!r}", where="weights", fix=f"the terms are: {', '.join(names)}")
    values = [float((weights or {}).get(name, 1.0)) for name in names]
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise BadInput("weights must be numbers of at least 0", where="weights")
    return torch.tensor(values, dtype=dtype, device=device)


def _fits(model: nn.Module, problem: Problem, dtype: torch.dtype, device: str | torch.device) -> None:
    """Try the model on two points."""
    points = torch.zeros(2, len(problem.coordinates), dtype=dtype, device=device)
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            output = model(points)
    except RuntimeError as error:
        raise BadInput(
            f"the network cannot take the coordinates {', '.join(problem.coordinates)}: {str(error).splitlines()[0]}",
            where=type(model).__name__,
        ) from None
    finally:
        model.train(mode)
    wanted = (2, len(problem.fields))
    if not isinstance(output, Tensor) or tuple(output.shape) != wanted:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise BadInput(
            f"the network must return {', '.join(problem.fields)} for each point, shape {wanted} for two, got {got}",
            where=type(model).__name__,
        )


def _look(table: Tensor, start: int, stop: int, names: tuple[str, ...], store: Store, clock: Clock) -> None:
    """Raise at the first term that is not finite, in the order of steps and terms."""
    part = table[start:stop]
    if bool(part.isfinite().all()):
        return
    step, term = (~part.isfinite()).nonzero()[0].tolist()
    store.write(table[: start + step + 1])
    raise _diverged(names[term], float(part[step, term]), start + step, table[: start + step], names, clock)


def _diverged(name: str, value: float, step: int, table: Tensor, names: tuple[str, ...], clock: Clock) -> Diverged:
    error = Diverged(
        f"the term {name} is {value} at step {step}",
        where="training",
        fix="lower the learning rate, or weigh this term less; the last checkpoint is from before this step",
    )
    error.history = History(names, table.double().cpu().numpy(), {}, clock.seconds(), 0)
    return error


def _gpus(device: str | torch.device) -> list[int]:
    place = torch.device(device)
    return [place.index or 0] if place.type == "cuda" else []


def predict(model: nn.Module, field: Field, device: str | torch.device = "cpu", rows: int = 65536) -> NDArray[Any]:
    """Return the network's values at all points of a field, in the shape of its ``values``, float64, in eval mode."""
    dtype, points = dtype_of(model), field.points(np.float64)
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            parts = [
                model(torch.as_tensor(points[start : start + rows], dtype=dtype, device=device)).double().cpu().numpy()
                for start in range(0, len(points), rows)
            ]
    finally:
        model.train(mode)
    return np.concatenate(parts).reshape(*field.values.shape[:-1], -1)
