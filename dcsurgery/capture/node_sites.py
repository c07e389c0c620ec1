"""Names and sites of what `occurrences` finds in a GraphModule, so that they are those of the model it was made from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import fx, nn

from dcsurgery.capture.nodes import Occurrence, occurrences
from dcsurgery.capture.pointwise import name_of
from dcsurgery.capture.stacks import line_of, stack_of
from dcsurgery.catalog import match_class
from dcsurgery.sites import NodePlace, Site
from dcsurgery.tree import join

__all__ = ["GraphSites", "graph_sites"]


@dataclass(eq=False)
class GraphSites:
    """What is found in one GraphModule.

    Attributes
    ----------
    occurrences
        Every run of a site, and what surgery has put in.
    sites
        The sites; ``runs`` is how often they are in the graph.
    by_node
        Names of nodes to the occurrence that they are part of.
    sides
        Names of nodes that only keep a normalization's books, to its occurrence.
    """

    occurrences: list[Occurrence]
    sites: list[Site]
    by_node: dict[str, Occurrence] = field(default_factory=dict)
    sides: dict[str, Occurrence] = field(default_factory=dict)


def graph_sites(module: fx.GraphModule, path: str, base: str) -> GraphSites:
    """Find the sites of a GraphModule at ``path``; module paths in its graph are relative to ``base``."""
    found = occurrences(module.graph)
    sites = []
    for name, group in _named([o for o in found if not o.new], path, base):
        site = _site(name, group, path, base)
        for occurrence in group:
            occurrence.key = ("node", path, group[0].result.name)
            occurrence.result.meta["dcs_key"] = occurrence.key
        sites.append(site)
    result = GraphSites(found, sites)
    for occurrence in found:
        result.by_node.update({node.name: occurrence for node in occurrence.nodes})
        result.sides.update({node.name: occurrence for node in occurrence.sides})
    return result


def _named(found: list[Occurrence], path: str, base: str) -> Iterator[tuple[str, list[Occurrence]]]:
    """Yield each site's name and its runs, in the order of the first."""
    groups: dict[object, list[Occurrence]] = {}
    prefixes: dict[object, str] = {}
    turns: Counter[tuple[str, str]] = Counter()
    for occurrence in found:
        place, prefix = _place(occurrence, path, base, turns)
        groups.setdefault(place, []).append(occurrence)
        prefixes[place] = prefix
    # Calls in one method are numbered from top to bottom, as they are in the census of the model itself.
    numbered: defaultdict[str, list[tuple[int, object]]] = defaultdict(list)
    for place, prefix in prefixes.items():
        line = line_of(groups[place][0].result)
        numbered[prefix].append((0 if line is None else line.line, place))
    names: dict[object, str] = {}
    for prefix, places in numbered.items():
        for index, (_, place) in enumerate(sorted(places, key=lambda entry: entry[0])):
            names[place] = prefix if index == 0 else f"{prefix}#{index + 1}"
    for place, group in groups.items():
        yield names[place], group


def _place(occurrence: Occurrence, path: str, base: str, turns: Counter[tuple[str, str]]) -> tuple[object, str]:
    """Return what tells a place in the source from others, and its name up to a number."""
    assert occurrence.match is not None
    if occurrence.module is not None:
        name = join(base, occurrence.module.path)
        return ("module", name), name
    operator = occurrence.match.operator.name
    stack = stack_of(occurrence.result)
    if not stack:
        return occurrence, join(path, f"{occurrence.result.name}@{operator}")
    line = line_of(occurrence.result)
    owner = join(base, stack[-1].path) if stack[-1].path else base
    name = join(owner, f"{line.method if line else 'forward'}@{operator}")
    if line is not None:  # what runs twice there runs in a loop, or in a module that is called twice
        return ("line", name, line.file, line.line), name
    turns[stack[-1].call, name] += 1
    return ("turn", name, turns[stack[-1].call, name]), name


def _site(name: str, group: list[Occurrence], path: str, base: str) -> Site:
    first = group[0]
    assert first.match is not None
    operator = first.match.operator
    line = line_of(first.result)
    role, reason = operator.role, operator.reason
    basis = next((c for c in stack_of(first.result) if match_class(c.cls, "basis") is not None), None)
    if basis is not None and role == "activation":
        row = match_class(basis.cls, "basis")
        role, reason = "basis", f"part of {_class_path(basis.cls).rpartition('.')[2]}: {row.reason if row else ''}"
    return Site(
        name=name,
        role=role,
        operator=operator.name,
        how="node",
        place=NodePlace(
            path,
            first.result.name,
            _source_name(first),
            tuple((o.source.name, o.result.name) for o in group[1:]),
            "" if first.module is None else join(base, first.module.path),
        ),
        match=first.match.match,
        parameters=dict(first.match.parameters),
        file=line.file if line else None,
        line=line.line if line else None,
        runs=len(group),
        reason=reason,
        classes=() if first.module is None else (_class_path(first.module.cls),),
        overwritten=operator.role == "normalization" and any(_is_overwritten(o.result) for o in group),
    )


def _source_name(occurrence: Occurrence) -> str:
    node = occurrence.result
    alone = occurrence.nodes == (node,) and node.all_input_nodes[0] is occurrence.source
    return "" if alone else occurrence.source.name


def _class_path(cls: type | str) -> str:
    return cls if isinstance(cls, str) else f"{cls.__module__}.{cls.__qualname__}"


def _is_overwritten(node: fx.Node) -> bool:
    """Say whether a node's value, or a view of it, is written into by a node, or may be by a module."""
    return any(_overwrites(user, node) for user in node.users)


def _overwrites(user: fx.Node, node: fx.Node) -> bool:
    if user.op == "call_module":
        child = _child(user)
        return child is None or bool(getattr(child, "inplace", False))
    name = name_of(user) or getattr(user.target, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__") and user.args[:1] == (node,)
    return in_place or bool(user.kwargs.get("inplace")) or (name in _VIEWS and _is_overwritten(user))


_VIEWS = frozenset(
    [
        "alias",
        "chunk",
        "expand",
        "flatten",
        "getitem",
        "movedim",
        "narrow",
        "permute",
        "reshape",
        "select",
        "slice",
        "split",
        "squeeze",
        "swapaxes",
        "t",
        "transpose",
        "unbind",
        "unflatten",
        "unsqueeze",
        "view",
        "view_as",
    ]
)


def _child(node: fx.Node) -> nn.Module | None:
    owner = node.graph.owning_module
    try:
        return None if owner is None else owner.get_submodule(str(node.target))
    except AttributeError:
        return None
