"""Fold a module's contents so that no level of a page holds more than can be laid out at once.

Contents are put into an order in which every tensor is made before it is used. Neighbours in that order can be folded
into one box without tying a knot into the flow: all arrows between boxes still point forward.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass, field

from dcsurgery.diffing.union import Union

__all__ = ["MANY", "Folded", "fold"]

MANY = 120  # boxes on one level
_RUN = 4  # unchanged neighbours from which on they are folded
_PART = 60


@dataclass
class Folded:
    """A tree of what is shown inside of what.

    Attributes
    ----------
    parents
        Id to the id of the module or fold that shows it, None for the model.
    folds
        Id of each fold to the ids that it holds, in order.
    """

    parents: dict[str, str | None] = field(default_factory=dict)
    folds: dict[str, list[str]] = field(default_factory=dict)


def fold(union: Union) -> Folded:
    """Fold the contents of every module.

    Parameters
    ----------
    union
        Both networks of a diff. Containers that are never called (ModuleList) are left out: what they hold stands in
        the module above.
    """
    folded = Folded()
    inside: defaultdict[str | None, list[str]] = defaultdict(list)
    for node in union.nodes.values():
        parent = node.parent
        while parent is not None and union.nodes[parent].any.method == "container":
            parent = union.nodes[parent].parent
        if node.any.method != "container":
            inside[parent].append(node.id)
    above = {child: parent for parent, children in inside.items() for child in children}
    near = _near(union)
    order = _order(union, above)
    for parent, children in inside.items():
        if parent is None:
            folded.parents.update(dict.fromkeys(children))
            continue
        ranked = sorted(children, key=order.__getitem__)
        changed = {id_ for id_ in ranked if union.nodes[id_].change is not None or union.changes_inside[id_]}
        kept = {id_ for id_ in ranked if id_ in changed or near[id_] & changed or _is_port(union, id_)}
        level = _runs(folded, parent, ranked, kept)
        while len(level) > MANY:
            level = _parts(folded, parent, level)
        folded.parents.update(dict.fromkeys(level, parent))
    return folded


def _is_port(union: Union, id_: str) -> bool:
    return union.nodes[id_].kind in ("input", "output")


def _near(union: Union) -> defaultdict[str, set[str]]:
    near: defaultdict[str, set[str]] = defaultdict(set)
    for sources in union.sources:
        for target, given in sources.items():
            for source in given:
                near[source].add(target)
                near[target].add(source)
    return near


def _order(union: Union, above: dict[str, str | None]) -> dict[str, int]:
    """Rank all nodes of a level so that sources come first, as far as possible in the order of the networks.

    The flow between two levels counts for the boxes of the level that both stand on.
    """
    users: defaultdict[str, set[str]] = defaultdict(set)
    waiting: dict[str, int] = dict.fromkeys(union.nodes, 0)
    for sources in union.sources:
        for target, given in sources.items():
            for source in given:
                a, b = source, target
                if above.get(a) == above.get(b) and a != b and b not in users[a]:
                    users[a].add(b)
                    waiting[b] += 1
    first = {id_: number for number, id_ in enumerate(union.nodes)}
    ready = [(first[id_], id_) for id_, count in waiting.items() if not count]
    heapq.heapify(ready)
    rank: dict[str, int] = {}
    left = dict.fromkeys(union.nodes)
    while left:
        if not ready:  # a circle: go on with what comes first
            ready.append((0, next(iter(left))))
        _, id_ = heapq.heappop(ready)
        if id_ not in left:
            continue
        del left[id_]
        rank[id_] = len(rank)
        for user in users[id_]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, (first[user], user))
    return rank


def _runs(folded: Folded, parent: str, ranked: list[str], kept: set[str]) -> list[str]:
    """Fold neighbours that are neither changed nor next to a change."""
    level: list[str] = []
    run: list[str] = []

    def close() -> None:
        if len(run) >= _RUN:
            level.append(_add(folded, parent, list(run)))
        else:
            level.extend(run)
        run.clear()

    for id_ in ranked:
        if id_ in kept:
            close()
            level.append(id_)
        else:
            run.append(id_)
    close()
    return level if len(level) > 1 or not kept else ranked


def _parts(folded: Folded, parent: str, level: list[str]) -> list[str]:
    return [_add(folded, parent, level[start : start + _PART]) for start in range(0, len(level), _PART)]


def _add(folded: Folded, parent: str, members: list[str]) -> str:
    id_ = f"{parent}/…{len(folded.folds)}"
    inner = members
    while len(inner) > MANY:
        inner = _parts(folded, id_, inner)
    folded.folds[id_] = members
    folded.parents.update(dict.fromkeys(inner, id_))
    return id_
