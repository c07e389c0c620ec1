"""Compare two models: draw both, pair their nodes, and say what changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch import nn

from dcsurgery.capture.graphs import Key
from dcsurgery.census import Census, site_key, take_census
from dcsurgery.diffing.diff import Change, Diff
from dcsurgery.diffing.drawing import Drawn, draw
from dcsurgery.diffing.editlog import Logged, read_log
from dcsurgery.diffing.matching import Edits, Pairs, pair_nodes
from dcsurgery.diffing.network import ROOT, Node
from dcsurgery.models import as_module
from dcsurgery.rescale_graph import BUFFER
from dcsurgery.sites import Site

__all__ = ["compare"]

_UNRELATED = 0.2  # less of the smaller model in common, and the two are called unrelated


def compare(before: nn.Module, after: nn.Module, example_inputs: Any = None) -> Diff:
    """Return what changed from one model to another.

    Parameters
    ----------
    before, after
        Any models; neither is changed.
    example_inputs
        See `take_census`; both models are run on them. Without them, bodies that cannot be traced stay closed.

    Raises
    ------
    BadInput
        If a model is none, or does not accept the inputs.
    """
    models = [as_module(before), as_module(after)]
    # With inputs, both models are seen as they ran: two methods of capture would draw equal bodies differently.
    censuses = [take_census(model, example_inputs, graphs=example_inputs is None) for model in models]
    opaque = [{c.path for c in census.captures if c.graph is None} for census in censuses]
    closed = opaque[0] ^ opaque[1] if example_inputs is None else set()
    drawn = [draw(model, census, example_inputs, closed=closed) for model, census in zip(models, censuses, strict=True)]
    return _Comparison(drawn[0], drawn[1], censuses[0]).diff()


class _Comparison:
    def __init__(self, old: Drawn, new: Drawn, census: Census) -> None:
        self._old, self._new = old, new
        self._sites: dict[Key, Site] = {site_key(site.place): site for site in census}
        self._log: dict[Key, Logged] = read_log(self._sites, old, new)
        self._at = tuple(_by_key(drawn) for drawn in (old, new))
        self._pairs: Pairs = pair_nodes(old.network, new.network, self._edits())
        self._sources = [old.network.sources(), new.network.sources()]

    def _edits(self) -> Edits:
        """Return what the log says about nodes; calls of one site are pairs in their order."""
        places: tuple[dict[Key, list[str]], dict[Key, list[str]]] = (defaultdict(list), defaultdict(list))
        for found, drawn in zip(places, (self._old, self._new), strict=True):
            for id_, key in drawn.keys.items():
                if drawn.network.nodes[id_].kind in ("operator", "call"):
                    found[key].append(id_)
        pairs: list[tuple[str, str]] = []
        deleted: set[str] = set()
        replaced: set[str] = set()
        for key, logged in self._log.items():
            mine, theirs = places[0][key], places[1][key]
            (replaced if logged.after else deleted).update(mine)
            if logged.after and key[0] == "call" and len(mine) == len(theirs):
                pairs += zip(mine, theirs, strict=True)
            if not logged.after:
                deleted.update(self._at[0].get(key, ()))
        # A GraphModule keeps no log: any of its activations may have been replaced.
        replaceable = frozenset(id_ for id_, key in self._old.keys.items() if key[0] == "node")
        return Edits(tuple(pairs), frozenset(deleted), frozenset(replaced), replaceable, self._new.edited)

    def diff(self) -> Diff:
        """Return the changes in the order of the module tree."""
        covered: tuple[set[str], set[str]] = (set(), set())
        changes = [*self._logged(covered), *self._moved(covered), *self._structural(covered)]
        rank = {id_: index for index, id_ in enumerate(self._old.network.nodes)}
        after = {id_: index for index, id_ in enumerate(self._new.network.nodes)}

        def place(change: Change) -> tuple[float, str]:
            if change.nodes_before:
                return min(rank[id_] for id_ in change.nodes_before), change.name
            if change.nodes_after:
                return len(rank) + min(after[id_] for id_ in change.nodes_after), change.name
            owner = change.name.partition("@")[0].rpartition(".")[0] or ROOT
            return rank.get(change.name, rank.get(owner, len(rank))) + 0.5, change.name

        changes.sort(key=place)
        return Diff(
            self._old.network, self._new.network, tuple(changes), dict(self._pairs.forward), tuple(self._notes())
        )

    # -- what edits say ----------------------------------------------------------------------------------------------------

    def _logged(self, covered: tuple[set[str], set[str]]) -> Iterator[Change]:
        for key, logged in self._log.items():
            mine = self._at[0].get(key, [])
            theirs = [self._pairs.forward[id_] for id_ in mine if id_ in self._pairs.forward]
            theirs += [id_ for id_ in self._at[1].get(key, ()) if id_ not in theirs]
            if not logged.after:
                theirs = []
                for id_ in mine:  # something else may have taken its place in the matching
                    partner = self._pairs.forward.pop(id_, None)
                    if partner is not None:
                        del self._pairs.backward[partner]
            covered[0].update(mine)
            covered[1].update(theirs)
            for id_ in mine:
                covered[0].update(_within(self._old, id_))
            for id_ in theirs:
                covered[1].update(_within(self._new, id_))
            inserted = self._inserted_by(logged) if logged.state == "inserted" else ()
            covered[1].update(inserted)
            site = self._sites.get(key)
            yield Change(
                state=logged.state,
                name=site.name if site is not None else logged.name,
                before=logged.before,
                after=logged.after,
                nodes_before=tuple(mine),
                nodes_after=(*theirs, *inserted),
                where="" if site is None else site.where,
                note="never ran" if site is not None and site.runs == 0 else "",
            )

    def _inserted_by(self, logged: Logged) -> tuple[str, ...]:
        """Return what a rescale put between a module's own result and its output."""
        body = {n.id for n in self._new.network.children(logged.owner or ROOT) if n.kind == "operator"}
        return tuple(id_ for id_ in body if id_ not in self._pairs.backward)

    # -- what the networks say -----------------------------------------------------------------------------------------

    def _moved(self, covered: tuple[set[str], set[str]]) -> Iterator[Change]:
        for old, new in self._pairs.forward.items():
            node, other = self._old.network.nodes[old], self._new.network.nodes[new]
            if node.kind != "module" or old == new or old in covered[0]:
                continue
            parent, its = node.parent or ROOT, other.parent or ROOT
            if self._pairs.forward.get(parent) == its and node.name == other.name:
                continue  # it came along with its parent
            state = "renamed" if self._pairs.forward.get(parent) == its else "moved"
            yield Change(state, old, old, new, (old,), (new,), node.where)  # type: ignore[arg-type]

    def _structural(self, covered: tuple[set[str], set[str]]) -> Iterator[Change]:
        forward, backward = self._pairs.forward, self._pairs.backward
        for id_, node in self._old.network.nodes.items():
            if id_ in covered[0]:
                continue
            partner = forward.get(id_)
            if partner is None:
                if node.kind not in ("input", "output") and not self._is_inside(node, forward):
                    yield Change("deleted", _name(node), node.label, nodes_before=(id_,), where=node.where)
                continue
            other = self._new.network.nodes[partner]
            if (node.label, node.detail) != (other.label, other.detail) and node.kind not in ("input", "output"):
                told = ("", "") if node.label != other.label else (_bracketed(node), _bracketed(other))
                before, after = node.label + told[0], other.label + told[1]
                yield Change("replaced", _name(node), before, after, (id_,), (partner,), node.where)
            elif node.kind == "module" and node.tensors != self._own_tensors(other):
                yield Change("replaced", _name(node), _tensors(node), _tensors(other), (id_,), (partner,), node.where)
            else:
                yield from self._rewired(id_, partner, covered)
        for id_, node in self._new.network.nodes.items():
            if id_ in covered[1] or id_ in backward or node.kind in ("input", "output"):
                continue
            if not self._is_inside(node, backward):
                yield Change("inserted", _name(node), after=node.label, nodes_after=(id_,), where=node.where)

    def _own_tensors(self, node: Node) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Return a module's tensors without the C of a rescale, which is a change of its own."""
        rescaled = ("rescale", node.path) in self._log
        return tuple(entry for entry in node.tensors if not (rescaled and entry[0] == BUFFER))

    @staticmethod
    def _is_inside(node: Node, paired: dict[str, str]) -> bool:
        """Say whether a node lies in a module that is gone, or new, as a whole."""
        return node.parent is not None and node.parent not in paired

    def _rewired(self, old: str, new: str, covered: tuple[set[str], set[str]]) -> Iterator[Change]:
        node = self._old.network.nodes[old]
        if node.kind == "input":
            return
        mine = [self._resolved(0, source) for source in self._sources[0].get(old, ())]
        theirs = [self._resolved(1, source) for source in self._sources[1].get(new, ())]
        if mine != theirs and not (covered[0] | covered[1]) & {*mine, *theirs}:
            before, after = (", ".join(map(self._short, ids)) for ids in (mine, theirs))
            yield Change("rewired", _name(node), before, after, (old,), (new,), node.where, f"inputs of {node.label}")

    def _resolved(self, side: int, id_: str) -> str:
        """Return where a tensor comes from, as an id after: what has no partner is looked through."""
        paired = (self._pairs.forward, self._pairs.backward)[side]
        network = (self._old, self._new)[side].network
        seen: set[str] = set()
        while id_ not in paired and id_ not in seen:
            seen.add(id_)
            node = network.nodes[id_]
            inside = network.children(id_)
            ports = network.children(str(node.parent)) if node.kind == "input" else []
            if ports:  # of a module that is only there: what the module is given
                given = self._sources[side].get(str(node.parent), [])
                position = [port.id for port in ports if port.kind == "input"].index(id_)
                above = given[position : position + 1]
            elif inside:  # such a module itself: what its output is given
                output = next((child.id for child in inside if child.kind == "output"), "")
                above = self._sources[side].get(output, [])
            else:
                above = self._sources[side].get(id_, [])
            id_ = above[0] if above else id_
        return self._pairs.forward.get(id_, id_) if side == 0 else id_

    def _short(self, id_: str) -> str:
        node = self._new.network.nodes.get(id_) or self._old.network.nodes[id_]
        return node.label if node.kind == "input" else id_.rpartition("::")[2]

    def _notes(self) -> Iterator[str]:
        smaller = min(len(self._old.network.nodes), len(self._new.network.nodes))
        same = sum(
            self._old.network.nodes[a].label == self._new.network.nodes[b].label for a, b in self._pairs.forward.items()
        )
        if smaller and same < _UNRELATED * smaller:
            yield f"these models have little in common: {same} of {smaller} nodes are the same"
        for name, drawn in (("before", self._old), ("after", self._new)):
            closed = [n for n in drawn.network.nodes.values() if n.method == "opaque"]
            for node in closed[:3]:
                yield f"{name}: the body of {node.id} is not shown: {node.reason or 'it could not be captured'}"
            if len(closed) > 3:
                yield f"{name}: {len(closed) - 3} more bodies are not shown; example inputs (--inputs FILE) show them"


def _by_key(drawn: Drawn) -> dict[Key, list[str]]:
    found: dict[Key, list[str]] = defaultdict(list)
    for id_, key in drawn.keys.items():
        found[key].append(id_)
    return dict(found)


def _within(drawn: Drawn, id_: str) -> list[str]:
    """Return everything that a module holds."""
    found = []
    pending = [id_]
    while pending:
        children = [child.id for child in drawn.network.children(pending.pop())]
        found += children
        pending += children
    return found


def _name(node: Node) -> str:
    return node.site or (node.id if node.kind == "module" else f"{node.parent or ROOT}::{node.name}")


def _bracketed(node: Node) -> str:
    return f"({node.detail})"


def _tensors(node: Node) -> str:
    return f"{node.label}({', '.join(f'{name}{list(shape)}' for name, shape in node.tensors)})"
