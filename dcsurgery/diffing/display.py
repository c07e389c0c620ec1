"""What a picture shows: changed modules opened, unchanged ones as one box, unchanged operators gathered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from dcsurgery.diffing.network import ROOT
from dcsurgery.diffing.union import Both, Union

__all__ = ["Box", "Display", "Frame", "display"]


@dataclass
class Box:
    """One box: an operator, a closed module, or several unchanged operators.

    Attributes
    ----------
    id
        Id in the union; of gathered operators that of the first.
    frame
        Id of the open module that it stands in.
    labels
        What it says, before and after; None on a side where it is not.
    state
        ``same`` or the state of its change.
    members
        Ids of everything that it stands for.
    """

    id: str
    frame: str
    labels: tuple[str | None, str | None]
    state: str
    members: tuple[str, ...]


@dataclass
class Frame:
    """One open module; fields as in `Box`."""

    id: str
    frame: str | None
    labels: tuple[str | None, str | None]
    state: str


@dataclass
class Display:
    """Boxes in frames, and arrows between boxes with the sides they are on."""

    frames: dict[str, Frame] = field(default_factory=dict)
    boxes: dict[str, Box] = field(default_factory=dict)
    arrows: dict[tuple[str, str], set[int]] = field(default_factory=dict)


def display(union: Union, *, depth: int | None = None, only_changes: bool = False, full: bool = False) -> Display:
    """Choose what is shown.

    Parameters
    ----------
    union
        Both networks.
    depth
        Modules below this depth stay closed, and say how many changes they hold; None opens every changed one.
    only_changes
        Leave out what is neither changed nor next to a change.
    full
        Open every module and show every operator.
    """
    return _Chooser(union, depth, only_changes, full).choose()


class _Chooser:
    def __init__(self, union: Union, depth: int | None, only_changes: bool, full: bool) -> None:
        self._union = union
        self._depth = depth
        self._only_changes = only_changes
        self._full = full
        self._shown = Display()
        self._inside: dict[str, str] = {}  # id to the closed module that holds it
        self._resolved: dict[tuple[int, str], tuple[str, ...]] = {}

    def choose(self) -> Display:
        self._open(ROOT, None, 0)
        self._connect()
        if not self._full:
            self._gather()
        self._drop_idle()
        return self._shown

    # -- boxes -------------------------------------------------------------------------------------------------------------

    def _open(self, id_: str, frame: str | None, depth: int) -> None:
        node = self._union.nodes[id_]
        self._shown.frames[id_] = Frame(id_, frame, _labels(node), node.state)
        for child in self._union.children.get(id_, ()):
            both = self._union.nodes[child]
            if both.kind == "module" and self._is_opened(both, depth + 1):
                self._open(child, id_, depth + 1)
            elif both.kind not in ("input", "output") or id_ == ROOT:
                self._add(both, id_)

    def _is_opened(self, node: Both, depth: int) -> bool:
        if not self._union.children.get(node.id) or node.state in ("replaced", "deleted", "inserted"):
            return False
        if self._depth is not None and depth > self._depth:
            return False
        # A list of modules is never called itself: closed, it would tie what comes first to what comes last.
        holds = node.any.method == "container"
        return self._full or self._union.changes_inside[node.id] > 0 or holds

    def _add(self, node: Both, frame: str) -> None:
        self._shown.boxes[node.id] = Box(node.id, frame, _labels(node, self._inner(node)), node.state, (node.id,))
        pending = list(self._union.children.get(node.id, ()))
        while pending:
            inner = pending.pop()
            self._inside[inner] = node.id
            pending += self._union.children.get(inner, ())

    def _inner(self, node: Both) -> str:
        changes = self._union.changes_inside[node.id]
        modules, _ = self._union.size(node.id) if node.kind == "module" else (0, 0)
        inside = f"{modules} modules" if modules > 1 else ""
        return f"{changes} {self._union.noun}{'s' * (changes != 1)}" if changes else inside

    # -- arrows ------------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        for side in (0, 1):
            for target, sources in self._union.sources[side].items():
                box = target if target in self._shown.boxes else self._inside.get(target)
                for source in sources if box is not None else ():
                    for end in self._ends(side, source):
                        if end != box:
                            self._shown.arrows.setdefault((end, str(box)), set()).add(side)

    def _ends(self, side: int, source: str, above: frozenset[str] = frozenset()) -> tuple[str, ...]:
        """Return the boxes that a tensor comes from: into an open module, or out of it, where it goes on."""
        if source in self._shown.boxes:
            return (source,)
        if source in self._inside:
            return (self._inside[source],)
        if source in above:
            return ()
        if (side, source) not in self._resolved:
            above |= {source}
            ends = (end for inner in self._through(side, source) for end in self._ends(side, inner, above))
            self._resolved[side, source] = tuple(dict.fromkeys(ends))
        return self._resolved[side, source]

    def _through(self, side: int, id_: str) -> Iterator[str]:
        node = self._union.nodes[id_]
        sources = self._union.sources[side]
        if node.kind == "module":  # open: what its output gets
            for child in self._union.children.get(id_, ()):
                if self._union.nodes[child].kind == "output":
                    yield from sources.get(child, ())
        elif node.kind == "input" and node.parent is not None:
            ports = [c for c in self._union.children[node.parent] if self._union.nodes[c].kind == "input"]
            given = sources.get(node.parent, [])
            position = ports.index(id_)
            yield from given[position : position + 1] or given[:1]

    # -- less --------------------------------------------------------------------------------------------------------------

    def _gather(self) -> None:
        """Make one box of unchanged operators that hang together and are not next to a change."""
        boxes = self._shown.boxes
        near = self._near()
        plain = {
            id_
            for id_, box in boxes.items()
            if box.state == "same"
            and self._union.nodes[id_].kind not in ("input", "output")
            and not self._union.changes_inside[id_]
            and all(boxes[other].state == "same" for other in near[id_])
        }
        above = self._above(plain)
        leader: dict[str, str] = {}
        for id_ in boxes:
            if id_ in plain and id_ not in leader:
                group = self._group(id_, plain, near, above)
                leader.update(dict.fromkeys(group, "" if self._only_changes else id_))
                if len(group) > 1 and not self._only_changes:
                    self._merge(id_, group)
        self._shown.boxes = {id_: box for id_, box in boxes.items() if leader.get(id_, id_) == id_}
        arrows: dict[tuple[str, str], set[int]] = {}
        for (source, target), sides in self._shown.arrows.items():
            ends = leader.get(source, source), leader.get(target, target)
            if ends[0] != ends[1] and all(ends):
                arrows.setdefault(ends, set()).update(sides)
        self._shown.arrows = arrows

    def _near(self) -> defaultdict[str, set[str]]:
        near: defaultdict[str, set[str]] = defaultdict(set)
        for source, target in self._shown.arrows:
            near[source].add(target)
            near[target].add(source)
        return near

    def _above(self, plain: set[str]) -> dict[str, int]:
        """Return which boxes that stay lie upstream of each box, as bits.

        Two operators with the same ones have no such box between them: gathered, they are still one step of the flow.
        """
        sources: defaultdict[str, list[str]] = defaultdict(list)
        for source, target in self._shown.arrows:
            sources[target].append(source)
        bit = {id_: 1 << number for number, id_ in enumerate(i for i in self._shown.boxes if i not in plain)}
        found: dict[str, int] = {}
        for start in self._shown.boxes:
            pending = [start]
            while pending:
                id_ = pending[-1]
                if id_ not in found:
                    found[id_] = 0  # until it is known; a circle ends here
                    pending += [source for source in sources[id_] if source not in found]
                    continue
                pending.pop()
                for source in sources[id_]:
                    found[id_] |= found.get(source, 0) | bit.get(source, 0)
        return found

    def _group(self, start: str, plain: set[str], near: dict[str, set[str]], above: dict[str, int]) -> list[str]:
        frame = self._shown.boxes[start].frame
        group, pending = [], [start]
        seen = {start}
        while pending:
            id_ = pending.pop()
            group.append(id_)
            for other in near[id_]:
                alike = self._shown.boxes[other].frame == frame and above[other] == above[start]
                if other in plain and other not in seen and alike:
                    seen.add(other)
                    pending.append(other)
        return group

    def _merge(self, id_: str, group: list[str]) -> None:
        modules = sum(self._union.nodes[member].kind == "module" for member in group)
        rest = len(group) - modules
        parts = [f"{n} {what}{'s' * (n != 1)}" for n, what in ((modules, "module"), (rest, "operator")) if n]
        box = self._shown.boxes[id_]
        box.labels = (f"… {', '.join(parts)}",) * 2
        box.members = tuple(group)

    def _drop_idle(self) -> None:
        """Leave out unchanged boxes that give nothing on (modules that never run, sizes), and frames without anything."""
        output = {i for i in self._shown.boxes if self._union.nodes[i].kind == "output"}
        used = {source for source, _ in self._shown.arrows} | output
        boxes = self._shown.boxes
        self._shown.boxes = {i: box for i, box in boxes.items() if i in used or box.state != "same"}
        if not self._shown.boxes:  # nothing is connected: a model that was not captured
            self._shown.boxes = boxes
        arrows = self._shown.arrows
        self._shown.arrows = {
            e: s for e, s in arrows.items() if e[0] in self._shown.boxes and e[1] in self._shown.boxes
        }
        holding = {frame for box in self._shown.boxes.values() for frame in self._frames_of(box.frame)} | {ROOT}
        self._shown.frames = {i: frame for i, frame in self._shown.frames.items() if i in holding}

    def _frames_of(self, id_: str | None) -> Iterator[str]:
        while id_ is not None:
            yield id_
            id_ = self._shown.frames[id_].frame


def _labels(node: Both, more: str = "") -> tuple[str | None, str | None]:
    def label(side: int) -> str | None:
        one = (node.before, node.after)[side]
        if one is None:
            return None
        name = one.name if one.kind in ("module", "call") else ""
        head = f"{name}: {one.label}" if name and name not in (one.label, "(model)") else one.label
        return f"{head}\n{more}" if more else head

    return label(0), label(1)
