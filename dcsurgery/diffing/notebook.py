"""Small HTML tables for notebooks: no script, no style sheet, colours that work on light and dark pages."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dcsurgery.diffing.diff import Diff

__all__ = ["diff_table"]

_MANY = 200  # rows; the rest is said to be there


def diff_table(diff: Diff) -> str:
    """Return a diff's changes as a table, the summary as its caption."""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", "place", "before", "after", "where"))
    rows = [
        (f"{change.sign} {change.state}", change.name, change.before, change.after, change.where)
        for change in diff.changes[:_MANY]
    ]
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    more = len(diff.changes) - len(rows)
    notes = [*diff.notes, *([f"{more} more changes: print(diff) shows them all"] if more > 0 else [])]
    told = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    table = f"<table><caption>{html.escape(diff.summary)}</caption><thead><tr>{head}</tr></thead>"
    return f"{table}<tbody>{body}</tbody></table>{told}"
