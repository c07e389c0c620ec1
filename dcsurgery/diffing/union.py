"""Both networks of a diff as one: paired nodes once, every node with its state and the sides that it is on.

The picture of one model is drawn from the same structure: both sides are that model, and marks say what is a site.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property

from dcsurgery.diffing.diff import Change, Diff
from dcsurgery.diffing.network import ROOT, Kind, Network, Node

__all__ = ["Both", "Union", "unite"]


@dataclass
class Both:
    """One node of either network, or a pair.

    Attributes
    ----------
    id
        Id before, or ``+`` and the id after for what is only there.
    before, after
        The nodes; None where there is none.
    parent
        Id of the module that holds it.
    change
        The change that it belongs to, None where it stayed the same.
    mark
        What else makes it stand out: the role of a site.
    """

    id: str
    before: Node | None = None
    after: Node | None = None
    parent: str | None = None
    change: Change | None = None
    mark: str = ""

    @property
    def kind(self) -> Kind:
        """The kind of the node."""
        return self.any.kind

    @property
    def any(self) -> Node:
        """The node before, or after where there is none."""
        node = self.before or self.after
        assert node is not None
        return node

    @property
    def state(self) -> str:
        """State of its change, its mark, or ``same``."""
        return (self.mark or "same") if self.change is None else self.change.state


@dataclass
class Union:
    """All nodes by id, a module before what it holds, and the inputs of every node on either side."""

    nodes: dict[str, Both] = field(default_factory=dict)
    sources: tuple[dict[str, list[str]], dict[str, list[str]]] = field(default_factory=lambda: ({}, {}))
    noun: str = "change"  # what marked nodes are called

    @cached_property
    def children(self) -> dict[str, list[str]]:
        """What each module holds."""
        found: dict[str, list[str]] = defaultdict(list)
        for node in self.nodes.values():
            if node.parent is not None:
                found[node.parent].append(node.id)
        return dict(found)

    @cached_property
    def changes_inside(self) -> Counter[str]:
        """How many changed or marked nodes each module holds, at any depth."""
        found: Counter[str] = Counter()
        for node in self.nodes.values():
            if node.state != "same":
                parent = node.parent
                while parent is not None:
                    found[parent] += 1
                    parent = self.nodes[parent].parent
        return found

    def size(self, id_: str) -> tuple[int, int]:
        """Return how many modules and operators a module holds, at any depth."""
        modules = operators = 0
        pending = list(self.children.get(id_, ()))
        while pending:
            node = self.nodes[pending.pop()]
            modules += node.kind == "module"
            operators += node.kind in ("operator", "call")
            pending += self.children.get(node.id, ())
        return modules, operators


def unite(diff: Diff) -> Union:
    """Return the union of a diff's networks."""
    union = Union()
    names = ({id_: id_ for id_ in diff.before.nodes}, _names_after(diff))
    for side, network in enumerate((diff.before, diff.after)):
        for node in network.nodes.values():
            id_ = names[side][node.id]
            both = union.nodes.setdefault(id_, Both(id_))
            if side == 0:
                both.before = node
            else:
                both.after = node
            if both.parent is None and node.parent is not None:
                both.parent = names[side][node.parent]
        _add_sources(union, side, network, names[side])
    for change in diff.changes:
        for side, ids in enumerate((change.nodes_before, change.nodes_after)):
            for id_ in ids:
                union.nodes[names[side][id_]].change = change
    union.nodes = _ordered(union)
    return union


def _names_after(diff: Diff) -> dict[str, str]:
    backward = {new: old for old, new in diff.pairs.items()}
    return {id_: backward.get(id_, f"+{id_}") for id_ in diff.after.nodes}


def _add_sources(union: Union, side: int, network: Network, names: dict[str, str]) -> None:
    for target, sources in network.sources().items():
        union.sources[side][names[target]] = [names[source] for source in sources]


def _ordered(union: Union) -> dict[str, Both]:
    """Return the nodes with every module before what it holds: what is inserted has its place in the tree, too."""
    found: dict[str, Both] = {}
    pending = [ROOT]
    while pending:
        id_ = pending.pop()
        found[id_] = union.nodes[id_]
        pending += reversed(union.children.get(id_, []))
    return found
