"""The paper's Figures 1 and 2 from finished runs: errors against the force weight, and against the training set's size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcsurgery.errors import BadInput
from dcsurgery.zoo.results import paper
from dcsurgery.zoo.results.groups import Cell, Statistic, cells_of
from dcsurgery.zoo.runs import find_runs
from dcsurgery.zoo.writing import replacing

__all__ = ["Point", "draw", "points_of"]

#: What each figure varies, and whose runs it takes.
_FIGURES: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("beta", ("original",)),
    2: ("train", ("irelu+rescale", "irelu+denorm+rescale")),
}
_MODEL = "schnet"


@dataclass(frozen=True)
class Point:
    """One value on a figure's axis.

    Attributes
    ----------
    x
        Force weight (Figure 1) or number of training structures (Figure 2).
    energy, force
        Test errors over the seeds.
    seeds
        Of the runs.
    where
        Data and budget, in words.
    units
        Of energy and length.
    """

    x: float
    energy: Statistic
    force: Statistic
    seeds: tuple[int, ...]
    where: str
    units: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the point as plain JSON types."""
        return {
            "x": self.x,
            "energy_mae": self.energy.mean,
            "energy_mae_std": self.energy.std,
            "force_mae": self.force.mean,
            "force_mae_std": self.force.std,
            "seeds": list(self.seeds),
            "where": self.where,
        }


def points_of(number: int, runs: Path) -> list[Point]:
    """Return the points of a figure, sorted by x; only SchNet's runs count, as in the paper.

    Raises
    ------
    BadInput
        If there is no such figure, no finished run for it, or runs that differ in more than what the figure varies.
    """
    paper.figure(number)
    axis, variants = _FIGURES[number]
    records = [record for _folder, record in find_runs(runs)]
    cells = [cell for cell in cells_of(records) if cell.setting.model == _MODEL and cell.variant in variants]
    if not cells:
        option = "--beta B (several times)" if number == 1 else "--limit N (several times)"
        fix = f"dcsurgery zoo ablate {_MODEL} --variant {variants[0]} {option} --data FILE --out {runs}"
        raise BadInput(f"no finished runs of {_MODEL} {' or '.join(variants)}", where=str(runs), fix=fix)
    _check_alike(cells, axis, runs)
    points = [
        Point(_x(cell, axis), cell.energy, cell.force, cell.seeds, str(cell.setting), cell.setting.data["units"])
        for cell in cells
    ]
    return sorted(points, key=lambda point: point.x)


def draw(number: int, points: Sequence[Point], path: Path) -> None:
    """Draw a figure: energy and force error over its axis, with bars of one standard deviation.

    Raises
    ------
    BadInput
        If matplotlib is missing, cannot write such files, or the folder cannot be written to.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise BadInput("drawing needs matplotlib", fix="pip install matplotlib") from None
    drawing = Figure(figsize=(9, 4), layout="constrained")
    if path.suffix.lstrip(".") not in drawing.canvas.get_supported_filetypes():
        raise BadInput(
            f"cannot draw a {path.suffix or 'file without ending'}", where=str(path), fix="use .svg, .png or .pdf"
        )
    axes = drawing.subplots(1, 2)
    units = points[0].units
    labels = (f"energy MAE, {units['energy']}", f"force MAE, {units['energy']}/Å")
    for axis, name, label in zip(axes, ("energy", "force"), labels, strict=True):
        values = [getattr(point, name) for point in points]
        bars = [0.0 if value.std != value.std else value.std for value in values]  # one seed has no deviation
        axis.errorbar([point.x for point in points], [value.mean for value in values], bars, marker="o", capsize=3)
        axis.set_xlabel("force weight beta" if number == 1 else "training structures")
        axis.set_ylabel(label)
        axis.set_yscale("log")
        if number == 1:
            axis.set_xscale("log")
    drawing.suptitle(f"{paper.figure(number)['title']}\n{points[0].where}", fontsize=9)
    with replacing(path) as file:
        drawing.savefig(file, format=path.suffix.lstrip("."))


def _x(cell: Cell, axis: str) -> float:
    return float(cell.setting.settings["beta"] if axis == "beta" else cell.setting.data["train"])


def _check_alike(cells: Iterable[Cell], axis: str, runs: Path) -> None:
    """Refuse runs of several data sets or budgets: their points make no line."""
    kinds = set()
    for cell in cells:
        settings = {key: value for key, value in cell.setting.settings.items() if key != axis}
        data = (cell.setting.data["fingerprint"], cell.setting.data["train"] if axis == "beta" else None)
        kinds.add((cell.variant, data, str(sorted(settings.items(), key=str))))
    if len(kinds) > 1:
        what = "the force weight" if axis == "beta" else "the number of training structures"
        raise BadInput(
            f"holds runs that differ in more than {what}", where=str(runs), fix="give a folder with one sweep"
        )
