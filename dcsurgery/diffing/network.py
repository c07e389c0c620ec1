"""One model as a network: its modules, the operators that their bodies apply, and which tensor goes where.

A *body* is what a module's own methods do, one torch.fx graph (see `dcsurgery.capture`). A node's parent is the module
that holds it: a child module stands where ``named_modules`` has it, an operator stands in the module that applies it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple

__all__ = ["ROOT", "Edge", "Kind", "Network", "Node"]

ROOT = "(model)"  # id of the node that is the model itself
Kind = Literal["module", "call", "operator", "input", "output"]


@dataclass(frozen=True)
class Node:
    """One node.

    Attributes
    ----------
    id
        A module's path (`ROOT` for the model), ``path::name`` for what stands in the body of the module at ``path``.
    kind
        ``module``; ``call`` (a further call of a module that stands elsewhere); ``operator``; ``input`` and ``output``
        of a body.
    label
        Class of a module, name of an operator.
    parent
        Id of the module that holds it; None for the model.
    path
        Module path: of a module its own, of a call that of the module which is called, otherwise that of the body.
    detail
        What else the operator is given: numbers, names of parameters.
    site, role, in_output_block
        Name and role of the site that it is, if it is one (see `Site`), and whether that is in an output block.
    file, line
        Where the operator is applied.
    shape
        Shape of the tensor that comes out, where it is known.
    parameters
        How many numbers a module's own parameters hold, children left out.
    tensors
        The module's own parameters and buffers with their shapes.
    method, reason
        How a module's body was captured (``symbolic``, ``recorded``, ``exact``, ``opaque``, ``not run``), and why it is
        not there; a ``leaf`` has none, a ``container`` (ModuleList) is never called.
    """

    id: str
    kind: Kind
    label: str
    parent: str | None = None
    path: str = ""
    detail: str = ""
    site: str = ""
    role: str = ""
    in_output_block: bool = False
    file: str | None = None
    line: int | None = None
    shape: tuple[int, ...] | None = None
    parameters: int = 0
    tensors: tuple[tuple[str, tuple[int, ...]], ...] = ()
    method: str = ""
    reason: str = ""

    @property
    def where(self) -> str:
        """``file:line``, or an empty string."""
        return f"{self.file}:{self.line}" if self.file else ""

    @property
    def name(self) -> str:
        """The last part of the path, or of what stands in a body."""
        if self.kind in ("module", "call"):
            return self.path.rpartition(".")[2] or "(model)"
        return self.id.rpartition("::")[2]


class Edge(NamedTuple):
    """``source``'s tensor goes into ``target`` as its ``position``-th tensor."""

    source: str
    target: str
    position: int


@dataclass
class Network:
    """A model.

    Attributes
    ----------
    model
        Class name.
    nodes
        By id, a module before what it holds.
    edges
        Within bodies: every edge connects two nodes of one body.
    flops
        Floating-point operations of the example run as `torch.utils.flop_counter` counts them; None if it was not run.
    code
        Class of a module to the source of its ``forward``.
    """

    model: str
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    flops: int | None = None
    code: dict[str, str] = field(default_factory=dict)
    _children: dict[str, list[str]] | None = field(default=None, repr=False, compare=False)

    def add(self, node: Node) -> Node:
        """Put a node in; its id must be new."""
        if node.id in self.nodes:
            raise KeyError(f"there is a node {node.id!r} already")
        self.nodes[node.id] = node
        self._children = None
        return node

    def children(self, id_: str) -> list[Node]:
        """Return what a module holds, in order."""
        if self._children is None:
            self._children = {}
            for node in self.nodes.values():
                if node.parent is not None:
                    self._children.setdefault(node.parent, []).append(node.id)
        return [self.nodes[child] for child in self._children.get(id_, ())]

    def order(self) -> None:
        """Put every module before what it holds."""
        ordered: dict[str, Node] = {}
        pending = [node.id for node in self.nodes.values() if node.parent is None]
        while pending:
            id_ = pending.pop()
            ordered[id_] = self.nodes[id_]
            pending += [child.id for child in reversed(self.children(id_))]
        self.nodes = ordered

    def ancestors(self, id_: str) -> Iterator[str]:
        """Yield the modules that hold a node, the nearest first."""
        parent = self.nodes[id_].parent
        while parent is not None:
            yield parent
            parent = self.nodes[parent].parent

    def sources(self) -> dict[str, list[str]]:
        """Return each node's inputs, by position."""
        found: dict[str, list[tuple[int, str]]] = {}
        for source, target, position in self.edges:
            found.setdefault(target, []).append((position, source))
        return {target: [source for _, source in sorted(items)] for target, items in found.items()}

    @property
    def operators(self) -> Counter[str]:
        """How often each operator and each module without a body is applied."""
        holders = {node.parent for node in self.nodes.values()}
        applied = (
            node.label
            for node in self.nodes.values()
            if node.kind in ("operator", "call") or (node.kind == "module" and node.id not in holders)
        )
        return Counter(applied)

    @property
    def parameters(self) -> int:
        """How many numbers all parameters hold."""
        return sum(node.parameters for node in self.nodes.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the network as plain JSON types; `from_dict` reads it back."""
        defaults = {f.name: f.default for f in fields(Node)}
        nodes = []
        for node in self.nodes.values():
            entry = {k: v for k, v in asdict(node).items() if v is not None and v != defaults.get(k, ...)}
            nodes.append(entry)
        edges = [list(edge) for edge in self.edges]
        return {"model": self.model, "flops": self.flops, "code": self.code, "nodes": nodes, "edges": edges}

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Network:
        """Read what `to_dict` wrote.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is something else.
        """
        network = Network(str(raw["model"]), flops=raw.get("flops"), code=dict(raw.get("code", {})))
        for entry in raw["nodes"]:
            tensors = tuple((str(name), tuple(shape)) for name, shape in entry.get("tensors", ()))
            shape = tuple(entry["shape"]) if entry.get("shape") is not None else None
            network.add(Node(**{**entry, "tensors": tensors, "shape": shape}))
        network.edges = [Edge(str(s), str(t), int(p)) for s, t, p in raw["edges"]]
        return network
