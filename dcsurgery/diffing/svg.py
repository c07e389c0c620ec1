"""A diff as SVG: before and after side by side, what is paired at the same height.

Both panels use one layout, so that nothing has to be searched for. A change shows by its sign, its outline and its
colour (Okabe and Ito's, which colour-blind readers can tell apart); any one of the three is enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dcsurgery.diffing.diff import STATES, Diff
from dcsurgery.diffing.display import Box, Display, Frame, display
from dcsurgery.diffing.layout import Layout, Rankdir, Rectangle, lay_out
from dcsurgery.diffing.network import Node
from dcsurgery.diffing.templates import render
from dcsurgery.diffing.union import Union, unite
from dcsurgery.errors import BadInput

__all__ = ["MANY_BOXES", "SIGNS", "render_svg", "tooltip"]

MANY_BOXES = 3000  # more are folded: nobody can read them, and graphviz takes minutes
SIGNS = {"replaced": "~", "deleted": "-", "inserted": "+", "moved": ">", "renamed": ">", "rewired": "≈", "same": ""}
_GAP, _MARGIN, _HEAD = 60.0, 16.0, 74.0
_WIDE = 7.8  # points, of a bold character of the heading


@dataclass
class _Panel:
    """One side, ready to be written: rectangles are relative to the panel."""

    title: str
    x: float
    y: float
    frames: list[dict[str, Any]] = field(default_factory=list)
    boxes: list[dict[str, Any]] = field(default_factory=list)
    arrows: list[dict[str, Any]] = field(default_factory=list)


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
    if rankdir not in ("TB", "LR"):
        raise BadInput(f"no direction {rankdir!r}", fix="use TB (top to bottom) or LR (left to right)")
    if depth is not None and depth < 0:
        raise BadInput(f"depth must not be negative, got {depth}", fix="use 1 for the outermost modules")
    union = unite(diff)
    shown, notes = _readable(union, depth, only_changes, full)
    layout = lay_out(shown, rankdir)
    beside = rankdir == "TB"
    width = layout.width * (2 if beside else 1) + (_GAP if beside else 0) + 2 * _MARGIN
    height = layout.height * (1 if beside else 2) + (0 if beside else _GAP) + _HEAD + _MARGIN
    panels = []
    for side, network in enumerate((diff.before, diff.after)):
        shift = side * ((layout.width if beside else layout.height) + _GAP)
        x, y = (_MARGIN + shift, _HEAD) if beside else (_MARGIN, _HEAD + shift)
        title = f"{('before', 'after')[side]}: {network.model}"
        panels.append(_panel(_Panel(title, x, y), side, union, shown, layout))
    return render(
        "diff.svg.j2",
        width=max(width, len(diff.summary) * _WIDE + 2 * _MARGIN),
        height=height,
        panels=panels,
        summary=diff.summary,
        notes=[*notes, *diff.notes],
        changes=[str(change) for change in diff.changes[:200]],
        legend=[(state, SIGNS[state]) for state in STATES if state in diff.counts],
    )


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
    shown = _cut(shown)
    told = "only changes" if chosen is None else f"only changes, to depth {chosen}"
    return shown, [f"{len(shown.boxes)} of {whole} boxes shown ({told}): --depth N, or the HTML, shows more"]


def _cut(shown: Display) -> Display:
    kept = dict(list(shown.boxes.items())[:MANY_BOXES])
    frames = set()
    for box in kept.values():
        frame: str | None = box.frame
        while frame is not None:
            frames.add(frame)
            frame = shown.frames[frame].frame
    arrows = {ends: sides for ends, sides in shown.arrows.items() if ends[0] in kept and ends[1] in kept}
    return Display({i: f for i, f in shown.frames.items() if i in frames}, kept, arrows)


def _panel(panel: _Panel, side: int, union: Union, shown: Display, layout: Layout) -> _Panel:
    for frame in shown.frames.values():
        if frame.id in layout.frames and frame.labels[side] is not None:
            panel.frames.append(_entry(frame, side, union, layout.frames[frame.id]))
    for box in shown.boxes.values():
        if box.labels[side] is not None:
            panel.boxes.append(_entry(box, side, union, layout.boxes[box.id]))
    for ends, sides in shown.arrows.items():
        if side in sides and all(shown.boxes[end].labels[side] is not None for end in ends):
            points = layout.arrows.get(ends)
            if points:
                state = "same" if len(sides) == 2 else ("deleted", "inserted")[side]
                panel.arrows.append({"path": _path(points), "state": state})
    return panel


def _entry(item: Box | Frame, side: int, union: Union, place: Rectangle) -> dict[str, Any]:
    both = union.nodes[item.id]
    node = (both.before, both.after)[side] or both.any
    label = item.labels[side] or ""
    sign = SIGNS[item.state]
    title = label.replace("\n", ", ") if isinstance(item, Box) and len(item.members) > 1 else tooltip(node)
    if both.change is not None:
        title = f"{both.change.state}: {both.change}\n{title}"
    lines = label.splitlines()
    if sign and lines:
        lines[0] = f"{sign} {lines[0]}"
    gathered = isinstance(item, Box) and len(item.members) > 1
    return {
        "place": place,
        "lines": lines,
        "state": item.state,
        "title": title,
        "kind": "more" if gathered else node.kind,
    }


def _path(points: list[tuple[float, float]]) -> str:
    start, *curve = points
    head = f"M{start[0]:.1f},{start[1]:.1f}"
    tip = curve.pop() if len(curve) % 3 == 1 else None
    body = " ".join(f"{x:.1f},{y:.1f}" for x, y in curve)
    return f"{head}C{body}" + (f"L{tip[0]:.1f},{tip[1]:.1f}" if tip is not None else "")


def tooltip(node: Node) -> str:
    """Return what there is to say about a node, a line each: path, class or operator, place, shape, tensors."""
    lines = [node.id if node.kind == "module" else f"{node.parent} · {node.name}"]
    lines.append(f"{node.label}({node.detail})" if node.detail else node.label)
    if node.site:
        block = ", in an output block" if node.in_output_block else ""
        lines.append(f"site {node.site}: {node.role}{block}")
    if node.where:
        lines.append(node.where)
    if node.shape is not None:
        lines.append(f"shape {list(node.shape)}")
    if node.tensors:
        lines.append(", ".join(f"{name}{list(shape)}" for name, shape in node.tensors[:6]))
    if node.method in ("opaque", "not run"):
        lines.append(f"body not shown: {node.reason}")
    return "\n".join(lines)
