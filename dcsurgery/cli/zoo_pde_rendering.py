"""Tables 3 to 5 on a terminal and as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from dcsurgery.zoo.pde.tables import Row
    from dcsurgery.zoo.runs import RunRecord

__all__ = ["as_markdown", "as_table"]


def _header(number: int) -> list[str]:
    from dcsurgery.zoo.pde import tables

    names = {"nrmse": "nRMSE", "rmse": "RMSE"}
    return [names.get(column, f"L_{column}") for column in tables.columns(number)]


def _cells(number: int, row: Row) -> Iterator[tuple[str, str, str]]:
    """Yield heading, the paper's number and ours."""
    from dcsurgery.zoo.pde import tables

    for i, (heading, column) in enumerate(zip(_header(number), tables.columns(number), strict=True)):
        paper = f"{row.paper[i]:.3g}" if i < len(row.paper) else "-"
        yield heading, paper, str(row.cells[column])


def _runs_of(row: Row) -> str:
    marks = [f"{row.diverged} diverged"] * bool(row.diverged) + [f"{row.constant} constant"] * bool(row.constant)
    return f"{len(row.seeds)}" + (f" ({', '.join(marks)})" if marks else "")


def as_table(number: int, rows: list[Row]) -> Table:
    """Return a table, the paper's row of each variant above ours."""
    table = Table("variant", "seeds", "", *_header(number), title=f"Table {number}")
    for row in rows:
        cells = list(_cells(number, row))
        if row.paper:
            table.add_row(row.variant.label, "", "paper", *(paper for _, paper, _ in cells))
        table.add_row("" if row.paper else row.variant.label, _runs_of(row), "here", *(ours for _, _, ours in cells))
    return table


def as_markdown(number: int, rows: list[Row], record: RunRecord) -> str:
    """Return the same as a page, with the settings of the runs (``record`` is one of them) and the notes."""
    from dcsurgery.zoo.pde import tables

    header = ["variant", "seeds", "", *_header(number)]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        cells = list(_cells(number, row))
        if row.paper:
            lines.append("| " + " | ".join([row.variant.label, "", "paper", *(paper for _, paper, _ in cells)]) + " |")
        label = "" if row.paper else row.variant.label
        lines.append("| " + " | ".join([label, _runs_of(row), "here", *(ours for _, _, ours in cells)]) + " |")
    settings = ", ".join(f"{key} {value}" for key, value in record.settings.items() if value)
    facts = f"Mean ± standard deviation over seeds. Settings: {settings}. Data: {record.data.get('name')}."
    device = f"{record.device}; " + ", ".join(f"{key} {value}" for key, value in record.versions.items())
    notes = "\n".join(f"* {note}" for note in tables.notes(number))
    return f"# Table {number}\n\n`{record.command}`\n\n{facts}\n{device}.\n\n" + "\n".join(lines) + f"\n\n{notes}\n"
