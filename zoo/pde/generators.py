"""Data sets in PDEBench's layouts, made here: initial conditions of its families, solved exactly or by our own solvers.

Each sample has a seed of its own, so that sample 7 is the same whether 8 or 8000 are made. Samples that are done lie in a
folder beside the file until all are, and are not made again after an interruption.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcsurgery.errors import BadInput
from dcsurgery.zoo.pde import euler, hdf5, initial_conditions, reaction
from dcsurgery.zoo.pde.fields import Field
from dcsurgery.zoo.pde.problems import Problem, problem
from dcsurgery.zoo.pde.residuals import BETA, DIFFUSION, FEED, GAMMA
from dcsurgery.zoo.writing import replacing

__all__ = ["CELLS", "FILES", "TIMES", "generate", "make_sample"]

Array = NDArray[Any]
Progress = Callable[[float], object]

#: Cells of an axis and frames in PDEBench's files, and the names made here.
CELLS = {"advection": 1024, "cfd": 1024, "diffusion-reaction": 128}
TIMES = {"advection": 201, "cfd": 101, "diffusion-reaction": 101}
FILES = {
    "advection": "1D_Advection_Sols_beta0.1.hdf5",
    "cfd": "1D_CFD_Rand_periodic.hdf5",
    "diffusion-reaction": "2D_diff-react.h5",
}

_TOLERANCE = 1e-6


def make_sample(
    name: str,
    seed: int,
    cells: int | None = None,
    frames: int | None = None,
    progress: Progress | None = None,
) -> Field:
    """Draw an initial condition and solve the problem from it.

    Parameters
    ----------
    name
        ``advection``, ``cfd`` or ``diffusion-reaction``.
    seed
        Decides the initial condition.
    cells, frames
        Cells of each axis, frames from 0 to the last time; by default PDEBench's.
    progress
        Called with the part that is done, from 0 to 1.

    Raises
    ------
    BadInput
        If a number is out of range or the solver cannot go on.
    """
    of = problem(name)
    cells, frames = cells or CELLS[of.name], frames or TIMES[of.name]
    if cells < 8 or frames < 2:
        raise BadInput(f"at least 8 cells and 2 frames are needed, got {cells} and {frames}", where="generator")
    space = tuple(low + (high - low) * (np.arange(cells) + 0.5) / cells for low, high in of.domain)
    t = np.linspace(0, of.end, frames)
    tell: Progress = (lambda _part: None) if progress is None else progress

    def at(time: float) -> None:
        tell(min(time / of.end, 1.0))

    make = {"advection": _advection, "cfd": _gas, "diffusion-reaction": _reaction}[of.name]
    values, attributes = make(seed, space, t, at)
    return Field(space, t, values, f"{of.name}, seed {seed}", {"seed": seed, **attributes})


def generate(
    path: str | os.PathLike[str],
    name: str,
    *,
    samples: int = 1,
    seed: int = 0,
    cells: int | None = None,
    frames: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a file of samples, the ``i``-th with seed ``seed + i``.

    Parameters
    ----------
    path
        File to write. Beside it lies ``PATH.parts`` until it is complete.
    name, cells, frames
        As in `make_sample`.
    samples, seed
        How many, and the seed of the first; all are recorded in the file.
    progress
        Called with the number of samples that are done, a fraction in between.

    Raises
    ------
    BadInput
        If the file exists, samples of other settings lie beside it, a number is out of range, or the folder cannot be
        written to.
    """
    of, path = problem(name), Path(path)
    if samples < 1:
        raise BadInput(f"at least 1 sample must be made, got {samples}")
    if seed < 0:
        raise BadInput(f"the seed must not be negative, got {seed}")
    if path.exists():
        raise BadInput("there is such a file", where=str(path), fix="choose another name, or delete it")
    cells, frames = cells or CELLS[of.name], frames or TIMES[of.name]
    settings: dict[str, Any] = {
        "problem": of.name,
        "first_seed": seed,
        "samples": samples,
        "cells": cells,
        "frames": frames,
    }
    parts = _parts(path, settings)
    fields = []
    for index in range(samples):
        part = parts / f"{index:06d}.npz"
        if not part.exists() or (done := _part(part)) is None:
            tell = None if progress is None else (lambda fraction, index=index: progress(index + fraction))
            done = make_sample(of.name, seed + index, cells, frames, tell)
            with replacing(part) as file:
                arrays: dict[str, Any] = {f"space{i}": axis for i, axis in enumerate(done.space)}
                arrays |= {"t": done.t, "values": done.values.astype("f4")}
                np.savez(file, attributes=np.array(json.dumps(dict(done.attributes))), **arrays)
        fields.append(done)
        if progress is not None:
            progress(index + 1)
    _assemble(path, of, fields, settings)
    shutil.rmtree(parts)
    return path


def _parts(path: Path, settings: dict[str, Any]) -> Path:
    """Return the folder of finished samples; it is made, or found to have the same settings."""
    parts = path.with_name(path.name + ".parts")
    record = parts / "settings.json"
    try:
        parts.mkdir(exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make a folder here: {error.strerror}", where=str(parts)) from None
    if record.exists():
        try:
            before = json.loads(record.read_text())
        except ValueError:
            before = {}
        # More samples of the same kind may be asked for than before.
        if {**before, "samples": 0} != {**settings, "samples": 0}:
            changed = [key for key in settings if before.get(key) != settings[key] and key != "samples"]
            raise BadInput(
                f"holds unfinished samples with another {', '.join(changed)}",
                where=str(parts),
                fix="give the settings it was begun with, or delete the folder",
            )
    with replacing(record) as file:
        file.write(json.dumps(settings, indent=2).encode())
    return parts


def _part(part: Path) -> Field | None:
    """Return a finished sample, or None if its file is damaged."""
    try:
        with np.load(part) as kept:
            space = tuple(kept[f"space{i}"] for i in range(2) if f"space{i}" in kept.files)
            return Field(space, kept["t"], kept["values"], str(part), json.loads(str(kept["attributes"])))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _assemble(path: Path, of: Problem, fields: list[Field], settings: dict[str, Any]) -> None:
    attributes: dict[str, Any] = {
        "generator": "dcsurgery",
        "first_seed": settings["first_seed"],
        "seeds": [int(field.attributes["seed"]) for field in fields],
    }
    attributes |= {"advection": {"beta": BETA}, "cfd": {"gamma": GAMMA, "eta": 0.0, "zeta": 0.0}}.get(of.name, {})
    temporary = path.with_name(path.name + ".tmp")
    try:
        hdf5.write(temporary, of.name, fields, attributes)
        temporary.replace(path)
    except OSError as error:
        raise BadInput(
            f"cannot write: {error.strerror or error}", where=str(path), fix="choose another folder"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _advection(seed: int, space: tuple[Array, ...], t: Array, at: Progress) -> tuple[Array, dict[str, Any]]:
    waves = initial_conditions.advection_waves(np.random.Generator(np.random.PCG64(seed)))
    values = waves(space[0][None, :] - BETA * t[:, None])[..., None]
    at(float(t[-1]))
    return values, {"solver": "exact", "beta": BETA}


def _gas(seed: int, space: tuple[Array, ...], t: Array, at: Progress) -> tuple[Array, dict[str, Any]]:
    initial = initial_conditions.gas(np.random.Generator(np.random.PCG64(seed)))
    x = space[0]
    cell = float(x[1] - x[0])
    # Averages over the cells, of the conserved fields, with Gauss's three points.
    nodes, weights = np.polynomial.legendre.leggauss(3)
    inside = initial(x[:, None] + 0.5 * cell * nodes)  # (n_cells, 3 points, channels)
    averages = euler.conserved(np.moveaxis(inside, -1, 0)) @ (0.5 * weights)
    values, steps = euler.solve(euler.primitive(averages).T, t, cell * len(x), progress=at)
    return values, {"solver": "MUSCL-HLLC, SSP-RK3", "steps": steps, "gamma": GAMMA}


def _reaction(seed: int, space: tuple[Array, ...], t: Array, at: Progress) -> tuple[Array, dict[str, Any]]:
    cells = len(space[0])
    u, v = initial_conditions.noise(seed, cells)
    values, evaluations = reaction.solve(u, v, t, tolerance=_TOLERANCE, progress=at)
    # The names of PDEBench's configuration.
    sim = {
        "seed": seed,
        "Du": DIFFUSION[0],
        "Dv": DIFFUSION[1],
        "k": FEED,
        "t": float(t[-1]),
        "tdim": len(t),
        "x_left": -1.0,
        "x_right": 1.0,
        "xdim": cells,
        "y_bottom": -1.0,
        "y_top": 1.0,
        "ydim": cells,
    }
    return values, {"sim": sim, "solver": f"RK45, tolerance {_TOLERANCE:g}", "evaluations": evaluations}
