"""Turn a captured model into a `Network`."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from dcsurgery.activations import irelu
from dcsurgery.calls import pass_on
from dcsurgery.capture.graphs import REPLACED, Key, ModuleGraph, key_of
from dcsurgery.capture.origin import short_file
from dcsurgery.capture.places import Places
from dcsurgery.census import Census, site_key
from dcsurgery.diffing.arguments import argument_name, parameters_of
from dcsurgery.diffing.compounds import Compound, compounds_in
from dcsurgery.diffing.network import ROOT, Edge, Network, Node
from dcsurgery.example_inputs import call, preserved
from dcsurgery.paths import PathSet, lineage
from dcsurgery.recurrent import UnfuseRecurrent
from dcsurgery.seeding import seeded
from dcsurgery.sites import Site
from dcsurgery.standins import DeletedNorm
from dcsurgery.subclass import amendments_of, original_class
from dcsurgery.tree import Tree, join

__all__ = ["Drawn", "draw", "is_stand_in", "label_of"]

_OURS = ("dcsurgery.activations", "dcsurgery.standins", "dcsurgery.calls")
_LONG = 60  # characters of an argument
_LONG_CODE = 8000


@dataclass
class Drawn:
    """A network, and what only the live model knows.

    Attributes
    ----------
    network
        The network.
    keys
        Node id to the key of its site, also where an edit stands at the site now.
    edited
        Ids of operators that an edit put in.
    model, tree, aliases
        The live model, its module tree, and the canonical path of every path.
    """

    network: Network
    keys: dict[str, Key]
    edited: frozenset[str]
    model: nn.Module
    tree: Tree
    aliases: dict[str, str] = field(default_factory=dict)


def is_stand_in(value: Any) -> bool:
    """Say whether a module is one that an edit puts in: an activation, or what is left of a norm."""
    return isinstance(value, nn.Module) and type(value).__module__.startswith(_OURS)


def label_of(value: Any) -> str:
    """Return the class of a module as its author named it, or the name of a function; of a stand-in what it holds."""
    if isinstance(value, nn.Module):
        inner = getattr(value, "activation", None) if is_stand_in(value) else None
        # A GraphModule's class is made for the one instance, and another one for its copy.
        name = "GraphModule" if isinstance(value, fx.GraphModule) else _class_name(original_class(value))
        if inner is None:
            return name
        return label_of(inner) if name in ("InPlace", "ReplacedActivation") else f"{name}({label_of(inner)})"
    inner = getattr(value, "func", value)
    return str(getattr(inner, "__name__", type(value).__name__))


def _class_name(cls: type) -> str:
    """Return a class's name; TorchScript numbers those that it has seen before, and in every archive anew."""
    return str(getattr(cls, "__torchscript_class__", cls.__name__)).rpartition(".")[2]


def draw(model: nn.Module, census: Census, example_inputs: Any = None, closed: Collection[str] = ()) -> Drawn:
    """Draw a model.

    Parameters
    ----------
    model
        The model that the census was taken of, as `dcsurgery.models.as_module` returned it.
    census
        Its sites and captures.
    example_inputs
        What the census was taken with: the model is run once more to count floating-point operations.
    closed
        Paths of modules whose bodies are not drawn.
    """
    return _Drawing(model, census, closed).draw(example_inputs)


class _Drawing:
    def __init__(self, model: nn.Module, census: Census, closed: Collection[str]) -> None:
        self._model = model
        self._closed = closed
        self._census = census
        self._places = Places(model)
        self._tree = self._places.tree
        self._canonical = {p: paths[0] for paths in self._tree.paths.values() for p in paths}
        self._sites: dict[Key, Site] = {site_key(site.place): site for site in census}
        self._network = Network(label_of(model))
        self._keys: dict[str, Key] = {}
        self._called: set[str] = set()
        self._edited: set[str] = set()
        matched = (path for path, module in self._tree.modules.items() if self._places.match_of(module) is not None)
        ours = (path for path, module in self._tree.modules.items() if is_stand_in(module))
        self._whole = PathSet([*matched, *ours])  # shown as one thing each
        self._owners: dict[str, str] = {}
        for slot in self._tree.slots:
            if isinstance(slot.value, nn.Module):
                self._owners.setdefault(slot.path, slot.owner)

    def draw(self, example_inputs: Any) -> Drawn:
        captures = {capture.path: capture for capture in self._census.captures}
        shown = [path for path in self._tree.modules if not self._is_hidden(path)]
        for path in shown:
            self._module(path, captures.get(path))
        for path in shown:
            capture = captures.get(path)
            if capture is not None and capture.graph is not None and self._has_body(path):
                self._body(capture)
        if example_inputs is not None:
            self._network.flops = _flops(self._model, example_inputs)
        self._network.order()
        return Drawn(self._network, self._keys, frozenset(self._edited), self._model, self._tree, self._canonical)

    # -- modules -------------------------------------------------------------------------------------------------------

    def _is_hidden(self, path: str) -> bool:
        """Say whether a module lies inside one that is shown as a whole, or passes its input on."""
        return isinstance(self._tree.modules[path], DeletedNorm) or self._whole.is_above(path)

    def _has_body(self, path: str) -> bool:
        module = self._tree.modules[path]
        opened = any(isinstance(amendment, UnfuseRecurrent) for amendment in amendments_of(module))
        return (
            not opened
            and path not in self._closed
            and not self._whole.covers(path)
            and not self._places.is_leaf(module)
        )

    def _module(self, path: str, capture: ModuleGraph | None) -> None:
        module = self._tree.modules[path]
        tensors = {n: t for n, t in (*module._parameters.items(), *module._buffers.items()) if t is not None}
        code = getattr(original_class(module).forward, "__code__", None)
        if self._has_body(path):
            self._network.code.setdefault(label_of(module), _source(module))
        owner = self._owners.get(path)
        key = next((self._places.slot_key(slot) for slot in self._places.slots_of(module)), None)
        site = self._sites.get(key) if key is not None else None
        if key is not None and (site is not None or is_stand_in(module)):
            self._keys[_id(path)] = key
        self._network.add(
            Node(
                id=_id(path),
                kind="module",
                label=label_of(module),
                parent=None if path == "" else _id(owner or ""),
                path=path,
                detail=_settings(module) if not self._has_body(path) else "",
                file=None if code is None else short_file(code.co_filename),
                line=None if code is None else code.co_firstlineno,
                parameters=sum(p.numel() for p in module._parameters.values() if p is not None),
                tensors=tuple((name, tuple(tensor.shape)) for name, tensor in tensors.items()),
                **self._captured(path, capture),
                **_of_site(site),
            )
        )

    def _captured(self, path: str, capture: ModuleGraph | None) -> dict[str, Any]:
        if isinstance(self._tree.modules[path], nn.ModuleList | nn.ModuleDict):
            return {"method": "container"}
        if capture is None or not self._has_body(path):
            return {"method": "leaf"}
        if capture.graph is None and self._census.inputs_given:
            return {"method": "not run", "reason": "it did not run on the example inputs"}
        return {"method": capture.method, "reason": capture.reason if capture.graph is None else ""}

    # -- bodies --------------------------------------------------------------------------------------------------------

    def _body(self, capture: ModuleGraph) -> None:
        assert capture.graph is not None
        ids: dict[fx.Node, str | None] = {}  # None: a parameter, shown where it is used
        compounds = compounds_in(capture.graph, capture.path, self._sites, exact=capture.method == "exact")
        drawn: dict[Compound, str] = {}
        unused = _unused(capture.graph)
        names, rest = parameters_of(self._tree.modules[capture.path])
        for node in capture.graph.nodes:
            if node in unused:
                continue
            inputs = [ids[source] for source in _inputs(node)]
            tensors = [source for source in inputs if source is not None]
            compound = compounds.get(node)
            if node.op == "get_attr":
                ids[node] = None
            elif self._passes_on(capture.path, node):
                ids[node] = tensors[0] if tensors else None
            elif compound in drawn:  # it is one node, whatever it is made of
                ids[node] = drawn[compound]
            else:
                id_ = ids[node] = self._node(capture.path, node)
                if node.op == "placeholder":
                    called = argument_name(node, names, rest)
                    self._network.nodes[id_] = replace(self._network.nodes[id_], label=called)
                if compound is not None:
                    drawn[compound] = id_
                    self._complete(compound, id_)
                self._network.edges += [Edge(source, id_, position) for position, source in enumerate(tensors)]

    def _complete(self, compound: Compound, id_: str) -> None:
        """Give the node of a compound its name, and the site that it is."""
        node = replace(self._network.nodes[id_], label=compound.name, detail="", shape=_shape(compound.result))
        if compound.key is not None:
            self._keys[id_] = compound.key
            node = replace(node, **_of_site(self._sites.get(compound.key)))
        if compound.edited:
            self._edited.add(id_)
        self._network.nodes[id_] = node

    def _passes_on(self, path: str, node: fx.Node) -> bool:
        if node.op == "call_module":
            return isinstance(self._tree.modules.get(self._called_path(path, node) or ""), DeletedNorm)
        return node.op == "call_function" and node.target is pass_on

    def _called_path(self, path: str, node: fx.Node) -> str | None:
        """Return the canonical path of the module that a node calls."""
        key = key_of(node)
        named = [join(str(key[1]), str(key[2]))] if key is not None and key[0] in ("module", "attribute") else []
        for candidate in (join(path, str(node.target)), *named, *node.meta.get("dcs_paths", ()), str(node.target)):
            if candidate in self._canonical:
                return self._canonical[candidate]
        return None

    def _owner_inside(self, path: str, called: str) -> str | None:
        """Return the module at or below ``path`` that holds a called one, under any of its paths; None if none does."""
        for alias in self._tree.paths[id(self._tree.modules[called])]:
            if path == "" or alias.startswith((f"{path}.", f"{path}[")):
                owner = next(
                    part for part in (*reversed(list(lineage(alias))), "") if part != alias and part in self._canonical
                )
                return self._canonical[owner]
        return None

    def _node(self, path: str, node: fx.Node) -> str:
        key = key_of(node)
        called = self._called_path(path, node) if node.op == "call_module" else None
        if called is not None:
            owner = self._owner_inside(path, called)
            if owner is not None and called not in self._called and _id(called) in self._network.nodes:
                self._called.add(called)
                self._network.nodes[_id(called)] = replace(self._network.nodes[_id(called)], parent=_id(owner))
                if key is not None:
                    self._keys[_id(called)] = key
                self._network.nodes[_id(called)] = _with_shape(self._network.nodes[_id(called)], _shape(node))
                return _id(called)
        kinds = {"placeholder": "input", "output": "output"}
        file, line = node.meta.get("dcs_line", (None, None))
        made = Node(
            id=f"{path}::{node.name}",
            kind="call" if called is not None else kinds.get(node.op, "operator"),  # type: ignore[arg-type]
            label=label_of(self._tree.modules[called]) if called is not None else _label(node),
            parent=_id(path),
            path=called if called is not None else path,
            detail=_detail(node) if node.op.startswith("call_") else "",
            file=file,
            line=line,
            shape=_shape(node),
            **_of_site(self._sites.get(key) if key is not None else None),
        )
        if called is not None and key is None and is_stand_in(self._tree.modules[called]):
            key = next(
                (self._places.slot_key(slot) for slot in self._places.slots_of(self._tree.modules[called])), None
            )
        if node.op == "call_function" and (node.target is irelu or node.target in REPLACED):
            self._edited.add(made.id)
            if "dcs_call" in node.meta:  # an edited call stands where the site's call stood
                key = ("call", path, *node.meta["dcs_call"])
        if key is not None:
            self._keys[made.id] = key
        return self._network.add(made).id


def _id(path: str) -> str:
    return path or ROOT


def _of_site(site: Site | None) -> dict[str, Any]:
    return {} if site is None else {"site": site.name, "role": site.role, "in_output_block": site.in_output_block}


def _with_shape(node: Node, shape: tuple[int, ...] | None) -> Node:
    return node if shape is None else replace(node, shape=shape)


def _inputs(node: fx.Node) -> list[fx.Node]:
    """Return a node's inputs in the order of its arguments, one that is given twice twice."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    return found


def _unused(graph: fx.Graph) -> set[fx.Node]:
    """Return what an edited call asked about its argument while it was traced: attributes that nothing reads."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "call_function" and node.target is getattr and all(user in found for user in node.users):
            found.add(node)
    return found


def _label(node: fx.Node) -> str:
    if node.op in ("placeholder", "output", "call_module"):
        return str(node.target)
    if isinstance(node.target, str):
        return node.target
    if node.target in REPLACED:
        return str(node.args[1]) if isinstance(node.args[1], str) else label_of(node.args[1])
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target).removeprefix("aten.").removesuffix(".default")
    return label_of(node.target)


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    if "dcs_shape" in node.meta:
        return tuple(node.meta["dcs_shape"])
    value = node.meta.get("val", node.meta.get("tensor_meta"))
    shape = getattr(value, "shape", None)
    try:
        return None if shape is None else tuple(int(n) for n in shape)
    except Exception:  # noqa: BLE001 - a symbolic size may refuse to be a number in several ways
        return None


def _detail(node: fx.Node) -> str:
    """Return what an operator is given besides tensors that other operators made."""

    def told(value: Any) -> str | None:
        if isinstance(value, fx.Node):
            return str(value.target) if value.op == "get_attr" else None
        if isinstance(value, tuple | list):
            inner = [text for text in map(told, value) if text is not None]
            return f"[{', '.join(inner)}]" if inner or not value else None
        text = str(value) if not callable(value) else label_of(value)
        return text if len(text) <= _LONG else f"{text[:_LONG]}…"

    if node.op == "call_function" and node.target in REPLACED:
        return ""
    parts = [text for text in map(told, node.args) if text is not None]
    parts += [f"{name}={text}" for name, text in ((n, told(v)) for n, v in node.kwargs.items()) if text is not None]
    return ", ".join(parts)


def _source(module: nn.Module) -> str:
    """Return the source of a module's ``forward``, of a GraphModule its graph's code; empty where there is none."""
    if isinstance(module, fx.GraphModule):
        text = module.code.strip()
    else:
        try:
            text = textwrap.dedent(inspect.getsource(original_class(module).forward)).strip()
        except (OSError, TypeError):
            return ""
    return text if len(text) <= _LONG_CODE else f"{text[:_LONG_CODE]}\n…"


def _settings(module: nn.Module) -> str:
    try:
        text = module.extra_repr()
    except Exception:  # noqa: BLE001 - a user's own code
        return ""
    return " ".join(text.split())


def _flops(model: nn.Module, example_inputs: Any) -> int | None:
    counter = FlopCounterMode(display=False)
    try:
        with preserved(model), seeded(), counter:
            call(model, example_inputs)
    except Exception:  # noqa: BLE001 - the counter knows few operators' shapes; a figure less is no failure
        return None
    return int(counter.get_total_flops())
