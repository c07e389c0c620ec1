"""A diff for other programs: networkx, DOT, GraphML, and the graph and mapping files of Google's model-explorer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import graphviz
import networkx as nx

from dcsurgery.diffing.diff import Diff
from dcsurgery.diffing.display import display
from dcsurgery.diffing.marks import PLAIN, STATES
from dcsurgery.diffing.network import ROOT, Network, Node
from dcsurgery.diffing.panels import tooltip
from dcsurgery.diffing.union import unite

__all__ = ["to_dot", "to_graphml", "to_model_explorer", "to_networkx"]


def to_networkx(diff: Diff) -> nx.MultiDiGraph[str]:
    """Return both models as one graph.

    Returns
    -------
    networkx.MultiDiGraph
        Nodes by id (what is only after has a ``+`` before it) with ``label_before``, ``label_after``, ``state``,
        ``parent``, ``kind`` and what else a `Node` says; edges with ``position`` and ``side`` (``both``, ``before``,
        ``after``). The graph's own attributes are the models' names and the summary.
    """
    union = unite(diff)
    graph: nx.MultiDiGraph[str] = nx.MultiDiGraph(
        before=diff.before.model, after=diff.after.model, summary=diff.summary
    )
    for both in union.nodes.values():
        node = both.any
        graph.add_node(
            both.id,
            label_before=both.before.label if both.before is not None else "",
            label_after=both.after.label if both.after is not None else "",
            state=both.state,
            change=str(both.change) if both.change is not None else "",
            parent=both.parent or "",
            kind=node.kind,
            path=node.path,
            detail=node.detail,
            site=node.site,
            role=node.role,
            in_output_block=node.in_output_block,
            where=node.where,
            shape=str(list(node.shape)) if node.shape is not None else "",
            parameters=node.parameters,
        )
    sides: dict[tuple[str, str, int], str] = {}
    for side, sources in enumerate(union.sources):
        for target, given in sources.items():
            for position, source in enumerate(given):
                edge = (source, target, position)
                sides[edge] = "both" if edge in sides else ("before", "after")[side]
    for (source, target, position), side_name in sides.items():
        graph.add_edge(source, target, position=position, side=side_name)
    return graph


def to_graphml(diff: Diff) -> str:
    """Return `to_networkx`'s graph as GraphML."""
    return "\n".join(nx.generate_graphml(to_networkx(diff)))


def to_dot(diff: Diff, *, depth: int | None = None, only_changes: bool = False, full: bool = False) -> str:
    """Return what the SVG shows, as one graph in graphviz's language; parameters as in `display`."""
    union = unite(diff)
    shown = display(union, depth=depth, only_changes=only_changes, full=full)
    graph = graphviz.Digraph("diff", graph_attr={"label": diff.summary, "labelloc": "t", "fontname": "Helvetica"})
    graph.attr("node", shape="box", fontname="Helvetica", fontsize="11")
    names = {id_: f"n{number}" for number, id_ in enumerate(shown.boxes)}

    def fill(body: graphviz.Digraph, id_: str) -> None:
        for box in shown.boxes.values():
            if box.frame == id_:
                before, after = box.labels
                label = before if before == after else " => ".join(text for text in (before, after) if text)
                mark = STATES.get(box.state, PLAIN)
                text = f"{mark.sign} {label}".strip()
                body.node(
                    names[box.id],
                    graphviz.escape(text),
                    color=mark.color,
                    fillcolor=mark.fill,
                    style=f"filled,{mark.style}",
                    tooltip=graphviz.escape(tooltip(union.nodes[box.id].any)),
                )
        for number, frame in enumerate(shown.frames.values()):
            if frame.frame == id_:
                with body.subgraph(name=f"cluster_{number}") as cluster:
                    cluster.attr(label=graphviz.escape(frame.labels[0] or frame.labels[1] or ""), color="#c5ccd3")
                    fill(cluster, frame.id)

    fill(graph, ROOT)
    for (source, target), sides in shown.arrows.items():
        state = "same" if len(sides) > 1 else ("deleted", "inserted")[min(sides)]
        mark = STATES.get(state, PLAIN)
        graph.edge(names[source], names[target], color=mark.color, style=mark.style)
    return str(graph.source)


def to_model_explorer(diff: Diff) -> dict[str, str]:
    """Return files that model-explorer opens.

    Returns
    -------
    dict
        File name to JSON text: ``before.json`` and ``after.json`` are graph collections, ``mapping.json`` is the
        synchronized-navigation file that ties their nodes together and highlights what is only in one.
    """
    files = {}
    for name, network in (("before", diff.before), ("after", diff.after)):
        collection = {"label": f"{name}: {network.model}", "graphs": [{"id": name, "nodes": list(_nodes(network))}]}
        files[f"{name}.json"] = json.dumps({"graphCollections": [collection]}, indent=1, ensure_ascii=False)
    drawn = [{n["id"] for n in _nodes(network)} for network in (diff.before, diff.after)]
    pairs = {old: new for old, new in diff.pairs.items() if old in drawn[0] and new in drawn[1]}
    mapping = {
        "mapping": pairs,
        "disableMappingFallback": True,  # an equal id alone makes no pair
        "showDiffHighlights": True,
        "deletedNodesBorderColor": STATES["deleted"].color,
        "newNodesBorderColor": STATES["inserted"].color,
    }
    files["mapping.json"] = json.dumps(mapping, indent=1, ensure_ascii=False)
    return files


def _nodes(network: Network) -> Iterator[dict[str, Any]]:
    """Yield model-explorer's nodes: it knows layers by a path of names, and nodes with inputs only."""
    holders = {node.parent for node in network.nodes.values()}
    sources = network.sources()

    def ends(id_: str, seen: frozenset[str] = frozenset()) -> Iterator[str]:
        """Yield the nodes that a tensor comes from: of a module with a body, what its output gets."""
        node = network.nodes[id_]
        if id_ in seen:
            return
        if node.kind == "module" and id_ in holders:
            for child in network.children(id_):
                if child.kind == "output":
                    for source in sources.get(child.id, ()):
                        yield from ends(source, seen | {id_})
        else:
            yield id_

    for node in network.nodes.values():
        if node.kind == "module" and node.id in holders:
            continue
        given = sources.get(node.id, [])
        if node.kind == "input" and node.parent not in (None, ROOT):
            ports = [child.id for child in network.children(str(node.parent)) if child.kind == "input"]
            outer = sources.get(str(node.parent), [])
            given = outer[ports.index(node.id) :][:1]
        edges = [
            {"sourceNodeId": source, "sourceNodeOutputId": "0", "targetNodeInputId": str(position)}
            for position, first in enumerate(given)
            for source in ends(first)
        ]
        yield {
            "id": node.id,
            "label": node.label,
            "namespace": _namespace(network, node),
            "incomingEdges": edges,
            "attrs": [{"key": key, "value": value} for key, value in _attributes(node)],
        }


def _namespace(network: Network, node: Node) -> str:
    names = [network.nodes[id_].name for id_ in network.ancestors(node.id) if id_ != ROOT]
    return "/".join(name.replace("/", "_") for name in reversed(names))


def _attributes(node: Node) -> Iterator[tuple[str, str]]:
    for key in ("path", "detail", "site", "role", "where", "method"):
        value = str(getattr(node, key))
        if value:
            yield key, value
    if node.shape is not None:
        yield "shape", str(list(node.shape))
