"""Edit the graph of a GraphModule: all edits of one surgery together, compiled once."""

from __future__ import annotations

import copy
import itertools
import operator as operators
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from dcsurgery.activations import activation_by_name, irelu
from dcsurgery.calls import GatedLinear, is_inplace, pass_on
from dcsurgery.capture.nodes import NEW
from dcsurgery.capture.pointwise import name_of
from dcsurgery.compiling_later import compile_later
from dcsurgery.copying import without_torch_warnings
from dcsurgery.errors import Refused
from dcsurgery.exported import ProgramModule
from dcsurgery.exported.inlining import call_aten, inline_activation
from dcsurgery.sites import NodePlace
from dcsurgery.standins import InPlace
from dcsurgery.tree import join

__all__ = ["GraphSurgery"]

_COUNTER = "num_batches_tracked"


class GraphSurgery:
    """Edits one GraphModule; `finish` makes its code anew.

    Parameters
    ----------
    module
        The module.
    path
        Its path.
    program
        The module of the program that it belongs to, itself or the one of whose control flow it is a branch; None
        for any other GraphModule.
    undoable
        Whether the graph may be wanted back; its copy is most of the work of a large graph's surgery.
    """

    def __init__(
        self, module: fx.GraphModule, path: str, program: ProgramModule | None, *, undoable: bool = True
    ) -> None:
        self.module = module
        self._path = path
        self._program = program
        with without_torch_warnings():
            self._before = copy.deepcopy(module.graph) if undoable else None
        self._children = set(module._modules)
        self._numbers = itertools.count(sum(1 for name in self._children if name.startswith("dcs_activation_")))
        self._nodes = {node.name: node for node in module.graph.nodes}
        self._edited: dict[str, fx.Node] = {}
        self._attributes: defaultdict[str, list[fx.Node]] = defaultdict(list)
        for node in module.graph.nodes:
            if node.op == "get_attr":
                self._attributes[str(node.target)].append(node)
        self._forgotten: list[Callable[[], None]] = []

    def replace(self, place: NodePlace, operator: str, replacement: str | nn.Module) -> None:
        """``act(x) → replacement(x)`` at every run of a site."""
        key = ("node", place.owner, place.node)
        for source, node in self._runs(place):
            before = node.prev
            new = self._activation(node, source, operator, replacement, self._relative(place.module))
            inserted = list(_between(before, node))
            for added in inserted:
                added.meta[NEW] = (key, node.name)
            self._put(node, source, new, inserted)

    def delete(self, place: NodePlace, *, copied: bool) -> None:
        """``norm(x) → x`` at every run of a site, or a copy of ``x``; what it kept books on is no longer kept."""
        for source, node in self._runs(place):
            inside = _inside(node, source)
            new, inserted = source, []
            if copied:
                new = self._copy(node, source)
                inserted = [new]
            self._put(node, source, new, inserted, self._bookkeeping(inside))

    def finish(self, modules: list[str]) -> None:
        """Drop the tensors of modules that were edited as a whole, and compile."""
        for path in modules:
            self._forget(path)
        self.module.graph.lint()
        compile_later(self.module)

    def undo(self) -> None:
        """Give the module its graph, its tensors and its children back."""
        assert self._before is not None
        for again in reversed(self._forgotten):
            again()
        self.module.graph = self._before
        for child in set(self.module._modules) - self._children:
            del self.module._modules[child]

    # ----------------------------------------------------------------------------------------------------------------

    def _runs(self, place: NodePlace) -> Iterator[tuple[fx.Node, fx.Node]]:
        for source, name in ((place.source, place.node), *place.more):
            node = self._nodes.get(name)
            if node is None:
                raise Refused(f"its graph has no node {name!r}", where=self._path or "(model)", fix="plan again")
            if source and source not in self._nodes:
                raise Refused(f"its graph has no node {source!r}", where=self._path or "(model)", fix="plan again")
            inputs = node.all_input_nodes
            if not source and not inputs:
                raise Refused(f"its node {name!r} has no input", where=self._path or "(model)", fix="plan again")
            yield self._edited.get(source) or (self._nodes[source] if source else inputs[0]), node

    def _relative(self, path: str) -> str:
        """Return a module's path as the graph's own nodes say it; branches of control flow say it from the program."""
        prefix = f"{self._path}." if self._path and self._program is None else ""
        return path.removeprefix(prefix)

    def _activation(
        self, node: fx.Node, source: fx.Node, operator: str, replacement: str | nn.Module, whole: str
    ) -> fx.Node:
        inplace = _is_inplace(node)
        if self._program is not None:
            return self._inlined(node, source, operator, replacement, inplace, whole)
        with self.module.graph.inserting_before(node):
            if replacement == "irelu" and operator != "glu" and not inplace:
                return self.module.graph.call_function(irelu, (source,))
            new = copy.deepcopy(replacement) if isinstance(replacement, nn.Module) else activation_by_name(replacement)
            if operator == "glu":
                new = GatedLinear(new, _dimension(node))
            elif inplace:
                new = InPlace(new)
            name = f"dcs_activation_{next(self._numbers)}"
            self.module.add_module(name, new)
            return self.module.graph.call_module(name, (source,))

    def _inlined(
        self, node: fx.Node, source: fx.Node, operator: str, replacement: str | nn.Module, inplace: bool, whole: str
    ) -> fx.Node:
        assert self._program is not None
        aten, gate = torch.ops.aten, source
        if operator == "glu":
            halves = call_aten(self.module, aten.chunk.default, (source, 2, _dimension(node)), {}, node)
            source, gate = (call_aten(self.module, operators.getitem, (halves, index), {}, node) for index in (0, 1))
        elif inplace:
            gate = call_aten(self.module, aten.clone.default, (source,), {}, node)
        new = inline_activation(self.module, self._program, node, gate, replacement, whole)
        if operator == "glu":
            return call_aten(self.module, aten.mul.Tensor, (source, new), {}, node)
        return call_aten(self.module, aten.copy_.default, (source, new), {}, node) if inplace else new

    def _copy(self, node: fx.Node, source: fx.Node) -> fx.Node:
        if self._program is not None:
            copied = call_aten(self.module, torch.ops.aten.clone.default, (source,), {}, node)
            copied.meta.pop("nn_module_stack", None)  # it is no normalization
            return copied
        with self.module.graph.inserting_before(node):
            return self.module.graph.call_function(pass_on, (source, True))

    def _put(
        self,
        node: fx.Node,
        source: fx.Node,
        new: fx.Node,
        inserted: list[fx.Node],
        besides: tuple[fx.Node, ...] = (),
    ) -> None:
        """Let everybody use ``new`` instead of ``node``, and take out what nobody uses any more."""
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user not in inserted)
        self._edited[node.name] = new
        pending = [*besides, node]
        while pending:
            dead = pending.pop()
            if dead.users or dead is source or dead._erased or dead.op in ("placeholder", "get_attr", "output"):
                continue
            inputs = dead.all_input_nodes
            self.module.graph.erase_node(dead)
            pending += [n for n in inputs if not _has_effects(n)]

    def _bookkeeping(self, inside: list[fx.Node]) -> tuple[fx.Node, ...]:
        """Return the nodes that write what a normalization computes besides into its buffers, and that count batches."""
        buffers = {str(n.target) for node in inside for n in node.all_input_nodes if n.op == "get_attr"}
        counters = {join(target.rpartition(".")[0], _COUNTER) for target in buffers}
        written = [n for target in (*buffers, *counters) for n in self._attributes.get(target, ()) if not n._erased]
        return tuple(user for n in written for user in n.users if _has_effects(user) and user.args[0] is n)

    def _forget(self, path: str) -> None:
        """Delete the tensors of a module that no node uses any more."""
        try:
            holder = self.module.get_submodule(path)
        except AttributeError:
            return  # it had none
        for name, tensor in (*holder.named_parameters(), *holder.named_buffers()):
            target = join(path, name)
            nodes = [node for node in self._attributes.get(target, ()) if not node._erased]
            if any(node.users for node in nodes):
                continue
            for node in nodes:
                self.module.graph.erase_node(node)
            owner = self.module.get_submodule(target.rpartition(".")[0])
            self._forgotten.append(_without(owner, target.rpartition(".")[2], tensor))


def _without(owner: nn.Module, name: str, tensor: torch.Tensor) -> Callable[[], None]:
    table: dict[str, Any] = owner._parameters if name in owner._parameters else owner._buffers
    persistent = name not in owner._non_persistent_buffers_set
    position = list(table).index(name)
    del table[name]
    owner._non_persistent_buffers_set.discard(name)

    def undo() -> None:
        items = list(table.items())
        items.insert(position, (name, tensor))
        table.clear()
        table.update(items)
        if not persistent:
            owner._non_persistent_buffers_set.add(name)

    return undo


def _between(before: fx.Node, node: fx.Node) -> Iterator[fx.Node]:
    added = before.next
    while added is not node:
        yield added
        added = added.next


def _inside(node: fx.Node, source: fx.Node) -> list[fx.Node]:
    """Return the nodes through which a result is made of its source, the result first."""
    found: dict[fx.Node, None] = {}
    pending = [node]
    while pending:
        current = pending.pop()
        if current is not source and current not in found and current.op not in ("placeholder", "get_attr"):
            found[current] = None
            pending += current.all_input_nodes
    return list(found)


def _has_effects(node: fx.Node) -> bool:
    name = name_of(node)
    return name.endswith("_") and not name.endswith("__") and bool(node.args)


def _is_inplace(node: fx.Node) -> bool:
    keywords = {k: v for k, v in node.kwargs.items() if not isinstance(v, fx.Node)}
    target = getattr(torch.Tensor, str(node.target), None) if node.op == "call_method" else node.target
    return is_inplace(target, node.args, keywords) or _has_effects(node)


def _dimension(node: fx.Node) -> int:
    value: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else -1)
    return int(value)
