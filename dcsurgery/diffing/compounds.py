"""Which nodes of a graph are one thing: a user's activation, a norm with its counter, what an edit has put in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from dcsurgery.activations import irelu
from dcsurgery.capture.graphs import Key, key_of
from dcsurgery.capture.nodes import Occurrence, occurrences
from dcsurgery.capture.stacks import stack_of
from dcsurgery.sites import NodePlace, Site

__all__ = ["Compound", "compounds_in"]


@dataclass(frozen=True, eq=False)
class Compound:
    """Nodes that are drawn as one.

    Attributes
    ----------
    name
        What it says.
    result
        The node that has its value.
    key
        The key of its site; None if it is none.
    edited
        An edit has put it there.
    """

    name: str
    result: fx.Node
    key: Key | None
    edited: bool = False


def compounds_in(graph: fx.Graph, path: str, sites: Mapping[Key, Site], *, exact: bool) -> dict[fx.Node, Compound]:
    """Return the compound of every node that belongs to one.

    Parameters
    ----------
    graph
        The body of the module at ``path``.
    path
        Its path.
    sites
        The model's sites.
    exact
        Whether the graph is the module's code (a GraphModule), and no capture.
    """
    return _of_graph_module(graph, path, sites) if exact else _of_capture(graph)


def _of_capture(graph: fx.Graph) -> dict[fx.Node, Compound]:
    """Return the calls of users' functions that are activations as a whole, as symbolic traces mark them."""
    parts: defaultdict[Any, list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        if "dcs_compound" in node.meta:
            parts[node.meta["dcs_compound"]].append(node)
    found: dict[fx.Node, Compound] = {}
    for (name, _), nodes in parts.items():
        key = next((key for key in map(key_of, nodes) if key is not None), None)
        found.update(dict.fromkeys(nodes, Compound(name, nodes[-1], key)))
    return found


def _of_graph_module(graph: fx.Graph, path: str, sites: Mapping[Key, Site]) -> dict[fx.Node, Compound]:
    keys: dict[str, Key] = {}
    for key, site in sites.items():
        if isinstance(site.place, NodePlace) and site.place.owner == path:
            keys.update(dict.fromkeys([site.place.node, *(name for _, name in site.place.more)], key))
    found: dict[fx.Node, Compound] = {}
    for occurrence in occurrences(graph):
        members = (*occurrence.nodes, *occurrence.sides)
        if occurrence.new or len(members) > 1:
            compound = Compound(_name(occurrence), occurrence.result, keys.get(occurrence.result.name), occurrence.new)
            found.update(dict.fromkeys(members, compound))
    return found


def _name(occurrence: Occurrence) -> str:
    if occurrence.match is not None:
        return occurrence.match.operator.name
    if any(node.target is irelu for node in occurrence.nodes):
        return "irelu"
    stack = stack_of(occurrence.result)
    return str(stack[-1].cls).rpartition(".")[2].strip("'>") if stack else "activation"
