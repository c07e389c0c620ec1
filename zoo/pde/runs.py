"""One training of a PINN as a run: network, field, settings, record, pictures. What the command line calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from dcsurgery.errors import BadInput
from dcsurgery.zoo import runs
from dcsurgery.zoo.pde import hdf5, metrics, plots, training, variants
from dcsurgery.zoo.pde.fields import Field
from dcsurgery.zoo.pde.generators import make_sample
from dcsurgery.zoo.pde.problems import Physics, Points, Problem
from dcsurgery.zoo.pde.training import History
from dcsurgery.zoo.writing import replacing

__all__ = ["MODEL", "Request", "Result", "field_of", "run"]

MODEL = "model.pt"
#: A prediction whose spread is below this part of the field's is called constant: the network has collapsed.
COLLAPSED = 1e-3

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Request:
    """Everything that decides the result of a run.

    Attributes
    ----------
    problem, variant
        What is solved with which network.
    steps, lr, seed
        Updates, Adam's learning rate, seed of weights and points.
    size, physics, points, precision
        See `dcsurgery.zoo.pde.variants.build` and `Problem.terms`; ``precision`` is ``float32`` or ``float64``.
    weights
        Weights of terms, by name.
    """

    problem: Problem
    variant: variants.Variant
    steps: int
    lr: float = 1e-3
    seed: int = 0
    size: str = "paper"
    physics: Physics = "correct"
    points: Points = field(default_factory=Points)
    precision: str = "float32"
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network."""
        if self.precision not in _DTYPES:
            raise BadInput(f"unknown precision {self.precision!r}", fix=f"use {' or '.join(_DTYPES)}")
        return _DTYPES[self.precision]

    def settings(self) -> dict[str, Any]:
        """Return what a run record keeps, and what a resumed run must have the same."""
        return {
            "steps": self.steps,
            "lr": self.lr,
            "size": self.size,
            "physics": self.physics,
            "points": asdict(self.points),
            "precision": self.precision,
            "weights": dict(self.weights),
        }


@dataclass(frozen=True)
class Result:
    """What a run left: its folder, its record, and what it did now (None where it had ended before)."""

    folder: Path
    record: runs.RunRecord
    history: History | None


def field_of(problem: Problem, file: Path | None, sample: int | str = 0, cells: int | None = None) -> Field:
    """Read a sample from a file, or make one where there is no file: ``sample`` is then its seed."""
    if file is not None:
        return hdf5.read(file, problem.name, sample)
    if not isinstance(sample, int) or sample < 0:
        raise BadInput(f"sample {sample!r} is no seed", fix="give a number of at least 0, or a file with --data")
    return make_sample(problem.name, sample, cells)


def run(
    request: Request,
    data: Field,
    folder: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Result:
    """Train a variant in a folder of its own, measure it, and keep record, weights, losses and pictures there.

    Parameters
    ----------
    request
        What to train.
    data
        The field.
    folder
        Holds ``run.json``, ``model.pt`` (the trained network), ``checkpoint.pt``, ``losses.csv``, ``field.png`` and
        ``losses.png``.
    device
        Where to train.
    resume
        Go on with the run in that folder; one that ended is returned as it is.
    progress
        Called with the number of the step.

    Raises
    ------
    BadInput
        If the folder holds another run, or the data does not fit.
    Diverged
        If a term of the loss is not finite. The record then says so.
    """
    problem = request.problem
    problem.check(data, request.physics)
    if request.steps < 1:
        raise BadInput(f"at least 1 step must be trained, got {request.steps}")
    model = variants.build(
        problem,
        request.variant,
        size=request.size,
        seed=request.seed,
        physics=request.physics,
        dtype=request.dtype,
    )
    record = runs.RunRecord(
        name=f"pinn-{problem.name}",
        variant=request.variant.name,
        seed=request.seed,
        settings=request.settings(),
        data={"name": Path(data.source.split(",")[0]).name, "fingerprint": data.fingerprint()},
        device=runs.describe_device(device),
        command=runs.command_line(),
    )
    folder, record = runs.open_run(folder, record, resume=resume)
    if record.ended:
        return Result(folder, record, None)
    try:
        history = training.train(
            model,
            problem,
            data,
            steps=request.steps,
            lr=request.lr,
            physics=request.physics,
            points=request.points,
            weights=request.weights,
            seed=request.seed,
            device=device,
            folder=folder,
            resume=True,
            progress=progress,
        )
    except training.Diverged as error:
        record.ending("diverged", {}, wall_time=error.history.seconds, note=error.message).save(folder)
        raise
    target = problem.seen(data, request.physics)
    found, predicted = metrics.evaluate(model, target, device)
    spread = float(predicted.std(axis=tuple(range(predicted.ndim - 1))).max())
    found |= {f"loss_{name}": value for name, value in history.final.items()}
    found |= {
        "spread": spread / max(float(target.values.std()), 1e-30),
        "steps_per_second": history.steps / history.seconds,
    }
    note = "" if found["spread"] > COLLAPSED else "the network is constant: its output does not depend on its input"
    plots.plot_field(folder / "field.png", problem, target, predicted)
    plots.plot_losses(folder / "losses.png", history)
    with replacing(folder / MODEL) as file:
        torch.save(model.cpu(), file)  # a whole module, which `dcsurgery.load` reads without trust
    record = record.ending("finished", found, wall_time=history.seconds, note=note)
    record.save(folder)
    return Result(folder, record, history)
