"""An activation as ATen nodes in a program's graph, with the values that a program's nodes must know about themselves."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import fx, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from dcsurgery.activations import activation_by_name
from dcsurgery.errors import Refused
from dcsurgery.exported.modules import ProgramModule, frame_of
from dcsurgery.subclass import original_class

__all__ = ["call_aten", "inline_activation", "read_attribute"]

_COPIED = ("nn_module_stack", "stack_trace", "torch_fn", "custom")


def inline_activation(
    module: fx.GraphModule,
    program: ProgramModule,
    old: fx.Node,
    source: fx.Node,
    activation: str | nn.Module,
    whole: str = "",
) -> fx.Node:
    """Put ``activation(source)`` before the node that it replaces, as ATen nodes; return the last one.

    An activation with parameters or buffers brings them along, as ``dcs_activation_0.weight`` and so on.

    Parameters
    ----------
    module
        The module whose graph has the node: the program's, or a branch of its control flow.
    program
        The program's module.
    old, source
        The node to be replaced, and the one that the activation is applied to.
    activation
        A name, or a module, which is copied.
    whole
        Path of the module in whose place the activation stands, if it stands in a module's.

    Raises
    ------
    Refused
        If the activation cannot be traced, or what it does depends on its input's shape or values.
    """
    value = _value(source)
    owned = isinstance(activation, nn.Module)
    fresh = copy.deepcopy(activation) if isinstance(activation, nn.Module) else activation_by_name(activation)
    training = frame_of(program).verifiers[0].dialect == "TRAINING"
    # A named activation has neither parameters nor settings that could change, so that one trace does for all sites.
    traced = _traced(fresh, value.dtype, training) if owned else _traced_by_name(str(activation), value.dtype, training)
    held: dict[str, fx.Node] = {}
    tensors = {**dict(fresh.named_parameters()), **dict(fresh.named_buffers())}
    if tensors and module is not program:
        raise Refused(
            f"{type(fresh).__name__} has parameters or buffers, and a branch of a program's control flow can hold none",
            where=old.name,
            fix="use an activation without parameters, or exclude the site",
        )
    if tensors:
        number = sum(1 for name, _ in module.named_children() if name.startswith("dcs_activation_"))
        module.add_module(f"dcs_activation_{number}", fresh.to(device=value.device))
        for name in tensors:
            held[name] = read_attribute(module, f"dcs_activation_{number}.{name}", old)
    placeholders = traced.graph.find_nodes(op="placeholder")
    new: dict[fx.Node, fx.Node] = dict(zip(placeholders, (source, *held.values()), strict=True))
    stack = _stack(old, fresh, whole)
    result: fx.Node | None = None
    for node in traced.graph.nodes:
        if node.op == "call_function":
            args = map_arg(node.args, new.__getitem__)
            kwargs = {k: value.device if k == "device" else v for k, v in node.kwargs.items()}
            new[node] = result = call_aten(module, node.target, args, map_arg(kwargs, new.__getitem__), old)
            result.meta["nn_module_stack"] = stack
    if result is None:
        raise Refused(f"{type(fresh).__name__} computes nothing", fix="choose another activation")
    returned = traced.graph.output_node().args[0]
    return new[returned]  # type: ignore[index]


def call_aten(module: fx.GraphModule, target: Any, args: Any, kwargs: Any, like: fx.Node) -> fx.Node:
    """Add the call of an ATen operator before a node, from whose place in the model it is taken to come."""
    with module.graph.inserting_before(like):
        node = module.graph.call_function(target, args, kwargs)
    node.meta.update({name: like.meta[name] for name in _COPIED if name in like.meta})
    values = map_arg((args, kwargs), _value)
    fake = next((v.fake_mode for v in torch.utils._pytree.tree_leaves(values) if hasattr(v, "fake_mode")), None)
    if fake is None:
        raise Refused(f"the program's node {like.name!r} does not know its shape", fix="export the model again")
    with fake:
        node.meta["val"] = target(*values[0], **values[1])
    return node


def read_attribute(module: fx.GraphModule, target: str, like: fx.Node) -> fx.Node:
    """Add a node that fetches a tensor of the module, before all others."""
    first = next(iter(module.graph.nodes))
    with module.graph.inserting_before(first):
        node = module.graph.get_attr(target)
    fake = next((n.meta["val"].fake_mode for n in module.graph.nodes if hasattr(n.meta.get("val"), "fake_mode")), None)
    if fake is None:
        raise Refused(f"the program's node {like.name!r} does not know its shape", fix="export the model again")
    tensor = torch.fx.graph_module._get_attr(module, target)
    node.meta["val"] = fake.from_tensor(tensor.detach(), static_shapes=True)
    return node


def _value(node: fx.Node) -> Any:
    return node.meta.get("val")


@functools.lru_cache(maxsize=64)
def _traced_by_name(name: str, dtype: torch.dtype, training: bool) -> fx.GraphModule:
    return _traced(activation_by_name(name), dtype, training)


def _traced(activation: nn.Module, dtype: torch.dtype, training: bool) -> fx.GraphModule:
    tensors = {**dict(activation.named_parameters()), **dict(activation.named_buffers())}
    plain = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def function(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = functional_call(activation, dict(zip(plain, values, strict=True)), (x,))
        return result

    name = original_class(activation).__name__
    table: Any = None if training else torch.export.default_decompositions().materialize()
    x = torch.linspace(-2.0, 2.0, 6, dtype=torch.float64).to(dtype).reshape(2, 3)
    try:
        traced: fx.GraphModule = make_fx(function, decomposition_table=table, pre_dispatch=training)(x, *plain.values())
        for shape in ((6,), (1, 6, 1)):
            other = x.reshape(shape) * 0.7 + 0.1
            same = torch.allclose(traced(other, *plain.values()), function(other, *plain.values()), equal_nan=True)
            if not same:
                raise ValueError("it depends on the shape or the values of its input")
    except Exception as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise Refused(f"{name} cannot be written into a program: {line}", fix="choose another activation") from error
    return traced


def _stack(old: fx.Node, activation: nn.Module, whole: str) -> dict[str, tuple[str, str]]:
    """Return the replaced node's modules and the new activation's class, by which it is known when it is read again."""
    cls = original_class(activation)
    stack: dict[str, tuple[str, str]] = {}
    for call, entry in (old.meta.get("nn_module_stack") or {}).items():
        if whole and (entry[0] == whole or entry[0].startswith(f"{whole}.")):
            break
        stack[call] = entry
    path = whole or (list(stack.values())[-1][0] if stack else "")
    stack[f"{list(stack)[-1] if stack else 'L__self__'}@{old.name}"] = (path, f"{cls.__module__}.{cls.__qualname__}")
    return stack
