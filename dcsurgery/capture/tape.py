"""The fx graph of one module call that is being recorded: which tensor came from which node."""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from dcsurgery.capture.graphs import Key, outside
from dcsurgery.capture.origin import short_file, user_frame
from dcsurgery.source import code_key, instruction_end

__all__ = ["Tape", "is_tensor_method"]

_NOT_A_CALL = frozenset({"__get__", "__set__", "__delete__"})
_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.memory_format, slice, complex)


class Tape:
    """Builds the graph of one module.

    Parameters
    ----------
    path
        The module's path.
    parameters
        ``id(tensor)`` to name, of every parameter and buffer of the model.
    alive
        Tensors seen so far are put here: while they live, their ids stay unique.
    """

    def __init__(self, path: str, parameters: dict[int, str], alive: list[torch.Tensor]) -> None:
        self.graph = fx.Graph()
        self._prefix = f"{path}." if path else ""
        self._parameters = parameters
        self._alive = alive
        self._nodes: dict[int, Any] = {}  # id(tensor) -> node, or (node, path into its value)

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Make a placeholder for every tensor that the module is given."""
        for index, (path, leaf) in enumerate(pytree.tree_flatten_with_path((args, kwargs))[0]):
            if isinstance(leaf, torch.Tensor):
                node = self.graph.placeholder(f"input_{index}")
                node.meta["dcs_argument"] = tuple(_step(entry) for entry in path[1:])
                known = self._nodes.get(id(leaf))
                if known is None:
                    self._own(leaf, node)
                else:
                    node.meta["dcs_same"] = known.target

    def end(self, output: Any) -> None:
        """Close the graph."""
        self.graph.output(self._mapped(output))

    def module(self, target: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> fx.Node:
        """Add the call of a child."""
        node = self.graph.create_node("call_module", target, self._mapped(tuple(args)), self._mapped(kwargs))
        self.own_all(output, node)
        return node

    def compound(self, name: str, args: Any) -> fx.Node:
        """Add the call of a user's function whose doings are not shown one by one."""
        inputs = tuple(a for a in pytree.tree_leaves(self._mapped(args)) if isinstance(a, fx.Node))
        return self.graph.create_node("call_function", _marker(name), inputs, {})

    def call(
        self, func: Any, args: Any, kwargs: Any, result: Any, key: Key | None, frame: types.FrameType | None
    ) -> None:
        """Add the call of a torch function, unless it returned no tensor; ``frame`` is the caller's or further in."""
        if not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(result)):
            return
        name = getattr(func, "__name__", "")
        if name in _NOT_A_CALL:
            name = getattr(getattr(func, "__self__", None), "__name__", name)
            node = self.graph.create_node("call_function", getattr, (self._mapped(args[0]), name), {})
        elif is_tensor_method(func):
            node = self.graph.create_node("call_method", name, self._mapped(args), self._mapped(kwargs))
        else:
            node = self.graph.create_node(
                "call_function", func, self._mapped(args), self._mapped(kwargs), name=name or None
            )
        if key is not None:
            node.meta["dcs_key"] = key
        caller = user_frame(frame)
        if caller is not None:
            node.meta["dcs_line"] = (short_file(caller.f_code.co_filename), caller.f_lineno)
            step = code_key(caller.f_code)
            node.meta["dcs_call"] = (step.function, step.first_line, instruction_end(caller.f_code, caller.f_lasti))
        self.own_all(result, node)

    def own_all(self, value: Any, node: fx.Node) -> None:
        """Note that every tensor in a value came from a node."""
        if isinstance(value, torch.Tensor):
            node.meta["dcs_shape"] = tuple(value.shape)
            self._own(value, node)
            return
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            if isinstance(leaf, torch.Tensor):
                self._own(leaf, (node, path))

    def _own(self, tensor: torch.Tensor, node: Any) -> None:
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)

    def _mapped(self, value: Any) -> Any:
        """Return a value with nodes in place of tensors and names in place of what a graph cannot hold."""
        leaves, spec = pytree.tree_flatten(value)
        mapped = [self._node(leaf) if isinstance(leaf, torch.Tensor) else _constant(leaf) for leaf in leaves]
        try:
            return pytree.tree_unflatten(mapped, spec)
        except (TypeError, ValueError, AttributeError):  # a container that checks what it holds
            return tuple(mapped)

    def _node(self, tensor: torch.Tensor) -> fx.Node:
        known = self._nodes.get(id(tensor))
        if known is None:
            name = self._parameters.get(id(tensor))
            if name is not None:
                known = self.graph.create_node("get_attr", name.removeprefix(self._prefix))
            else:
                known = self.graph.create_node("call_function", outside, (f"a tensor {tuple(tensor.shape)}",), {})
            self._own(tensor, known)
        elif isinstance(known, tuple):
            node, path = known
            for entry in path:
                node = self.graph.create_node("call_function", _getitem, (node, _step(entry)), {})
            known = self._nodes[id(tensor)] = node
        result: fx.Node = known
        return result


def is_tensor_method(func: Any) -> bool:
    """Say whether a function is a method of `torch.Tensor`."""
    return isinstance(func, types.MethodDescriptorType | types.WrapperDescriptorType)


def _step(entry: Any) -> Any:
    """Return the index, key or attribute that one entry of a path into a value stands for."""
    return getattr(entry, "idx", getattr(entry, "key", getattr(entry, "name", None)))


def _getitem(value: Any, key: Any) -> Any:
    return value[key]


_getitem.__name__ = "getitem"


@functools.lru_cache(maxsize=256)
def _marker(name: str) -> Any:
    """Return a target that shows a user's function by name."""

    def marker(*_: Any) -> Any:
        return outside(name)

    marker.__name__ = marker.__qualname__ = name
    return marker


def _constant(value: Any) -> Any:
    return value if isinstance(value, _PLAIN) else getattr(value, "__name__", type(value).__name__)
