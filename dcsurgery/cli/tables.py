"""Sites, edits and checks as tables that fit 80 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from dcsurgery.census import Census
from dcsurgery.plans import Edit, Plan
from dcsurgery.report import Report
from dcsurgery.sites import Site

__all__ = ["census_tables", "checks_tables", "edits_table"]

_WIDE = 120  # columns from which on file names are shown with their folders
_ROLES = (
    ("activation", "Activations"),
    ("normalization", "Normalizations"),
    ("gate", "Gates (edited with --gates only)"),
    ("basis", "Bases (not edited)"),
)
_SHOWN = 2
_MANY_EDITS, _FIRST_EDITS = 200, 50  # more than the first are not listed; how many are shown then
_FOLDED = 14  # columns from which on everything but names and places is folded
_SIGNS = {"delete": "-", "rescale": "+"}
_STYLES = {"pass": "green", "fail": "bold red", "skip": "yellow"}


def census_tables(census: Census, width: int, *, captures: bool = False) -> Iterator[RenderableType]:
    """Yield one table for each role, and a summary.

    Parameters
    ----------
    census
        What was found.
    width
        Columns of the screen; the tables need about 80.
    captures
        Add a table that says how each module was captured.
    """
    for role, title in _ROLES:
        sites = [site for site in census.sites if site.role == role]
        if sites:
            yield _sites_table(f"{title}: {len(sites)}", sites, wide=width >= _WIDE, ran=census.inputs_given)
            yield from _notes(sites)
    if captures and census.captures:
        yield _captures_table(census)
    yield _summary(census)


def _sites_table(title: str, sites: Sequence[Site], *, wide: bool, ran: bool) -> Table:
    columns = {
        "operator": [_operator(site) for site in sites],
        "written": [site.how for site in sites],
        "output\nblock": [f"by {site.block_rule}" if site.in_output_block else "" for site in sites],
    }
    if wide:
        columns["where"] = [site.where for site in sites]
    if ran:
        columns["runs"] = [str(site.runs) for site in sites]
    names = [_name(site, place=not wide) for site in sites]
    table = _table(title)
    # Names are what selectors are made of: where room is short, everything else is folded before they are.
    table.add_column("site" if wide else "site\n  where", overflow="fold")
    for header, cells in columns.items():
        widest = max(len(line) for cell in (header, *cells) for line in cell.split("\n"))
        limit = widest if header == "where" else min(widest, _FOLDED)
        table.add_column(header, overflow="fold", max_width=limit, justify="right" if header == "runs" else "left")
    for row in zip(names, *columns.values(), strict=True):
        table.add_row(*map(_cell, row))
    return table


def _name(site: Site, *, place: bool) -> str:
    """Return the name, its aliases, and where there is no column for it the place."""
    lines = [site.name]
    others = [name for name in (*site.aliases, *site.shared_with) if name != site.name]
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        lines.append(f"  also {', '.join(others[:_SHOWN])}{more}")
    if place and site.file:
        lines.append(f"  {PurePath(site.file).name}:{site.line}")
    return "\n".join(lines)


def _operator(site: Site) -> str:
    return site.operator if site.match == "listed" else f"{site.operator}\n({site.match})"


def _notes(sites: Sequence[Site]) -> Iterator[Text]:
    """Yield each reason once, with the sites that it is about."""
    about: dict[str, list[str]] = {}
    for site in sites:
        note = site.reason if site.editable else f"not editable: {site.reason}"
        if note:
            about.setdefault(note, []).append(site.name)
    for note, names in about.items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        whom = "" if len(names) == len(sites) else f"{', '.join(names[:_SHOWN])}{more}: "
        yield Text(f"{whom}{note}\n")


def _captures_table(census: Census) -> Table:
    table = _table("Captured graphs", "module", "class", "how", "proven", "why not symbolic")
    for capture in census.captures:
        proven = "yes" if capture.proven else "no"
        cells = (capture.path or "(model)", capture.class_name, capture.method, proven, capture.reason)
        table.add_row(*map(_cell, cells))
    return table


def _summary(census: Census) -> str:
    counts = Counter[str](site.role for site in census.sites)
    found = [f"{counts[role]} {role}{'s' * (counts[role] != 1)}" for role, _ in _ROLES if counts[role]]
    methods = Counter(capture.method for capture in census.captures)
    graphs = ", ".join(f"{count} {method}" for method, count in methods.items())
    return f"{census.model}: {', '.join(found) or 'no sites'}; modules captured: {graphs or 'none'}"


def edits_table(plan: Plan) -> RenderableType:
    """Return a plan's edits as a table, the first ones if they are very many; as a sentence if there are none."""
    if not plan.edits:
        return f"{plan.model or 'the model'}: no edits, so the result is a copy"
    table = _table(f"{plan.model}: {len(plan.edits)} edit{'s' * (len(plan.edits) != 1)}", "", "site", "now", "then")
    shown = len(plan.edits) if len(plan.edits) <= _MANY_EDITS else _FIRST_EDITS
    for edit in plan.edits[:shown]:
        table.add_row(*map(_cell, (_SIGNS.get(edit.action, "~"), edit.site or "(model)", edit.operator, _then(edit))))
    if shown < len(plan.edits):
        kinds = Counter(f"{edit.operator}: {_then(edit)}" for edit in plan.edits[shown:])
        rest = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_SHOWN))
        more = ", …" if len(kinds) > _SHOWN else ""
        table.caption = Text(f"and {len(plan.edits) - shown} more ({rest}{more}); --json lists them all")
        table.caption_justify = "left"
    return table


def _then(edit: Edit) -> str:
    match edit.action:
        case "replace":
            return edit.replacement or ""
        case "delete":
            return "deleted"
        case "rescale":
            return f"labels times C = {edit.settings.get('C')}"
        case action:
            return " ".join([action, *(f"{key}={value}" for key, value in edit.settings.items())])


def checks_tables(report: Report) -> Iterator[RenderableType]:
    """Yield the checks as a table; nothing if none were made."""
    if not report.checks:
        return
    table = _table("Checks", "result", "check")
    table.add_column("figure", justify="right", no_wrap=True)
    table.add_column("limit", justify="right", no_wrap=True)
    table.add_column("what it says", overflow="fold")
    for check in report.checks:
        status = Text(check.status, style=_STYLES[check.status])
        table.add_row(
            status, _cell(check.name), _cell(_figure(check.figure)), _cell(_figure(check.limit)), _cell(check.reason)
        )
    yield table


def _figure(number: float | None) -> str:
    return "" if number is None else f"{number:.3g}"


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _cell(text: str) -> Text:
    return Text(text)  # never as markup: names contain brackets
