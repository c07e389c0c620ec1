"""The paper's Tables 1, 2, 7, 8 and 9 from finished runs, beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dcsurgery.zoo.results import paper
from dcsurgery.zoo.results.claims import CLAIMS, Verdict, judge
from dcsurgery.zoo.results.groups import Cell, Setting, figure, power

__all__ = ["COLUMNS", "VERDICT_COLUMNS", "Row", "Table", "build_table", "columns", "verdict_columns"]

COLUMNS = ("model", "variant", "E MAE", "paper", "F MAE", "paper", "EFwT", "C", "seeds", "run")
VERDICT_COLUMNS = ("claim", "model", "verdict", "figures", "run")


@dataclass(frozen=True)
class Row:
    """One variant of one model in one setting.

    Attributes
    ----------
    model, variant
        Which.
    setting, cell
        Where it was run, and the result; None where it was not run.
    paper
        The paper's [energy MAE, force MAE], None for NaN; None where the paper has no such cell.
    """

    model: str
    variant: str
    setting: Setting | None
    cell: Cell | None
    paper: list[float | None] | None


@dataclass(frozen=True)
class Table:
    """A table with its verdicts.

    Attributes
    ----------
    number, title
        The paper's number; what is compared.
    rows
        The paper's models first, in its order.
    verdicts
        Of the paper's claims on this table.
    """

    number: int
    title: str
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain JSON types."""
        rows = [
            {
                "model": row.model,
                "variant": row.variant,
                "result": None if row.cell is None else row.cell.to_dict(),
                "paper": None if row.paper is None else {"energy_mae": row.paper[0], "force_mae": row.paper[1]},
            }
            for row in self.rows
        ]
        return {
            "table": self.number,
            "title": self.title,
            "rows": rows,
            "claims": [verdict.to_dict() for verdict in self.verdicts],
        }

    def notes(self) -> dict[str, tuple[str, Setting]]:
        """Return a letter for every data set and budget in the table, by the settings' ``note``."""
        settings = {row.setting.note: row.setting for row in self.rows if row.setting is not None}
        return {key: (_letter(index), setting) for index, (key, setting) in enumerate(settings.items())}

    def to_markdown(self) -> str:
        """Return the table and the verdicts as Markdown, with data and budget of every line below."""
        notes = self.notes()
        lines = [f"## Table {self.number}: {self.title}", "", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
        lines += [_line(columns(row, notes)) for row in self.rows]
        lines += ["", *(f"- [{letter}] {setting}" for letter, setting in notes.values())]
        if self.verdicts:
            lines += ["", _line(VERDICT_COLUMNS), _line(["---"] * len(VERDICT_COLUMNS))]
            lines += [_line(verdict_columns(verdict, notes)) for verdict in self.verdicts]
        return "\n".join(lines) + "\n"


def build_table(number: int, cells: Sequence[Cell]) -> Table:
    """Collect the runs that belong to a table.

    Parameters
    ----------
    number
        1, 2, 7, 8 or 9.
    cells
        Finished runs; those of other data (Table 2 has Open Catalyst's, the others molecules) are left out.

    Raises
    ------
    BadInput
        If there is no such table.
    """
    wanted = paper.table(number)
    mine = [cell for cell in cells if _belongs(number, cell.setting)]
    known = list(wanted["cells"])
    settings = {cell.setting.key: cell.setting for cell in mine}
    order = sorted(
        settings.values(), key=lambda s: (known.index(s.model) if s.model in known else len(known), s.model, str(s))
    )
    missing = [model for model in known if model not in {setting.model for setting in order}]
    rows = []
    for setting in order:
        for variant in (wanted["before"], wanted["after"]):
            cell = next((c for c in mine if c.setting.key == setting.key and c.variant == variant), None)
            column = paper.where_in_table(number, str(setting.data.get("name")))
            rows.append(
                Row(setting.model, variant, setting, cell, paper.value_of(number, setting.model, variant, column))
            )
    rows += [Row(model, "", None, None, None) for model in missing]
    verdicts = judge(number, mine) if any(claim.table == number for claim in CLAIMS) else []
    return Table(number, wanted["title"], tuple(rows), tuple(verdicts))


def columns(row: Row, notes: Mapping[str, tuple[str, Setting]]) -> tuple[str, ...]:
    """Return a row as text, under the heads `COLUMNS`; ``notes`` are the table's."""
    theirs = ("", "") if row.paper is None else tuple("NaN" if value is None else figure(value) for value in row.paper)
    where = "" if row.setting is None else notes[row.setting.note][0]
    cell = row.cell
    if cell is None:
        return (row.model, row.variant, "not run", theirs[0], "not run", theirs[1], "", "", "", where)
    seeds = ",".join(map(str, cell.seeds))
    if cell.diverged:
        seeds += f" (diverged: {','.join(map(str, cell.diverged))})"
    efwt = "NaN" if cell.diverged else f"{100 * cell.efwt.mean:.2g} %"
    errors = (str(cell.energy), theirs[0], str(cell.force), theirs[1])
    return (row.model, row.variant, *errors, efwt, power(cell.C), seeds, where)


def verdict_columns(verdict: Verdict, notes: Mapping[str, tuple[str, Setting]]) -> tuple[str, ...]:
    """Return a verdict as text, under the heads `VERDICT_COLUMNS`."""
    where = ""
    if verdict.setting is not None and verdict.setting.note in notes:
        where = notes[verdict.setting.note][0] + (", less than the paper" if verdict.setting.reduced else "")
    return (verdict.claim.text, verdict.model, verdict.outcome, verdict.reason, where)


def _letter(index: int) -> str:
    """Return a, b, ..., z, aa, ab, ..."""
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(ord("a") + index % 26)


def _belongs(number: int, setting: Setting) -> bool:
    catalysts = paper.where_in_table(2, str(setting.data.get("name"))) is not None
    return catalysts == (number == 2)


def _line(parts: Sequence[str]) -> str:
    return "| " + " | ".join(part.replace("|", "\\|") for part in parts) + " |"
