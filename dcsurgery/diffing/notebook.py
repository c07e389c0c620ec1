"""What notebooks show: HTML that needs no script and no style sheet, with colours for light and dark pages.

Pictures are put in as images: their styles stay their own. One that is too large for a page is left out, and what
draws it is said.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from dcsurgery.diffing.layout import has_dot
from dcsurgery.errors import SurgeryError

if TYPE_CHECKING:
    from dcsurgery.census import Census
    from dcsurgery.diffing.diff import Diff
    from dcsurgery.plans import Plan
    from dcsurgery.surgery import Surgery

__all__ = ["census_html", "diff_html", "plan_html", "surgery_html"]

_MANY = 200  # rows; the rest is said to be there
_LARGE = 400_000  # characters of a picture


def census_html(census: Census) -> str:
    """Return the sites of a model as a table, below the model's picture where graphviz is installed."""
    rows = [
        (s.name, s.role, s.operator, s.how, _block(s.in_output_block), _times(s.runs), s.where, s.reason)
        for s in census
    ]
    title = str(census).splitlines()[0]
    head = ("site", "role", "operator", "written as", "output block", "ran", "where", "note")
    picture = _picture(census._repr_svg_, title, "census.to_svg()")
    return picture + _folded(_table(title, head, rows, "print(census)"), picture, f"{len(rows)} sites")


def plan_html(plan: Plan) -> str:
    """Return the edits of a plan as a table, its notes below."""
    rows = [
        (str(edit)[:1], edit.site or "the model", edit.action, edit.operator, _becomes(edit.replacement))
        for edit in plan
    ]
    title = str(plan).splitlines()[0]
    return _table(title, ("", "site", "edit", "operator", "becomes"), rows, "print(plan)") + _paragraphs(plan.notes)


def surgery_html(surgery: Surgery) -> str:
    """Return what was done to a model as a table, and every check with its figure as another."""
    report = surgery.report
    done = [(str(d.edit)[:1], d.edit.site or "the model", str(d.edit).partition(": ")[2], d.how) for d in surgery.log]
    title = f"{surgery.plan.model}: {len(done)} edit{'s' * (len(done) != 1)} made"
    checks = [(c.status, c.name, _figure(c.figure), _figure(c.limit), c.reason) for c in report]
    verdict = (
        "no checks" if not checks else "all checks passed" if report.ok else f"{len(report.failures)} checks failed"
    )
    edits = _table(title, ("", "site", "edit", "how"), done, "print(surgery)")
    table = _table(verdict, ("result", "check", "figure", "limit", "what it says"), checks, "print(surgery.report)")
    return edits + table + _paragraphs(report.warnings)


def diff_html(diff: Diff) -> str:
    """Return a diff's picture where graphviz is installed, and its changes as a table, the summary as its caption."""
    rows = [(f"{c.sign} {c.state}", c.name, c.before, c.after, c.where) for c in diff.changes]
    head = ("", "place", "before", "after", "where")
    table = _table(diff.summary, head, rows, "print(diff)") + _paragraphs(diff.notes)
    picture = _picture(diff._repr_svg_, diff.summary, "diff.to_svg(only_changes=True)")
    return picture + _folded(table, picture, f"{len(rows)} changes")


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], rest: str) -> str:
    names = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[:_MANY])
    table = (
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"
    )
    more = len(rows) - _MANY
    return table + (_paragraphs([f"{more} more: {rest} shows them all"]) if more > 0 else "")


def _paragraphs(lines: Iterable[str]) -> str:
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def _picture(draw: Callable[[], str | None], title: str, how: str) -> str:
    """Return a picture as an image; empty where there is none, a line where it is too large or cannot be drawn."""
    if not has_dot():
        return ""
    try:
        svg = draw()
    except SurgeryError as error:
        return _paragraphs([f"no picture: {error}"])
    if svg is None:
        return ""
    if len(svg) > _LARGE:
        return _paragraphs([f"the picture has {len(svg) / 1e6:.1f} MB: {how} returns it"])
    data = base64.b64encode(svg.encode()).decode()
    style = "max-width:100%;max-height:60em"
    return f'<img alt="{html.escape(title)}" style="{style}" src="data:image/svg+xml;base64,{data}"/>'


def _folded(table: str, picture: str, summary: str) -> str:
    """Return a table, folded where a picture says the same."""
    if not picture.startswith("<img"):
        return table
    return f"<details><summary>{html.escape(summary)}</summary>{table}</details>"


def _block(inside: bool) -> str:
    return "yes" if inside else ""


def _times(runs: int | None) -> str:
    return "" if runs is None else f"{runs}x"


def _becomes(replacement: str | None) -> str:
    return replacement or ""


def _figure(number: float | None) -> str:
    return "" if number is None else f"{number:.3g}"
