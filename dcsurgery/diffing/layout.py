"""Lay a display out with graphviz: where boxes and frames stand, and which way arrows go."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import Any, Literal

import graphviz

from dcsurgery.diffing.display import Display
from dcsurgery.diffing.network import ROOT
from dcsurgery.errors import BadInput, SurgeryError

__all__ = ["FONT_SIZE", "Layout", "Rankdir", "Rectangle", "has_dot", "lay_out", "require_dot"]

Rankdir = Literal["TB", "LR"]
FONT_SIZE = 11.0
_POINTS = 72.0
_CHARACTER = 6.4  # points, of an 11-point sans-serif font
_LINE = 15.0
_EFFORTS = (
    (400, {"nslimit": "2", "nslimit1": "2", "mclimit": "0.5"}),
    (2000, {"nslimit": "0.1", "nslimit1": "0.1", "mclimit": "0.1"}),
)
_INSTALL = "install graphviz (apt install graphviz, brew install graphviz); HTML and text need no graphviz"


@dataclass(frozen=True)
class Rectangle:
    """A rectangle in points, y downwards from the top."""

    x: float
    y: float
    width: float
    height: float


@dataclass
class Layout:
    """Rectangles of boxes and frames by id, and cubic Bézier points of arrows, tip last."""

    width: float = 0.0
    height: float = 0.0
    boxes: dict[str, Rectangle] = field(default_factory=dict)
    frames: dict[str, Rectangle] = field(default_factory=dict)
    arrows: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=dict)


def has_dot() -> bool:
    """Say whether graphviz is installed."""
    return shutil.which("dot") is not None


def require_dot() -> str:
    """Return the path of the ``dot`` program.

    Raises
    ------
    BadInput
        If it is not installed; the message says how to get it.
    """
    found = shutil.which("dot")
    if found is None:
        raise BadInput("SVG needs the program 'dot', which is not installed", fix=_INSTALL)
    return found


def lay_out(shown: Display, rankdir: Rankdir = "TB") -> Layout:
    """Lay out boxes, frames and arrows.

    Raises
    ------
    BadInput
        If graphviz is not installed.
    SurgeryError
        If it fails.
    """
    dot = require_dot()
    names = {id_: f"n{number}" for number, id_ in enumerate(shown.boxes)}
    frames = {id_: f"cluster_{number}" for number, id_ in enumerate(shown.frames)}
    done = subprocess.run(  # noqa: S603 - dot, with a graph of our own
        [dot, "-Tjson0"], input=_source(shown, rankdir, names, frames), capture_output=True, text=True, check=False
    )
    if done.returncode:
        line = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise SurgeryError(f"graphviz could not lay the picture out: {line}", fix="try --depth 1")
    return _read(json.loads(done.stdout), names, frames)


def _source(shown: Display, rankdir: str, names: dict[str, str], frames: dict[str, str]) -> str:
    graph = graphviz.Digraph(graph_attr={"rankdir": rankdir, "nodesep": "0.18", "ranksep": "0.3", "compound": "true"})
    for boxes, effort in _EFFORTS:  # dot's passes over what it has placed: beyond a size they take minutes
        if len(shown.boxes) > boxes:
            graph.graph_attr.update({**effort, "splines": "line"})
    inner: dict[str | None, list[str]] = {}
    for frame in shown.frames.values():
        inner.setdefault(frame.frame, []).append(frame.id)
    held: dict[str, list[str]] = {}
    for box in shown.boxes.values():
        held.setdefault(box.frame, []).append(box.id)

    def fill(body: graphviz.Digraph, id_: str) -> None:
        for box in held.get(id_, ()):
            width, height = _size(shown.boxes[box].labels)
            body.node(names[box], label="", shape="box", fixedsize="true", width=width, height=height)
        for child in inner.get(id_, ()):
            label = max((text or "" for text in shown.frames[child].labels), key=len)
            with body.subgraph(name=frames[child]) as cluster:
                cluster.attr(label=label, fontsize=str(FONT_SIZE), fontname="Helvetica", labeljust="l", margin="10")
                fill(cluster, child)

    fill(graph, ROOT)
    for source, target in shown.arrows:
        graph.edge(names[source], names[target])
    return str(graph.source)


def _size(labels: tuple[str | None, str | None]) -> tuple[str, str]:
    lines = [text.splitlines() for text in labels if text is not None]
    longest = max((len(line) for text in lines for line in text), default=1)
    tall = max((len(text) for text in lines), default=1)
    # Two characters more for the sign of a change.
    width, height = (longest + 2) * _CHARACTER + 14, tall * _LINE + 8
    return f"{width / _POINTS:.3f}", f"{height / _POINTS:.3f}"


def _read(raw: dict[str, Any], names: dict[str, str], frames: dict[str, str]) -> Layout:
    _, _, width, height = map(float, raw["bb"].split(","))
    layout = Layout(width, height)
    ids = {name: id_ for id_, name in (names | frames).items()}
    numbered: dict[int, str] = {}
    for entry in raw.get("objects", ()):
        id_ = ids.get(entry["name"])
        if id_ is None:
            continue
        if entry["name"].startswith("cluster_"):
            left, bottom, right, top = map(float, entry["bb"].split(","))
            layout.frames[id_] = Rectangle(left, height - top, right - left, top - bottom)
        else:
            numbered[entry["_gvid"]] = id_
            x, y = map(float, entry["pos"].split(","))
            w, h = float(entry["width"]) * _POINTS, float(entry["height"]) * _POINTS
            layout.boxes[id_] = Rectangle(x - w / 2, height - y - h / 2, w, h)
    for edge in raw.get("edges", ()):
        layout.arrows[numbered[edge["tail"]], numbered[edge["head"]]] = _points(edge["pos"], height)
    return layout


def _points(text: str, height: float) -> list[tuple[float, float]]:
    """Read ``e,x,y x,y …``: the tip comes first, then the curve."""
    tip, points = None, []
    for part in text.split(" "):
        numbers = part.split(",")
        x, y = float(numbers[-2]), height - float(numbers[-1])
        if numbers[0] == "e":
            tip = (x, y)
        elif numbers[0] != "s":
            points.append((x, y))
    return [*points, tip] if tip is not None else points
