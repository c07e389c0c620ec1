"""Sites of torch.fx GraphModules: there the graph itself is the code.

A site is found as a module that the graph's nodes say they come from (``nn.SiLU``, a user's ``Swish``, a batch norm
with its counter), as a piece of the graph that is an activation as a whole (`regions`), or as a single node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from dcsurgery.capture.graphs import Key
from dcsurgery.capture.pointwise import is_constant, name_of
from dcsurgery.capture.regions import activation_in, regions
from dcsurgery.capture.stacks import Called, stack_of
from dcsurgery.catalog import Match, match_class, match_method
from dcsurgery.recognition import is_library_code, recognise

__all__ = ["NEW", "Occurrence", "node_match", "occurrences"]

#: What surgery leaves on the nodes that it puts in: the key of the site that was there.
NEW = "dcs_new"
_OURS = "dcsurgery.activations."
_LARGEST_MODULE = 40  # nodes of a user's module that may be an activation as a whole


@dataclass(eq=False)
class Occurrence:
    """One run of a site in a graph.

    Attributes
    ----------
    source, result
        The node that it is applied to, and the one that has its value.
    nodes
        The nodes that compute it, the result among them.
    match
        What it is.
    module
        The call of the module that it is as a whole, None if it is none.
    sides
        Nodes that belong to it and do something else: count batches, write running statistics.
    key
        The site's key, once sites are made.
    new
        Surgery has put it there.
    """

    source: fx.Node
    result: fx.Node
    nodes: tuple[fx.Node, ...]
    match: Match | None
    module: Called | None = None
    sides: tuple[fx.Node, ...] = ()
    key: Key | None = field(default=None)
    new: bool = False


def node_match(node: fx.Node) -> Match | None:
    """Return what a call_function or call_method node is in the catalog's terms."""
    if node.op == "call_function":
        return recognise(node.target)
    if node.op == "call_method":
        operator = match_method(str(node.target))
        return None if operator is None else Match(operator, {}, "listed")
    return None


def occurrences(graph: fx.Graph) -> list[Occurrence]:
    """Return every activation, gate and normalization in a graph, in the order of their results."""
    order = {node: number for number, node in enumerate(graph.nodes)}
    found: list[Occurrence] = []
    taken: set[fx.Node] = set()

    def take(occurrence: Occurrence | None) -> None:
        if occurrence is not None and taken.isdisjoint(occurrence.nodes):
            found.append(occurrence)
            taken.update(occurrence.nodes, occurrence.sides)

    for group in _new(graph):
        take(group)
    for call, nodes in _calls(graph):
        if taken.isdisjoint(nodes):
            take(_as_module(call, nodes, order))
    for region in regions(graph):
        take(
            Occurrence(region.source, region.result, region.working, region.match, new=region.match is None),
        )
    for node in order:
        if node not in taken:
            take(_single(node))
    return sorted(found, key=lambda o: order[o.result])


def _new(graph: fx.Graph) -> Iterator[Occurrence]:
    """Yield what surgery has put in: marked in this process, told by the class of its module in a file's graph."""
    groups: defaultdict[Any, list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        if NEW in node.meta:
            groups[node.meta[NEW]].append(node)
        elif node.op == "call_function" and (stack := stack_of(node)) and str(stack[-1].cls).startswith(_OURS):
            groups[None, stack[-1].call].append(node)
    for (key, _), nodes in groups.items():
        sources = [n for node in nodes for n in node.all_input_nodes if n not in nodes and n.op != "get_attr"]
        if sources:
            yield Occurrence(sources[0], nodes[-1], tuple(nodes), None, key=key, new=True)


def _calls(graph: fx.Graph) -> list[tuple[Called, list[fx.Node]]]:
    """Return the calls of modules that may be sites as a whole, outer ones first, with their nodes."""
    groups: dict[str, tuple[Called, list[fx.Node]]] = {}
    depth: dict[str, int] = {}
    for node in graph.nodes:
        if not node.op.startswith("call"):
            continue
        for level, called in enumerate(stack_of(node)):
            if called.path and _may_be_site(called.cls):
                groups.setdefault(called.call, (called, []))[1].append(node)
                depth[called.call] = level
    return [groups[call] for call in sorted(groups, key=depth.__getitem__)]


def _may_be_site(cls: type | str) -> bool:
    path = cls if isinstance(cls, str) else f"{cls.__module__}.{cls.__qualname__}"
    return not is_library_code(path) or match_class(cls, "activation", "gate", "normalization") is not None


def _as_module(called: Called, nodes: list[fx.Node], order: dict[fx.Node, int]) -> Occurrence | None:
    operator = match_class(called.cls, "activation", "gate", "normalization")
    opened = operator is None and len(nodes) > _LARGEST_MODULE
    if opened or any(node.op == "call_module" for node in nodes):  # a child is a site of its own
        return None
    members = set(nodes)
    results = [n for n in nodes if any(user not in members and not _writes(user) for user in n.users)]
    if len(results) != 1:
        return None
    result = results[0]
    sources = _sources(nodes, members, result)
    if operator is None:
        if len(sources) != 1:
            return None
        match = activation_in(sources[0], result, order)
        if not isinstance(match, Match):
            return None
        return Occurrence(sources[0], result, tuple(nodes), match, called)
    if not sources or (operator.name == "glu" and len(nodes) > 1):
        return None  # of a decomposed GLU, the sigmoid is the gate
    source = sources[0]
    working = [node for node in nodes if node in _needed(source, result, members)]
    if operator.role == "normalization":
        sides = tuple(n for n in nodes if n not in working) + tuple(
            user for n in nodes for user in n.users if user not in members and _writes(user)
        )
    elif len(sources) > 1:
        return None
    else:
        sides = ()
    return Occurrence(source, result, tuple(working), Match(operator, {}, "listed"), called, sides)


def _writes(node: fx.Node) -> bool:
    """Say whether a node writes into an attribute: ``copy_`` of a running mean."""
    name = name_of(node)
    written = node.args[0] if node.args else None
    return name.endswith("_") and isinstance(written, fx.Node) and written.op == "get_attr"


def _sources(nodes: list[fx.Node], members: set[fx.Node], result: fx.Node) -> list[fx.Node]:
    """Return the nodes outside a group that are its data: no attributes, and of the result's shape where that is known."""
    outside = dict.fromkeys(
        n
        for node in nodes
        for n in node.all_input_nodes
        if n not in members and n.op != "get_attr" and not is_constant(n)
    )
    shape = _shape(result)
    return [n for n in outside if shape is None or _shape(n) in (None, shape)]


def _shape(node: fx.Node) -> tuple[object, ...] | None:
    value = node.meta.get("val")
    return tuple(str(size) for size in value.shape) if isinstance(value, torch.Tensor) else None


def _needed(source: fx.Node, result: fx.Node, members: set[fx.Node]) -> set[fx.Node]:
    """Return the members of a group that the result is made of."""
    needed: set[fx.Node] = set()
    pending = [result]
    while pending:
        node = pending.pop()
        if node in members and node is not source and node not in needed:
            needed.add(node)
            pending += node.all_input_nodes
    return needed


def _single(node: fx.Node) -> Occurrence | None:
    match = node_match(node)
    if match is None or not node.all_input_nodes:
        return None
    source = node.all_input_nodes[0]
    parts = [user for user in node.users if _is_item(user)]
    if not parts:
        return Occurrence(source, node, (node,), match)
    # A kernel that returns statistics besides: what is used is its first value.
    first = [user for user in parts if user.args[1] == 0]
    if len(first) != 1:
        return None
    sides = tuple(user for part in parts for user in part.users if _writes(user))
    return Occurrence(source, first[0], (node, first[0]), match, sides=sides)


def _is_item(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"
