"""A diff as SVG: before and after side by side, what is paired at the same height.

Both panels use one layout, so that nothing has to be searched for. A change shows by its sign, its outline and its
colour (see `dcsurgery.diffing.marks`).
"""

from __future__ import annotations

from dcsurgery.diffing.diff import Diff
from dcsurgery.diffing.display import Display, display
from dcsurgery.diffing.layout import Rankdir, lay_out
from dcsurgery.diffing.marks import STATES
from dcsurgery.diffing.panels import Picture, check_options, cut, fill_panel
from dcsurgery.diffing.union import Union, unite

__all__ = ["MANY_BOXES", "render_svg"]

MANY_BOXES = 3000  # more are folded: nobody can read them, and graphviz takes minutes


def render_svg(
    diff: Diff,
    *,
    depth: int | None = None,
    only_changes: bool = False,
    full: bool = False,
    rankdir: Rankdir = "TB",
) -> str:
    """Return a diff as SVG.

    Parameters
    ----------
    diff
        The diff.
    depth, only_changes, full
        What is shown, see `dcsurgery.diffing.display.display`.
    rankdir
        ``TB`` lays out from top to bottom, ``LR`` from left to right; the panels stand beside, or below each other.

    Raises
    ------
    BadInput
        If graphviz is not installed.
    """
    check_options(rankdir, depth)
    union = unite(diff)
    shown, notes = _readable(union, depth, only_changes, full)
    layout = lay_out(shown, rankdir)
    panels = tuple(
        fill_panel(f"{('before', 'after')[side]}: {network.model}", side, union, shown, layout, STATES)
        for side, network in enumerate((diff.before, diff.after))
    )
    changes = " ".join(f"{change}." for change in diff.changes[:200])
    legend = tuple(mark for state, mark in STATES.items() if state in diff.counts)
    return Picture(
        title=diff.summary,
        description=f"Graph diff, before and after. {changes}".rstrip(),
        marks=tuple(STATES.values()),
        legend=legend,
        panels=panels,
        notes=(*notes, *diff.notes),
    ).to_svg(layout, rankdir)


def _readable(union: Union, depth: int | None, only_changes: bool, full: bool) -> tuple[Display, list[str]]:
    """Choose what is shown, and less of it where that would be too much; say so."""
    shown = display(union, depth=depth, only_changes=only_changes, full=full)
    if len(shown.boxes) <= MANY_BOXES:
        return shown, []
    whole = len(shown.boxes)
    for less in (None, 4, 3, 2, 1):
        chosen = less if depth is None else min(depth, less or depth)
        shown = display(union, depth=chosen, only_changes=True)
        if len(shown.boxes) <= MANY_BOXES:
            break
    shown = cut(shown, MANY_BOXES)
    told = "only changes" if chosen is None else f"only changes, to depth {chosen}"
    return shown, [f"{len(shown.boxes)} of {whole} boxes shown ({told}): --depth N, or the HTML, shows more"]
