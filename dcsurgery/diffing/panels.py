"""What pictures are put together from: panels with frames, boxes and arrows, and what a pointer or a reader is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dcsurgery.diffing.display import Box, Display, Frame
from dcsurgery.diffing.layout import Layout, Rankdir, Rectangle
from dcsurgery.diffing.marks import PLAIN, Mark
from dcsurgery.diffing.network import Node
from dcsurgery.diffing.templates import render
from dcsurgery.diffing.union import Union
from dcsurgery.errors import BadInput

__all__ = ["Panel", "Picture", "check_options", "cut", "fill_panel", "tooltip"]

_GAP, _MARGIN, _HEAD = 60.0, 16.0, 74.0
_WIDE = 7.8  # points, of a bold character of the heading
_NARROW = 6.4  # likewise, of the legend


@dataclass
class Panel:
    """One model, ready to be written: rectangles are relative to the panel."""

    title: str
    x: float = 0.0
    y: float = 0.0
    frames: list[dict[str, Any]] = field(default_factory=list)
    boxes: list[dict[str, Any]] = field(default_factory=list)
    arrows: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Picture:
    """Panels with a heading and a legend.

    Attributes
    ----------
    title, description
        The heading, and what a screen reader is told besides.
    marks
        All that can occur.
    legend
        Those that do.
    panels
        The panels, of the same layout.
    notes
        What else there is to say; the first one is shown.
    """

    title: str
    description: str
    marks: tuple[Mark, ...]
    legend: tuple[Mark, ...]
    panels: tuple[Panel, ...]
    notes: tuple[str, ...] = ()

    def to_svg(self, layout: Layout, rankdir: Rankdir) -> str:
        """Return the picture: what is laid out from top to bottom stands side by side, otherwise below each other."""
        count, beside = len(self.panels), rankdir == "TB"
        gaps = (count - 1) * _GAP
        width = (layout.width * count + gaps if beside else layout.width) + 2 * _MARGIN
        height = (layout.height if beside else layout.height * count + gaps) + _HEAD + _MARGIN
        for number, panel in enumerate(self.panels):
            shift = number * ((layout.width if beside else layout.height) + _GAP)
            panel.x, panel.y = (_MARGIN + shift, _HEAD) if beside else (_MARGIN, _HEAD + shift)
        legend, x = [], _MARGIN
        for mark in self.legend:
            text = f"{mark.sign} {mark.name.replace('-', ' ')}".strip()
            wide = len(text) * _NARROW + 20
            legend.append({"name": mark.name, "text": text, "x": x, "width": wide})
            x += wide + 8
        texts = [len(self.title) * _WIDE, *(len(panel.title) * _WIDE for panel in self.panels), x]
        texts += [x + len(note) * _NARROW for note in self.notes[:1]]
        return render(
            "picture.svg.j2",
            width=max(width, *(text + 2 * _MARGIN for text in texts)),
            height=height,
            picture=self,
            legend=legend,
            notes_x=x + 8,
        )


def check_options(rankdir: str, depth: int | None) -> None:
    """Raise BadInput if a picture cannot be drawn in this way."""
    if rankdir not in ("TB", "LR"):
        raise BadInput(f"no direction {rankdir!r}", where="rankdir", fix="use TB (top to bottom) or LR (left to right)")
    if depth is not None and depth < 0:
        raise BadInput(f"depth must not be negative, got {depth}", where="depth", fix="use 1 for the outermost modules")


def cut(shown: Display, most: int) -> Display:
    """Return the first boxes of a display."""
    kept = dict(list(shown.boxes.items())[:most])
    frames = set()
    for box in kept.values():
        frame: str | None = box.frame
        while frame is not None:
            frames.add(frame)
            frame = shown.frames[frame].frame
    arrows = {ends: sides for ends, sides in shown.arrows.items() if ends[0] in kept and ends[1] in kept}
    return replace(shown, frames={i: f for i, f in shown.frames.items() if i in frames}, boxes=kept, arrows=arrows)


def fill_panel(title: str, side: int, union: Union, shown: Display, layout: Layout, marks: Mapping[str, Mark]) -> Panel:
    """Return one side of a display as a panel."""
    panel = Panel(title)
    for frame in shown.frames.values():
        if frame.id in layout.frames and frame.labels[side] is not None:
            panel.frames.append(_entry(frame, side, union, layout.frames[frame.id], marks))
    for box in shown.boxes.values():
        if box.labels[side] is not None:
            panel.boxes.append(_entry(box, side, union, layout.boxes[box.id], marks))
    for ends, sides in shown.arrows.items():
        if side in sides and all(shown.boxes[end].labels[side] is not None for end in ends):
            points = layout.arrows.get(ends)
            if points:
                state = "same" if len(sides) == 2 else ("deleted", "inserted")[side]
                panel.arrows.append({"path": _path(points), "state": state})
    return panel


def _entry(item: Box | Frame, side: int, union: Union, place: Rectangle, marks: Mapping[str, Mark]) -> dict[str, Any]:
    both = union.nodes[item.id]
    node = (both.before, both.after)[side] or both.any
    label = item.labels[side] or ""
    sign = marks.get(item.state, PLAIN).sign
    gathered = isinstance(item, Box) and len(item.members) > 1
    title = label.replace("\n", ", ") if gathered else tooltip(node)
    if both.change is not None:
        title = f"{both.change.state}: {both.change}\n{title}"
    lines = label.splitlines()
    if sign and lines:
        lines[0] = f"{sign} {lines[0]}"
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
