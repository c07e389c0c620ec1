"""Tables of trained models on the screen and in files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dcsurgery.cli.documents import to_json
from dcsurgery.errors import BadInput
from dcsurgery.zoo.results import paper
from dcsurgery.zoo.results.groups import Cell, cells_of, power
from dcsurgery.zoo.results.tables import COLUMNS, build_table, columns, verdict_columns
from dcsurgery.zoo.runs import find_runs
from dcsurgery.zoo.writing import replacing

__all__ = ["cells_table", "comparison", "molecules", "points_table", "write"]


#: Without lines between columns: ten of them must fit.
_STYLE: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}

#: Columns that a narrow terminal has no room for; files and ``--json`` have them.
_WIDE, _WIDE_ONLY = 110, ("EFwT", "C")


def cells_table(title: str, cells: Sequence[Cell]) -> Table:
    """Return the results of a training or a grid, one line for each variant."""
    units = cells[0].setting.data.get("units") or {}
    energy = units.get("energy", "")
    table = Table(title=f"{title}; errors in {energy} and {energy}/Å", **_STYLE)
    for name in ("model", "variant", "E MAE", "F MAE", "EFwT", "C", "seeds", "steps/s", "MiB"):
        left = name in ("model", "variant")
        table.add_column(name, justify="left" if left else "right", no_wrap=left, overflow="fold")
    several = {(cell.setting.settings["beta"], cell.setting.data["train"]) for cell in cells}
    for cell in sorted(cells, key=lambda cell: (cell.setting.model, cell.setting.key, _rank(cell.variant))):
        setting = cell.setting
        label = setting.model
        if len(several) > 1:
            label += f" (beta {setting.settings['beta']:g}, {setting.data['train']} train)"
        efwt = "NaN" if math.isnan(cell.efwt.mean) else f"{100 * cell.efwt.mean:.2g} %"
        seeds = f"{len(cell.seeds)}" + (f", {len(cell.diverged)} diverged" if cell.diverged else "")
        speed = (f"{cell.steps_per_s:.3g}" if cell.steps_per_s > 0 else "", f"{cell.memory:.0f}")
        table.add_row(
            label, _folded(cell.variant), str(cell.energy), str(cell.force), efwt, power(cell.C), seeds, *speed
        )
    return table


def _rank(variant: str) -> tuple[int, str]:
    """The original comes first, then variants by their number of edits."""
    return (0 if variant == "original" else variant.count("+") + 1, variant)


def _folded(variant: str) -> str:
    """Break a long name, for a narrow column."""
    return variant.replace("+rescale", "\n+rescale") if variant.count("+") > 1 else variant


def comparison(number: int, runs: Path, width: int) -> tuple[dict[str, Any], list[Any], str]:
    """Return a table of the paper as a document, as what is shown, and as Markdown."""
    paper.table(number)
    found = [record for _folder, record in find_runs(runs)]
    built = build_table(number, cells_of(record for record in found if not record.name.startswith("pinn-")))
    unfinished = sum(not record.ended for record in found)
    units = paper.table(number)["units"]
    notes = built.notes()
    shown = Table(title=f"Table {number}. {built.title}; {units[0]} and {units[1]}, mean ± std over seeds", **_STYLE)
    kept = [index for index, head in enumerate(COLUMNS) if width >= _WIDE or head not in _WIDE_ONLY]
    for index in kept:
        right = 2 <= index <= 7
        cut = COLUMNS[index] == "paper"  # a number that does not fit goes on below; it is never cut
        shown.add_column(COLUMNS[index], justify="right" if right else "left", no_wrap=not cut, overflow="fold")
    for row in built.rows:
        texts = columns(row, notes)
        shown.add_row(*(_folded(texts[index]) if index == 1 else texts[index] for index in kept))
    parts: list[Any] = [shown, *(f"[{letter}] {setting}" for letter, setting in notes.values())]
    if built.verdicts:
        verdicts = Table(title="Claims of the paper; the rule is in docs/training.md", **_STYLE)
        for head in ("verdict", "claim"):
            verdicts.add_column(head, no_wrap=head == "verdict", overflow="fold")
        for verdict in built.verdicts:
            text, model, outcome, reason, where = verdict_columns(verdict, notes)
            verdicts.add_row(outcome, f"{model}: {text}{where and f' [{where}]'}. {reason}")
        parts.append(verdicts)
    if any(setting.reduced for _letter, setting in notes.values()):
        parts.append("Less was trained than in the paper (one seed, 50 epochs of 50 000 structures, paper size).")
    if unfinished:
        parts.append(f"{unfinished} unfinished runs are not counted.")
    return {"command": "zoo table", **built.to_dict(), "unfinished": unfinished}, parts, built.to_markdown()


def molecules(data: Sequence[Path]) -> tuple[dict[str, Any], list[Any], str]:
    """Return Table 6, the molecules of MD17, and the same of data files."""
    from dcsurgery.zoo.data.loading import load
    from dcsurgery.zoo.data.statistics import statistics

    heads = ("name", "formula", "atoms", "conformations", "from")
    rows = [{**molecule, "from": "paper"} for molecule in paper.molecules()]
    for path in data:
        found = statistics(load(path))
        low, high = found.atoms
        atoms = low if low == high else f"{low}-{high}"
        values = (found.name, found.formula or "several", atoms, found.conformations, path.name)
        rows.append(dict(zip(heads, values, strict=True)))
    table = Table(title="Table 6. Molecules of MD17 as the paper lists them, and the data that was given")
    for head in heads:
        table.add_column(head, justify="right" if head in ("atoms", "conformations") else "left")
    lines = ["## Table 6: molecules", "", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in rows:
        texts = [str(row[head]) for head in heads]
        table.add_row(*texts)
        lines.append(f"| {' | '.join(texts)} |")
    return {"command": "zoo table", "table": 6, "rows": rows}, [table], "\n".join(lines) + "\n"


def points_table(number: int, points: Sequence[Any]) -> Table:
    """Return the points of a figure."""
    found = paper.figure(number)
    table = Table(title=f"Figure {number}. {found['title']}")
    for head in (
        "beta" if number == 1 else "training structures",
        "energy MAE",
        "force MAE",
        "seeds",
        "data and budget",
    ):
        table.add_column(head)
    for point in points:
        table.add_row(f"{point.x:g}", str(point.energy), str(point.force), str(len(point.seeds)), point.where)
    return table


def write(path: Path, document: dict[str, Any], markdown: str) -> None:
    """Write a table as Markdown or JSON, by the file's ending.

    Raises
    ------
    BadInput
        If the ending is neither, or the folder cannot be written to.
    """
    if path.suffix not in (".md", ".json"):
        raise BadInput(
            f"cannot write a table as {path.suffix or 'a file without ending'}", where=str(path), fix="use .md or .json"
        )
    text = json.dumps(json.loads(to_json(document)), indent=2) + "\n" if path.suffix == ".json" else markdown
    with replacing(path) as file:
        file.write(text.encode())
