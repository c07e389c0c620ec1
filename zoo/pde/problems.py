"""The three problems: domain, equations, initial, boundary and data terms, and how many points each is taken at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dcsurgery.errors import BadInput
from dcsurgery.zoo.pde import residuals
from dcsurgery.zoo.pde.backend import settings
from dcsurgery.zoo.pde.fields import Field
from dcsurgery.zoo.pde.published import DEVIATIONS, published_data_points

__all__ = ["PROBLEMS", "Physics", "Points", "Problem", "Terms", "problem"]

Physics = Literal["correct", "published"]

# Ends of a file's grid may differ from the domain's by this part of a cell; the files hold float32.
_SLACK = 0.25


@dataclass(frozen=True)
class Points:
    """How many points the terms of a loss are taken at.

    Attributes
    ----------
    domain, boundary, initial
        Points of the equations inside the domain, on its boundary and at the first time, from Hammersley's sequence. The
        ones on the boundary are those of the boundary conditions as well.
    data
        Values of the field inside the domain that a diffusion-reaction network is shown, in ``correct`` mode.
    every
        Initial values are taken at each ``every``-th cell of an axis.
    """

    domain: int = 1000
    boundary: int = 1000
    initial: int = 5000
    data: int = 4096
    every: int = 1

    def __post_init__(self) -> None:
        for name in ("domain", "boundary", "initial", "data", "every"):
            least = 0 if name in ("initial", "data") else 1
            if getattr(self, name) < least:
                raise BadInput(f"number of points {name!r} must be at least {least}, got {getattr(self, name)}")

    def fraction(self, part: float) -> Points:
        """Return the same with a part of the points of every kind (``every`` stays)."""
        domain, boundary, initial, data = (
            max(1, round(part * n)) for n in (self.domain, self.boundary, self.initial, self.data)
        )
        return Points(domain, boundary, initial, data, self.every)


@dataclass(frozen=True)
class Terms:
    """A loss, made for one field: what DeepXDE needs to compute its terms.

    Attributes
    ----------
    data
        DeepXDE's ``TimePDE``.
    names
        Names of the terms, equations first.
    couples_points
        Whether a residual at one point depends on the others (a published mistake does that).
    """

    data: Any
    names: tuple[str, ...]
    couples_points: bool = False


@dataclass(frozen=True)
class Problem:
    """One of PDEBench's problems.

    Attributes
    ----------
    name
        ``advection``, ``cfd`` or ``diffusion-reaction``.
    title
        For a person.
    coordinates, fields
        Names of the network's inputs (time last) and outputs.
    domain
        Ends of each space axis.
    end
        Last time; the first is 0.
    equations
        Names of the residuals in ``correct`` mode.
    steps
        Steps of the published training.
    """

    name: str
    title: str
    coordinates: tuple[str, ...]
    fields: tuple[str, ...]
    domain: tuple[tuple[float, float], ...]
    end: float
    equations: tuple[str, ...]
    steps: int

    @property
    def deviations(self) -> tuple[str, ...]:
        """In what the published set-up departs from the problem, each in one sentence."""
        return DEVIATIONS[self.name]

    def residual(self, physics: Physics) -> residuals.Residual:
        """Return the residuals of a mode."""
        correct = {
            "advection": residuals.advection,
            "cfd": residuals.compressible_flow,
            "diffusion-reaction": residuals.diffusion_reaction,
        }
        published = {
            "cfd": residuals.published_compressible_flow,
            "diffusion-reaction": residuals.published_diffusion_reaction,
        }
        return {**correct, **(published if physics == "published" else {})}[self.name]

    def check(self, field: Field, physics: Physics = "correct") -> None:
        """Compare a file's grid with the problem.

        Raises
        ------
        BadInput
            If the number of fields or axes, the domain or the times differ. The published set-up of compressible flow
            departs from its file's domain, which is let pass in that mode.
        """
        if field.channels != len(self.fields) or len(field.space) != len(self.domain):
            raise BadInput(
                f"{self.title} has the fields {', '.join(self.fields)} over {len(self.domain)} space axes, got "
                f"{field.channels} fields over {len(field.space)}",
                where=field.source,
            )
        for name, axis, here, there in zip(self.coordinates, field.space, field.domain, self.domain, strict=False):
            cell = (here[1] - here[0]) / len(axis)
            if physics == "correct" and max(abs(a - b) for a, b in zip(here, there, strict=True)) > _SLACK * cell:
                raise BadInput(
                    f"the cells of {name} cover [{here[0]:.4g}, {here[1]:.4g}], and {self.title} is solved on "
                    f"[{there[0]:g}, {there[1]:g}]",
                    where=field.source,
                    fix="give a file of this problem; physics='published' ignores the difference, as the published code does",
                )
        last = float(field.t[-1])
        if abs(float(field.t[0])) > 1e-6 or abs(last - self.end) > 1e-3 * self.end:
            raise BadInput(
                f"the times run from {float(field.t[0]):.4g} to {last:.4g}, and {self.title} from 0 to {self.end:g}",
                where=field.source,
            )

    def seen(self, field: Field, physics: Physics = "correct") -> Field:
        """Return the field that a network is tested on: in the published set-up of reactions, x and y are exchanged."""
        if physics == "published" and self.name == "diffusion-reaction":
            return Field(field.space, field.t, field.values.swapaxes(1, 2), field.source, field.attributes)
        return field

    def terms(
        self,
        field: Field,
        *,
        physics: Physics = "correct",
        points: Points | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> Terms:
        """Build the loss for one field.

        Parameters
        ----------
        field
            The sample: its first time is the initial condition.
        physics
            ``correct``, or ``published`` for the published formulas, mistakes included (see `deviations`).
        points
            How many points; by default as published.
        seed
            Of the points' times and of the shown values.
        dtype, device
            Precision and place of the points.

        Raises
        ------
        BadInput
            If the field is not one of this problem's.
        """
        if physics not in ("correct", "published"):
            raise BadInput(f"unknown physics {physics!r}", fix="use 'correct' or 'published'")
        self.check(field, physics)
        points = points or Points()
        with settings(dtype, device, seed) as dde:
            geometry = dde.geometry.GeometryXTime(self._space(dde, physics), dde.geometry.TimeDomain(0, self.end))
            conditions = self._conditions(dde, geometry, field, physics, points, seed)
            data = dde.data.TimePDE(
                geometry,
                self.residual(physics),
                list(conditions.values()),
                num_domain=points.domain,
                num_boundary=points.boundary,
                num_initial=points.initial,
            )
        separate = physics == "correct" or self.name == "advection"
        names = (*(self.equations if separate else ("f",)), *conditions)
        return Terms(data, names, couples_points=physics == "published" and self.name == "cfd")

    def _space(self, dde: Any, physics: Physics) -> Any:
        if self.name == "diffusion-reaction":
            return dde.geometry.Rectangle(*([ends[i] for ends in self.domain] for i in (0, 1)))
        if self.name == "cfd" and physics == "published":
            return dde.geometry.Interval(0.0, 1.0)
        return dde.geometry.Interval(*self.domain[0])

    def _conditions(
        self, dde: Any, geometry: Any, field: Field, physics: Physics, points: Points, seed: int
    ) -> Mapping[str, Any]:
        """Return the conditions by name, in the published order."""
        start = field.frames(slice(0, 2))
        cells = (slice(None), *[slice(None, None, points.every)] * len(field.space))
        first = Field(tuple(axis[:: points.every] for axis in field.space), start.t, start.values[cells], field.source)
        at, values = _rows(first, slice(0, 1))
        initial = {
            f"ic_{name}": dde.icbc.PointSetBC(at, values[:, i : i + 1], component=i)
            for i, name in enumerate(self.fields)
        }
        if self.name == "diffusion-reaction":
            sides = self.fields[:1] if physics == "published" else self.fields
            flux = {
                f"bc_{name}": dde.icbc.NeumannBC(geometry, lambda _x: 0, lambda _x, on: on, component=i)
                for i, name in enumerate(sides)
            }
            return {**flux, **initial, **self._shown(dde, field, physics, points, seed)}
        periodic = {}
        for i, name in enumerate(self.fields):
            # The published code passes i as the axis, and so compares the first field three times.
            component = 0 if physics == "published" else i
            periodic[f"bc_{name}"] = dde.icbc.PeriodicBC(geometry, 0, lambda _x, on: on, component=component)
        return {**initial, **periodic}

    def _shown(self, dde: Any, field: Field, physics: Physics, points: Points, seed: int) -> Mapping[str, Any]:
        if physics == "published":
            at, values = published_data_points(self.seen(field, physics))
        elif points.data == 0:
            return {}
        else:
            at, values = _rows(field, slice(None))
            chosen = np.random.Generator(np.random.PCG64([seed, 6])).choice(
                len(at), min(points.data, len(at)), replace=False
            )
            at, values = at[chosen], values[chosen]
        return {
            f"data_{name}": dde.icbc.PointSetBC(at, values[:, i : i + 1], component=i)
            for i, name in enumerate(self.fields)
        }


def _rows(field: Field, frames: slice) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return coordinates (n, dim) and values (n, channels) of some frames."""
    count = len(field.t[frames])
    size = int(np.prod([len(axis) for axis in field.space]))
    return field.points(np.float64)[: count * size], field.values[frames].reshape(count * size, -1)


PROBLEMS: Mapping[str, Problem] = {
    one.name: one
    for one in (
        Problem("advection", "1D advection", ("x", "t"), ("u",), ((0.0, 1.0),), 2.0, ("f",), 15000),
        Problem(
            "cfd",
            "1D compressible flow",
            ("x", "t"),
            ("rho", "v", "p"),
            ((-1.0, 1.0),),
            1.0,
            ("f_mass", "f_momentum", "f_energy"),
            15000,
        ),
        Problem(
            "diffusion-reaction",
            "2D diffusion-reaction",
            ("x", "y", "t"),
            ("u", "v"),
            ((-1.0, 1.0), (-1.0, 1.0)),
            5.0,
            ("f_u", "f_v"),
            100,
        ),
    )
}


def problem(name: str) -> Problem:
    """Return a problem by its name or its network's, ``pinn-NAME``.

    Raises
    ------
    BadInput
        If there is none.
    """
    key = name.removeprefix("pinn-")
    if key not in PROBLEMS:
        raise BadInput(f"unknown problem {name!r}", fix=f"there are: {', '.join(PROBLEMS)}")
    return PROBLEMS[key]
