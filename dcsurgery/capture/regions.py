"""Activations that a graph writes with several nodes: ``x * sigmoid(x)``, ``softplus(x) - log 2``, decomposed kernels.

A *region* is a piece of a graph between one source and one result in which everything is elementwise. Where branches
from one source join again, the region in between is run on numbers and compared with the catalog (`dcsurgery.fingerprint`). Of
nested regions the largest that *is* an activation, without any scale or shift of its own, is one; with constants of its own, only
the smallest, and only if no activation stands in it already: ``2 * silu(x) + 1`` is a SiLU with something behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from dcsurgery.capture.pointwise import constant_of, is_constant, is_pointwise, name_of, run_nodes
from dcsurgery.catalog import Match, match_function, match_method
from dcsurgery.fingerprint.fits import GRID
from dcsurgery.fingerprint.matching import best_fit
from dcsurgery.fingerprint.probing import quiet, values_of

__all__ = ["Region", "activation_in", "is_pure", "region_between", "regions"]

_LARGEST = 40  # nodes; a hand-written GELU has 9, a decomposed one 6
_DEEPEST = 64  # how far up a common source is looked for
_BEHIND = 3  # constant factors and summands that may follow
_LOGARITHMS = frozenset({"log", "log1p"})


@dataclass(frozen=True, eq=False)
class Region:
    """Nodes between ``source`` and ``result``: ``inside`` has all of them in order, constants and the result too."""

    source: fx.Node
    result: fx.Node
    inside: tuple[fx.Node, ...]
    match: Match | None

    @property
    def working(self) -> tuple[fx.Node, ...]:
        """The nodes that depend on the source."""
        return tuple(node for node in self.inside if not is_constant(node))


def is_pure(match: Match) -> bool:
    """Say whether a match is the operator itself, or a softplus shifted by log 2."""
    constants = {name: match.parameters[name] for name in ("scale", "gain", "shift") if name in match.parameters}
    if match.operator.name == "softplus" and set(constants) == {"shift"}:
        return math.isclose(constants["shift"], -math.log(2), rel_tol=1e-6)
    return not constants


def regions(graph: fx.Graph) -> list[Region]:
    """Return the regions of a graph that are activations, gates or IReLUs as a whole; they do not overlap."""
    order = {node: number for number, node in enumerate(graph.nodes)}
    found = [region for node in order for region in _candidates(node, order)]
    owner: dict[fx.Node, Region] = {}
    for region in sorted(found, key=lambda r: len(r.inside)):
        inner = {id(owner[node]): owner[node] for node in region.working if node in owner}
        nested = all(set(other.working) <= set(region.working) for other in inner.values())
        if inner and not (nested and (region.match is None or is_pure(region.match))):
            continue
        for other in inner.values():
            for node in other.working:
                owner.pop(node, None)
        owner.update(dict.fromkeys(region.working, region))
    return sorted({id(r): r for r in owner.values()}.values(), key=lambda r: order[r.result])


def region_between(source: fx.Node, result: fx.Node, order: dict[fx.Node, int]) -> tuple[fx.Node, ...]:
    """Return the elementwise nodes from which ``result`` is made of ``source``, in their order; () if others are."""
    inside: set[fx.Node] = set()
    pending = [result]
    while pending:
        node = pending.pop()
        if node is source or node in inside:
            continue
        if not (is_constant(node) or is_pointwise(node)) or len(inside) == _LARGEST:
            return ()
        inside.add(node)
        if not is_constant(node):
            pending += node.all_input_nodes
    return tuple(sorted(inside, key=order.__getitem__))


def activation_in(source: fx.Node, result: fx.Node, order: dict[fx.Node, int]) -> Match | str | None:
    """Return what the nodes between two nodes are as a whole: a match, ``irelu``, or None."""
    inside = region_between(source, result, order)
    return _RESULTS.values_of(source, inside, result) if inside else None


def _candidates(node: fx.Node, order: dict[fx.Node, int]) -> Iterator[Region]:
    """Yield the regions that end at a node or a few constants behind it."""
    source = _source_of_join(node, order) or _source_of_logarithm(node) or _source_of_shift(node)
    if source is None:
        return
    region = _region(source, node, order)
    if region is None and name_of(source) == "relu":  # relu(x) * relu(x) / 2
        source = source.all_input_nodes[0]
        region = _region(source, node, order)
    if region is None:
        return
    if region.match is None or is_pure(region.match):
        shifted = _region(source, next(_behind(node), node), order) if _is_softplus(region) else None
        yield shifted if shifted is not None and shifted.match is not None and is_pure(shifted.match) else region
        return
    for behind in _behind(node):
        longer = _region(source, behind, order)
        if longer is not None and (longer.match is None or is_pure(longer.match)):
            yield longer
            return
    if not any(_is_listed_activation(inner) for inner in region.working):
        yield region


def _is_softplus(region: Region) -> bool:
    return region.match is not None and region.match.operator.name == "softplus"


def _region(source: fx.Node, result: fx.Node, order: dict[fx.Node, int]) -> Region | None:
    inside = region_between(source, result, order)
    if not inside:
        return None
    # What is used elsewhere, too, cannot be taken out as a whole.
    members = set(inside)
    if any(user not in members for n in inside if n is not result and not is_constant(n) for user in n.users):
        return None
    found = _RESULTS.values_of(source, inside, result)
    if found is None:
        return None
    return Region(source, result, inside, None if isinstance(found, str) else found)


def _behind(node: fx.Node) -> Iterator[fx.Node]:
    for _ in range(_BEHIND):
        user = next(iter(node.users), None)
        if user is None or len(node.users) != 1 or name_of(user) not in {"add", "sub", "mul", "div", "neg"}:
            return
        if any(n is not node and not is_constant(n) for n in user.all_input_nodes):
            return
        yield user
        node = user


def _working_inputs(node: fx.Node) -> list[fx.Node]:
    return [n for n in node.all_input_nodes if not is_constant(n)]


def _source_of_join(node: fx.Node, order: dict[fx.Node, int]) -> fx.Node | None:
    """Return the nearest node from which every branch that joins in an elementwise node comes."""
    if not is_pointwise(node):
        return None
    inputs = _working_inputs(node)
    return _common_source(inputs, order) if len(inputs) > 1 else None


def _common_source(nodes: list[fx.Node], order: dict[fx.Node, int]) -> fx.Node | None:
    """Return the nearest common dominator within elementwise nodes.

    Of the nodes that are still to be explained, the latest one is replaced by its inputs until one is left: every
    path passes it.
    """
    pending = set(nodes)
    for _ in range(_DEEPEST):
        if len(pending) == 1:
            return pending.pop()
        latest = max(pending, key=order.__getitem__)
        if not is_pointwise(latest):
            return None
        pending.remove(latest)
        inputs = _working_inputs(latest)
        if not inputs:
            return None
        pending.update(inputs)
    return None


def _source_of_logarithm(node: fx.Node) -> fx.Node | None:
    """Return what is exponentiated in log(1 + exp(x))."""
    if name_of(node) not in _LOGARITHMS:
        return None
    for _ in range(4):
        inputs = _working_inputs(node)
        if len(inputs) != 1 or not is_pointwise(node):
            return None
        if name_of(node) == "exp":
            return inputs[0]
        node = inputs[0]
    return None


def _source_of_shift(node: fx.Node) -> fx.Node | None:
    """Return the source of a softplus from which a constant is subtracted; of an IReLU's ``relu(x)`` before the square."""
    name = name_of(node)
    inputs = _working_inputs(node)
    if len(inputs) != 1:
        return None
    before = inputs[0]
    if name in {"add", "sub"} and name_of(before) == "softplus":
        return _only(_working_inputs(before))
    if name in {"mul", "div"}:
        for _ in range(2):  # relu, square, half, in either order
            if name_of(before) == "relu":
                return _only(_working_inputs(before))
            following = _working_inputs(before)
            if len(following) != 1 or not is_pointwise(before):
                return None
            before = following[0]
        if name_of(before) == "relu":
            return _only(_working_inputs(before))
    return None


def _only(nodes: list[fx.Node]) -> fx.Node | None:
    return nodes[0] if len(nodes) == 1 else None


def _is_listed_activation(node: fx.Node) -> bool:
    if node.op == "call_method":
        operator = match_method(str(node.target))
    else:
        found = match_function(node.target) if node.op == "call_function" else None
        operator = None if found is None else found.operator
    return operator is not None and operator.role == "activation"


class _Results:
    """What pieces of graphs compute, each kind of piece once."""

    def __init__(self) -> None:
        self._known: dict[Any, Match | str | None] = {}

    def values_of(self, source: fx.Node, inside: Iterable[fx.Node], result: fx.Node) -> Match | str | None:
        nodes = tuple(inside)
        key = _signature(source, nodes)
        if key not in self._known:
            if len(self._known) > 4096:
                self._known.clear()
            values = values_of(run_nodes(nodes, source, result))
            if values is not None:
                squares = np.allclose(values, 0.5 * np.maximum(GRID, 0) ** 2, rtol=1e-12, atol=1e-12)
                with quiet():
                    self._known[key] = "irelu" if squares else _of_interest(best_fit(values))
            else:
                self._known[key] = None
        return self._known[key]


def _of_interest(match: Match | None) -> Match | None:
    return match if match is not None and match.operator.role in ("activation", "gate") else None


def _signature(source: fx.Node, nodes: tuple[fx.Node, ...]) -> Any:
    number = {node: index for index, node in enumerate((source, *nodes))}

    def plain(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return ("node", number.get(value, -1))
        if isinstance(value, tuple | list):
            return tuple(plain(item) for item in value)
        return (type(value).__name__, str(value))

    return tuple(
        ("constant", constant_of(node))
        if is_constant(node)
        else (node.op, str(node.target), plain(node.args), plain(tuple(sorted(node.kwargs.items()))))
        for node in nodes
    )


_RESULTS = _Results()
