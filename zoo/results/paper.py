"""The paper's numbers: Tables 1, 2, 6, 7, 8 and 9 of Lo & Huang, arXiv:2310.01649, from ``paper.json``."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from dcsurgery.errors import BadInput

__all__ = ["TABLES", "figure", "molecules", "table", "value_of", "where_in_table"]

#: Tables that compare two variants of OCP models.
TABLES = (1, 2, 7, 8, 9)

_OTHER_NAMES = {"salicylic": "salicylic acid"}


@cache
def _document() -> dict[str, Any]:
    return json.loads((files("dcsurgery.zoo") / "results" / "paper.json").read_text(encoding="utf-8"))


def table(number: int) -> dict[str, Any]:
    """Return a table: ``title``, ``units``, the variants ``before`` and ``after``, ``settings``, ``cells``."""
    if number not in TABLES:
        raise BadInput(f"no table {number} of trained models", fix=f"there are {', '.join(map(str, TABLES))}")
    return _document()["tables"][str(number)]


def figure(number: int) -> dict[str, Any]:
    """Return a figure's ``title`` and the values on its axis."""
    found = _document()["figures"].get(str(number))
    if found is None:
        raise BadInput(f"no figure {number}", fix="there are 1 and 2")
    return found


def molecules() -> list[dict[str, Any]]:
    """Return Table 6: ``name``, ``formula``, ``atoms``, ``conformations`` of each molecule."""
    return _document()["molecules"]


def where_in_table(number: int, data_name: str) -> str | None:
    """Return the column of a table that a data set belongs to by its name; None if there is none."""
    if number == 2:
        return "oc22" if data_name.lower().startswith(("oc22", "oc20")) else None
    name = data_name.lower()
    known = [molecule["name"] for molecule in molecules()]
    return next((column for column in (*known, *_OTHER_NAMES) if column in name), None)


def value_of(number: int, model: str, variant: str, column: str | None) -> list[float | None] | None:
    """Return the paper's [energy MAE, force MAE] of a cell, with None for NaN; None where it has no such cell."""
    if column is None:
        return None
    return table(number)["cells"].get(model, {}).get(variant, {}).get(_OTHER_NAMES.get(column, column))
