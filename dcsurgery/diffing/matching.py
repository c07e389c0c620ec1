"""Which node of one network is which of another: by module path, then by what it applies to what; never by position.

Paths pair modules. In the bodies of two paired modules the inputs, the output and the calls of paired modules are
pairs to begin with; from there the matching spreads along the edges, to inputs at the same position and to users of the
same tensor, as long as the operators are the same. What stays alone between pairs was replaced, deleted or inserted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dcsurgery.diffing.network import Network, Node

__all__ = ["Edits", "Pairs", "pair_nodes"]

_FAR = 4  # edges within which surroundings are compared


class Pairs:
    """One-to-one pairs of node ids."""

    def __init__(self) -> None:
        self.forward: dict[str, str] = {}
        self.backward: dict[str, str] = {}

    def add(self, old: str, new: str) -> bool:
        """Make a pair of two nodes that have no partner yet; say whether that was so."""
        if old in self.forward or new in self.backward:
            return False
        self.forward[old], self.backward[new] = new, old
        return True


@dataclass(frozen=True)
class Edits:
    """What an edit log says about nodes.

    Attributes
    ----------
    pairs
        Ids before and after of one place.
    deleted
        Ids before of nodes that pass their input on now.
    replaced, replaceable, replacements
        Ids before of nodes that something else stands for now, or may stand for; ids after of what edits put in.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    deleted: frozenset[str] = frozenset()
    replaced: frozenset[str] = frozenset()
    replaceable: frozenset[str] = frozenset()
    replacements: frozenset[str] = frozenset()


def pair_nodes(before: Network, after: Network, edits: Edits = Edits()) -> Pairs:
    """Pair the nodes of two networks.

    Parameters
    ----------
    before, after
        The networks.
    edits
        What is known without looking.

    Returns
    -------
    Pairs
        Pairs of equal nodes, and of nodes of which one stands where the other stood.
    """
    pairs = Pairs()
    for old, new in edits.pairs:
        pairs.add(old, new)
    _pair_modules(before, after, pairs)
    bodies = _Bodies(before, after, pairs, edits)
    for old in [id_ for id_ in before.nodes if before.nodes[id_].kind == "module" and id_ in pairs.forward]:
        bodies.pair(old, pairs.forward[old])
    return pairs


# -- modules -------------------------------------------------------------------------------------------------------------


def _pair_modules(before: Network, after: Network, pairs: Pairs) -> None:
    for node in before.nodes.values():
        if node.kind == "module" and node.id in after.nodes and after.nodes[node.id].kind == "module":
            pairs.add(node.id, node.id)
    old = [n for n in before.nodes.values() if n.kind == "module" and n.id not in pairs.forward]
    new = [n for n in after.nodes.values() if n.kind == "module" and n.id not in pairs.backward]
    if not old or not new:
        return
    # What has another path is known by its class, its tensors and what it holds; larger parts first, since a block that
    # moved takes its layers along.
    prints = [_prints(before), _prints(after)]
    by_print: dict[int, list[Node]] = defaultdict(list)
    for node in new:
        by_print[prints[1][node.id]].append(node)
    for node in sorted(old, key=lambda n: -_size(before, n.id)):
        if node.id in pairs.forward or not (node.tensors or before.children(node.id)):
            continue  # a Dropout or a ReLU is like any other
        candidates = [n for n in by_print[prints[0][node.id]] if n.id not in pairs.backward]
        near = [n for n in candidates if n.parent == pairs.forward.get(node.parent or "")]
        chosen = near or [n for n in candidates if n.name == node.name] or candidates
        if chosen:
            _pair_subtrees(before, after, node, chosen[0], pairs)


def _pair_subtrees(before: Network, after: Network, old: Node, new: Node, pairs: Pairs) -> None:
    if not pairs.add(old.id, new.id):
        return
    theirs = {n.name: n for n in after.children(new.id) if n.kind == "module"}
    for child in before.children(old.id):
        if child.kind == "module" and child.name in theirs:
            _pair_subtrees(before, after, child, theirs[child.name], pairs)


def _prints(network: Network) -> dict[str, int]:
    """Return a hash of each module with all that it holds, its own name left out."""
    found: dict[str, int] = {}
    for node in reversed(network.nodes.values()):  # a module stands before what it holds
        if node.kind == "module":
            inside = tuple((c.name, found[c.id]) for c in network.children(node.id) if c.kind == "module")
            found[node.id] = hash((node.label, node.detail, node.tensors, inside))
    return found


def _size(network: Network, id_: str) -> int:
    return 1 + sum(_size(network, child.id) for child in network.children(id_) if child.kind == "module")


def _called(node: Node) -> str:
    """Return what a node applies; an input is known by where it stands among the arguments, whatever it is called."""
    return node.name if node.kind == "input" else node.label


# -- bodies --------------------------------------------------------------------------------------------------------------


class _Side:
    """One network's edges both ways; deleted nodes are looked through."""

    def __init__(self, network: Network, deleted: frozenset[str] = frozenset()) -> None:
        self.nodes = network.nodes
        self.sources: dict[str, list[str]] = network.sources()
        self.users: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self.bodies: dict[str, list[str]] = defaultdict(list)
        if deleted:
            through = {id_: self.sources[id_][0] for id_ in deleted if self.sources.get(id_)}
            for id_, sources in self.sources.items():
                self.sources[id_] = [self._end(source, through) for source in sources]
        for id_, sources in self.sources.items():
            if id_ not in deleted:
                for position, source in enumerate(sources):
                    self.users[source].append((position, id_))
        for node in network.nodes.values():
            if node.kind != "module" and node.parent is not None and node.id not in deleted:
                self.bodies[node.parent].append(node.id)

    @staticmethod
    def _end(id_: str, through: dict[str, str]) -> str:
        while id_ in through:
            id_ = through[id_]
        return id_


class _Bodies:
    """Pairs what stands in the bodies of paired modules."""

    def __init__(self, before: Network, after: Network, pairs: Pairs, edits: Edits) -> None:
        self._old, self._new = _Side(before, edits.deleted), _Side(after)
        self._pairs = pairs
        self._edits = edits

    def pair(self, old: str, new: str) -> None:
        mine, theirs = self._old.bodies[old], self._new.bodies[new]
        if not mine and not theirs:
            return
        seeds = self._seeds(mine, theirs)
        self._spread(seeds)
        self._bridge(mine, theirs)

    def _seeds(self, mine: list[str], theirs: list[str]) -> list[tuple[str, str]]:
        for kind in ("input", "output"):
            old = {self._port(self._old, i): i for i in mine if self._old.nodes[i].kind == kind}
            new = {self._port(self._new, i): i for i in theirs if self._new.nodes[i].kind == kind}
            for name in old.keys() & new.keys():
                self._pairs.add(old[name], new[name])
        # What looks like nothing else on its side, with all that surrounds it, is the same on the other.
        for rounds in (_FAR, 1):
            once = [self._unique(self._old, mine, rounds), self._unique(self._new, theirs, rounds)]
            for signature in once[0].keys() & once[1].keys():
                self._pairs.add(once[0][signature], once[1][signature])
        within = [*mine, *{s for i in mine for s in self._old.sources.get(i, ())}]
        return [(i, self._pairs.forward[i]) for i in dict.fromkeys(within) if i in self._pairs.forward]

    @staticmethod
    def _port(side: _Side, id_: str) -> str:
        node = side.nodes[id_]
        return _called(node) if node.kind == "input" else "output"

    def _unique(self, side: _Side, ids: list[str], rounds: int) -> dict[int, str]:
        """Return the nodes whose surroundings, so many edges far, are like no other's."""
        looks = {id_: hash(self._looks(side.nodes[id_])) for id_ in ids}
        for _ in range(rounds):
            looks = {id_: hash((looks[id_], *self._around(side, id_, looks))) for id_ in ids}
        counted = Counter(looks.values())
        taken = self._pairs.forward if side is self._old else self._pairs.backward
        return {look: id_ for id_, look in looks.items() if counted[look] == 1 and id_ not in taken}

    def _around(self, side: _Side, id_: str, looks: dict[str, int]) -> tuple[object, ...]:
        def look(other: str) -> int:  # a module's call belongs to no body
            return looks.get(other) or hash(self._looks(side.nodes[other]))

        above = tuple(look(s) for s in side.sources.get(id_, ()))
        return above, tuple(sorted((position, look(user)) for position, user in side.users.get(id_, ())))

    def _looks(self, node: Node) -> tuple[str, str, str]:
        if node.id in self._edits.replaced or node.id in self._edits.replacements:
            return "edited", "", ""
        where = node.path if node.kind in ("module", "call") else ""
        return _called(node), node.detail, where

    def _same(self, old: str, new: str, *, exactly: bool) -> bool:
        a, b = self._old.nodes[old], self._new.nodes[new]
        if new in self._edits.replacements:
            return old in self._edits.replaced or old in self._edits.replaceable
        if old in self._edits.replaced:
            return False
        if "module" in (a.kind, b.kind):  # modules are paired by their paths, and not again
            return self._pairs.forward.get(old) == new
        if a.kind == "call" and b.kind == "call":
            return self._pairs.forward.get(a.path or "", a.path) == b.path or a.path == b.path
        return a.kind == b.kind and _called(a) == _called(b) and (a.detail == b.detail or not exactly)

    def _spread(self, pending: list[tuple[str, str]]) -> None:
        for exactly in (True, False):
            queue = list(pending)
            while queue:
                old, new = queue.pop()
                for found in (*self._inputs(old, new, exactly=exactly), *self._users(old, new, exactly=exactly)):
                    if self._pairs.add(*found):
                        queue.append(found)
                        pending.append(found)

    def _inputs(self, old: str, new: str, *, exactly: bool) -> Iterable[tuple[str, str]]:
        mine, theirs = self._old.sources.get(old, []), self._new.sources.get(new, [])
        if len(mine) == len(theirs):
            return [(a, b) for a, b in zip(mine, theirs, strict=True) if self._same(a, b, exactly=exactly)]
        return []

    def _users(self, old: str, new: str, *, exactly: bool) -> Iterable[tuple[str, str]]:
        mine = self._grouped(self._old, old, self._pairs.forward)
        theirs = self._grouped(self._new, new, self._pairs.backward)
        found = []
        for what, users in mine.items():
            others = [u for u in theirs.get(what, ()) if self._same(users[0], u, exactly=exactly)]
            if len(users) == 1 and len(others) == 1:
                found.append((users[0], others[0]))
            elif len(users) == len(others):
                found += self._siblings(users, others)
        return found

    def _siblings(self, mine: list[str], theirs: list[str]) -> Iterable[tuple[str, str]]:
        """Tell equal users of one tensor apart by what else they are given, and by who uses them; twins go in order."""
        old: dict[object, list[str]] = defaultdict(list)
        new: dict[object, list[str]] = defaultdict(list)
        for i in mine:
            old[self._company(self._old, i, self._pairs.forward.get)].append(i)
        for i in theirs:
            new[self._company(self._new, i, lambda s: s if s in self._pairs.backward else None)].append(i)
        return [
            pair for key, a in old.items() if len(a) == len(new.get(key, ())) for pair in zip(a, new[key], strict=True)
        ]

    def _company(self, side: _Side, id_: str, partner: Callable[[str], str | None]) -> object:
        users = sorted((position, self._looks(side.nodes[user])) for position, user in side.users.get(id_, ()))
        detail = side.nodes[id_].detail
        return detail, tuple(partner(s) for s in side.sources.get(id_, ())), tuple(users)

    def _grouped(self, side: _Side, id_: str, taken: dict[str, str]) -> dict[object, list[str]]:
        groups: dict[object, list[str]] = defaultdict(list)
        for position, user in side.users.get(id_, ()):
            if user not in taken and side.nodes[user].kind != "module":
                node = side.nodes[user]
                site = node.role == "activation" or user in self._edits.replaced or user in self._edits.replacements
                groups[(position, "site") if site else (position, node.kind, _called(node))].append(user)
        return groups

    def _bridge(self, mine: list[str], theirs: list[str]) -> None:
        """Pair what stands between the same neighbours: one was replaced by the other."""
        lonely = [i for i in theirs if i not in self._pairs.backward]
        if not lonely:
            return
        changed = True
        while changed:
            changed = False
            below: dict[str, list[str]] = defaultdict(list)
            for i in lonely:
                if i not in self._pairs.backward:
                    for source in self._new.sources.get(i, ()):
                        below[source].append(i)
            for old in [i for i in mine if i not in self._pairs.forward]:
                sources = [self._pairs.forward.get(s) for s in self._old.sources.get(old, ())]
                candidates = dict.fromkeys(i for s in sources if s is not None for i in below.get(s, ()))
                fitting = [i for i in candidates if i not in self._pairs.backward and self._fits(old, i)]
                if len(fitting) == 1 and self._pairs.add(old, fitting[0]):
                    self._spread([(old, fitting[0])])
                    changed = True

    def _fits(self, old: str, new: str) -> bool:
        """Say whether two nodes feed the same users."""
        mine = {self._pairs.forward.get(user) for _, user in self._old.users.get(old, ())}
        theirs = {user for _, user in self._new.users.get(new, ())}
        return bool(mine & theirs)
