"""Captured graphs: one torch.fx graph per module whose own methods do tensor work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import fx

from dcsurgery.activations import irelu
from dcsurgery.calls import apply_activation, gate, pass_on, replace_in_place
from dcsurgery.sites import CallStep

__all__ = [
    "REPLACED",
    "CaptureMethod",
    "Key",
    "ModuleGraph",
    "call_key",
    "graph_lines",
    "key_of",
    "outside",
    "same_inputs",
]

CaptureMethod = Literal["symbolic", "recorded", "exact", "opaque"]
# Identifies a site inside one capture: ("module", owner, slot), ("attribute", owner, name),
# ("call", owner, function, first line, end[, span]) or ("fused", owner, what) or ("node", owner, node).
Key = tuple[Any, ...]
_SLOTS = ("module", "attribute")
# What an edited call runs, and what stands there in a plan.
REPLACED = frozenset({replace_in_place, apply_activation, gate})
_EDITED = {irelu: "=> new", pass_on: "", **dict.fromkeys(REPLACED, "=> new")}


@dataclass(frozen=True)
class ModuleGraph:
    """One module's captured graph.

    Attributes
    ----------
    path, aliases
        The module's paths.
    class_name
        Its class.
    graph
        The torch.fx graph, children as leaves; None where the module is opaque.
    method
        ``symbolic`` (traced, and a re-run on the recorded inputs gave the same bits), ``recorded`` (what one run
        did), ``exact`` (the module is a GraphModule) or ``opaque``.
    proven
        True when the graph was compared with a run.
    reason
        Why a better method failed: exception, and file:line where there is one.
    """

    path: str
    class_name: str
    graph: fx.Graph | None
    method: CaptureMethod
    proven: bool
    reason: str = ""
    aliases: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        nodes = 0 if self.graph is None else len(self.graph.nodes)
        proof = "proven" if self.proven else "unproven"
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.path or '(model)'}: {self.class_name}, {self.method}, {proof}, {nodes} nodes{reason}"


def outside(description: str) -> torch.Tensor:
    """Stand for a tensor that no recorded operator made (numpy, autograd.grad, TorchScript, a global)."""
    raise RuntimeError(f"a recorded graph cannot make {description}; it is for reading, not for running")


def key_of(node: fx.Node) -> Key | None:
    """Return the site key that capture left on a node."""
    key: Key | None = node.meta.get("dcs_key")
    return key


def call_key(owner: str, step: CallStep) -> Key:
    """Return the key of a call, or of an activation that is written out and may end where a call in it ends."""
    return ("call", owner, step.function, step.first_line, step.end, *step.written[:1])


def _name(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _inputs(node: fx.Node) -> list[fx.Node]:
    """Return the nodes among a node's arguments, one that is given twice twice."""
    found: list[fx.Node] = []

    def note(source: fx.Node) -> fx.Node:
        found.append(source)
        return source

    fx.map_arg((node.args, node.kwargs), note)
    return found


def same_inputs(graph: fx.Graph) -> dict[str, str]:
    """Return the inputs that were the very tensor of an earlier input in the recorded run: name to that one's name."""
    return {str(node.target): node.meta["dcs_same"] for node in graph.nodes if "dcs_same" in node.meta}


def graph_lines(
    graph: fx.Graph, changes: dict[Key, str] | None = None, path: str = "", same: dict[str, str] | None = None
) -> list[str]:
    """Return a graph as comparable lines: operator and where its inputs come from, names left out.

    Parameters
    ----------
    graph
        A graph before or after an edit.
    changes
        Site keys to what stands there after the edit; ``""`` means the site passes its input on.
    path
        Path of the graph's module: a slot is recognised by it when the new module is no site any more.
    same
        Inputs that count as another one, see `same_inputs`: without the norm between them, two may be one tensor.
    """
    changes = changes or {}
    slots = {f"{key[1]}.{key[2]}".lstrip("."): label for key, label in changes.items() if key[0] in _SLOTS}
    calls = {(key[2], key[3], key[4]) for key in changes if key[0] == "call" and key[1] == path}
    number: dict[fx.Node, str] = {}
    named: dict[str, str] = {}
    lines: list[str] = []
    for node in graph.nodes:
        if node.op == "placeholder" and (same or {}).get(str(node.target)) in named:
            number[node] = named[str(node.target)] = named[(same or {})[str(node.target)]]
            continue
        if node.meta.get("dcs_call") in calls and key_of(node) is None and node.target not in _EDITED:
            continue  # an edited norm's own doings, like counting batches
        change = changes.get(key_of(node) or ())
        if change is None and node.op == "call_module" and key_of(node) is None:
            paths = node.meta.get("dcs_paths", (f"{path}.{node.target}".lstrip("."),))
            change = next((slots[p] for p in paths if p in slots), None)
        if change is None and "dcs_new" in node.meta:
            change = "=> new"
        if change is None and node.op == "call_function":
            change = _EDITED.get(node.target)
        if change == "":
            source = next(iter(node.all_input_nodes), None)
            number[node] = number.get(source, "?") if source is not None else "?"
            continue
        if node.op == "get_attr" or node.target is outside:
            # Shown where it is used: a deleted norm takes its tensors along.
            number[node] = _name(node.target)
            continue
        inputs = _inputs(node) if change is None else _inputs(node)[:1]
        arguments = ", ".join(number.get(source, "?") for source in inputs)
        number[node] = f"%{len(lines)}"
        if node.op == "placeholder":
            named[str(node.target)] = number[node]
        lines.append(f"{number[node]} = {change or f'{node.op} {_name(node.target)}'}({arguments})")
    return lines
