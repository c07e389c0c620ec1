"""The paper's Tables 1, 2, 7, 8 and 9 from finished runs, beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dcsurgery.zoo.results import paper
from dcsurgery.zoo.results.claims import CLAIMS, Verdict, judge
from dcsurgery.zoo.results.groups import Cell, Setting

__all__ = ["Row", "Table", "build_table"]


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

    def to_markdown(self) -> str:
        """Return the table and the verdicts as Markdown; every line says data, budget and seeds."""
        head = (
            "model",
            "variant",
            "energy MAE",
            "paper",
            "force MAE",
            "paper",
            "EFwT",
            "C",
            "seeds",
            "data and budget",
        )
        lines = [f"## Table {self.number}: {self.title}", "", _line(head), _line(["---"] * len(head))]
        lines += [_line(columns(row)) for row in self.rows]
        if self.verdicts:
            head = ("claim", "model", "verdict", "figures", "where")
            lines += ["", _line(head), _line(["---"] * len(head))]
            lines += [_line(verdict_columns(verdict)) for verdict in self.verdicts]
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
    rows += [
        Row(model, variant, None, None, None) for model in missing for variant in (wanted["before"], wanted["after"])
    ]
    verdicts = judge(number, mine) if any(claim.table == number for claim in CLAIMS) else []
    return Table(number, wanted["title"], tuple(rows), tuple(verdicts))


def columns(row: Row) -> tuple[str, ...]:
    """Return a row's cells as text: model, variant, energy, paper's, force, paper's, EFwT, C, seeds, where."""
    paper_energy, paper_force = ("", "") if row.paper is None else (_paper(row.paper[0]), _paper(row.paper[1]))
    if row.cell is None:
        where = "" if row.setting is None else str(row.setting)
        return (row.model, row.variant, "not run", paper_energy, "not run", paper_force, "", "", "", where)
    cell = row.cell
    seeds = ", ".join(map(str, cell.seeds)) + (
        f" (diverged: {', '.join(map(str, cell.diverged))})" if cell.diverged else ""
    )
    efwt = "NaN" if cell.diverged else f"{100 * cell.efwt.mean:.2g} %"
    energy, force = str(cell.energy), str(cell.force)
    return (
        row.model, row.variant, energy, paper_energy, force, paper_force, efwt, f"{cell.C:g}", seeds, str(cell.setting)
    )  # fmt: skip


def verdict_columns(verdict: Verdict) -> tuple[str, ...]:
    """Return a verdict's cells as text: claim, model, outcome, figures, where."""
    if verdict.setting is None or verdict.outcome == "not run":
        return (verdict.claim.text, verdict.model, verdict.outcome, verdict.reason, "")
    less = "; less than the paper trained" if verdict.setting.reduced else ""
    return (verdict.claim.text, verdict.model, verdict.outcome, verdict.reason, f"{verdict.setting}{less}")


def _belongs(number: int, setting: Setting) -> bool:
    catalysts = paper.where_in_table(2, str(setting.data.get("name"))) is not None
    return catalysts == (number == 2)


def _paper(value: float | None) -> str:
    return "NaN" if value is None else f"{value:g}"


def _line(parts: Sequence[str]) -> str:
    return "| " + " | ".join(part.replace("|", "\\|") for part in parts) + " |"
