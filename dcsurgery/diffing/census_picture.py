"""A census as SVG: one model, its activations, normalizations, gates and bases marked, its output blocks framed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from torch import nn

from dcsurgery.blocks import BlockRules
from dcsurgery.capture.places import Places
from dcsurgery.census import Census
from dcsurgery.diffing.display import Box, Display, Frame, display
from dcsurgery.diffing.drawing import draw
from dcsurgery.diffing.layout import Rankdir, lay_out, require_dot
from dcsurgery.diffing.marks import OUTPUT_BLOCK, ROLES
from dcsurgery.diffing.network import ROOT, Network
from dcsurgery.diffing.panels import Picture, check_options, cut, fill_panel
from dcsurgery.diffing.svg import MANY_BOXES
from dcsurgery.diffing.union import Both, Union
from dcsurgery.paths import lineage
from dcsurgery.sites import FusedPlace, Role, Site

__all__ = ["render_census"]


def render_census(
    census: Census,
    model: nn.Module,
    *,
    depth: int | None = None,
    only_sites: bool = False,
    full: bool = False,
    rankdir: Rankdir = "TB",
) -> str:
    """Return a model with its sites as SVG.

    Parameters
    ----------
    census
        What was found.
    model
        The model that the census was taken of, as `dcsurgery.models.as_module` returned it.
    depth
        Modules below this depth stay closed, and say how many sites they hold; None opens every one that holds a site.
    only_sites
        Leave out what is neither a site nor next to one.
    full
        Open every module and show every operator.
    rankdir
        ``TB`` draws from top to bottom, ``LR`` from left to right.

    Raises
    ------
    BadInput
        If graphviz is not installed, or an option is wrong.
    """
    check_options(rankdir, depth)
    require_dot()
    network = draw(model, census).network
    marked = _Marked(census, network)
    shown = display(marked.union, depth=depth, only_changes=only_sites, full=full)
    notes = []
    if len(shown.boxes) > MANY_BOXES:
        notes.append(f"{MANY_BOXES} of {len(shown.boxes)} boxes shown: --depth N shows less of each module")
        shown = cut(shown, MANY_BOXES)
    marked.say_more(shown, _output_blocks(census, model))
    notes += _closed(network)
    layout = lay_out(shown, rankdir)
    title = str(census).splitlines()[0]
    states = {box.state for box in shown.boxes.values()} | {frame.state for frame in shown.frames.values()}
    marks = (*ROLES.values(), OUTPUT_BLOCK)
    known = {mark.name: mark for mark in marks}
    return Picture(
        title=title,
        description=" ".join(
            ["Graph of one model with its sites marked.", *(f"{site}." for site in census.sites[:200])]
        ),
        marks=marks,
        legend=tuple(mark for mark in marks if mark.name in states),
        panels=(fill_panel(census.model, 0, marked.union, shown, layout, known),),
        notes=tuple(notes),
    ).to_svg(layout, rankdir)


@dataclass
class _Marked:
    """A network as a union with itself, its sites marked."""

    census: Census
    network: Network

    def __post_init__(self) -> None:
        self.union = Union(noun="site")
        for node in self.network.nodes.values():
            self.union.nodes[node.id] = Both(node.id, node, node, node.parent, mark=node.role)
        sources = self.network.sources()
        self.union.sources = (sources, sources)
        self._inside: defaultdict[str, list[Site]] = defaultdict(list)
        shown = {node.site for node in self.network.nodes.values()}
        for site in self.census:
            if site.name not in shown:  # in a fused kernel, or in a body that was not captured
                holder = self._holder(site.place.owner)
                self._inside[holder].append(site)
                both = self.union.nodes[holder]
                if holder != ROOT and (isinstance(site.place, FusedPlace) or not self.union.children.get(holder)):
                    both.mark = both.mark or site.role

    def _holder(self, path: str) -> str:
        """Return the nearest module above a path that is drawn."""
        return next((part for part in reversed(list(lineage(path))) if part in self.network.nodes), ROOT)

    def say_more(self, shown: Display, blocks: Collection[str]) -> None:
        """Add to labels which sites stand inside that have no box, and what is an output block."""
        for frame in shown.frames.values():
            text = _count(self._inside.get(frame.id, ()))
            if text:
                _append(frame, f" · holds {text}")
            if frame.id in blocks:
                _append(frame, " · output block")
                frame.state = OUTPUT_BLOCK.name if frame.state == "same" else frame.state
        for box in shown.boxes.values():
            node = self.union.nodes[box.id].any
            text = _count(self._inside.get(box.id, ()))
            if text and len(box.members) == 1:
                _append(box, f"\nholds {text}")
            above = _frames(shown, box)
            if box.id in blocks and self.union.children.get(box.id):
                _append(box, "\noutput block")
                box.state = OUTPUT_BLOCK.name if box.state == "same" else box.state
            elif node.in_output_block and not above & set(blocks):
                _append(box, "\nin output block")


def _frames(shown: Display, box: Box) -> set[str]:
    found = set()
    frame: str | None = box.frame
    while frame is not None:
        found.add(frame)
        frame = shown.frames[frame].frame
    return found


def _append(item: Box | Frame, text: str) -> None:
    before, after = item.labels
    item.labels = (f"{before}{text}", f"{after}{text}")


def _count(sites: Iterable[Site]) -> str:
    counts: Counter[Role] = Counter(site.role for site in sites)
    plural = {"basis": "bases"}
    return ", ".join(f"{n} {role if n == 1 else plural.get(role, f'{role}s')}" for role, n in counts.items())


def _output_blocks(census: Census, model: nn.Module) -> set[str]:
    """Return the outermost modules that are output blocks."""
    modules = Places(model).tree.modules
    rules = BlockRules(model, modules, {capture.path: capture for capture in census.captures})
    inside = {path for path in modules if path and rules.decide(path)[0]}
    return {path for path in inside if not any(part in inside for part in lineage(path) if part != path)}


def _closed(network: Network) -> list[str]:
    closed = [node for node in network.nodes.values() if node.method == "opaque"]
    if not closed:
        return []
    others = f" and {len(closed) - 1} more" if len(closed) > 1 else ""
    reason = closed[0].reason or "it could not be captured"
    return [f"not shown: the body of {closed[0].id}{others}: {reason}"]
