"""Sites of torch.fx GraphModules: there the graph itself is the code."""

from __future__ import annotations

from torch import fx, nn

from dcsurgery.capture.graphs import Key
from dcsurgery.capture.places import Places
from dcsurgery.capture.recording import Recording
from dcsurgery.catalog import Match, match_method
from dcsurgery.recognition import recognise
from dcsurgery.sites import NodePlace, Site
from dcsurgery.tree import join

__all__ = ["mark_nodes", "node_match", "node_sites"]


def node_match(node: fx.Node) -> Match | None:
    """Return what a call_function or call_method node is in the catalog's terms."""
    if node.op == "call_function":
        return recognise(node.target)
    if node.op == "call_method":
        operator = match_method(str(node.target))
        return None if operator is None else Match(operator, {}, "listed")
    return None


def mark_nodes(module: fx.GraphModule, path: str, places: Places) -> None:
    """Leave the site key on every node of a GraphModule that is a site."""
    for node in module.graph.nodes:
        key: Key | None = None
        if node.op == "call_module":
            child = _child(module, str(node.target))
            slots = places.slots_of(child) if child is not None and places.match_of(child) is not None else []
            wanted = join(path, str(node.target))
            named = [slot for slot in slots if slot.path == wanted] or slots
            key = places.slot_key(named[0]) if named else None
        elif node_match(node) is not None:
            key = ("node", path, node.name)
        if key is not None:
            node.meta["dcs_key"] = key


def _child(module: nn.Module, target: str) -> nn.Module | None:
    try:
        return module.get_submodule(target)
    except AttributeError:
        return None


def node_sites(places: Places, recording: Recording | None) -> list[Site]:
    """Return the sites that are nodes of GraphModules."""
    sites = []
    for path, module in places.tree.modules.items():
        if not isinstance(module, fx.GraphModule):
            continue
        mark_nodes(module, path, places)
        calls = None if recording is None else recording.calls[path]
        for node in module.graph.nodes:
            match = node_match(node)
            if match is not None:
                sites.append(
                    Site(
                        name=join(path, f"{node.name}@{match.operator.name}"),
                        role=match.operator.role,
                        operator=match.operator.name,
                        how="node",
                        place=NodePlace(path, node.name),
                        match=match.match,
                        parameters=dict(match.parameters),
                        runs=calls,
                        reason=match.operator.reason,
                    )
                )
    return sites
