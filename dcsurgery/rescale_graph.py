"""Rescale labels in a torch.fx graph: ``output -> mul(output, label_scale)``."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from dcsurgery.errors import BadInput, Refused
from dcsurgery.exported import ProgramModule
from dcsurgery.label_outputs import check_outputs, map_labels
from dcsurgery.labels import check_scale

__all__ = ["BUFFER", "MARK", "check_range", "device_of", "refuse_second", "rescale_graph"]

BUFFER = "label_scale"
MARK = "_dcsurgery_label_rescale"  # class attribute of rescaled models


def rescale_graph(gm: fx.GraphModule, C: float, outputs: Any = None) -> Callable[[], None]:
    """Multiply the labels that a GraphModule returns by C, in its graph.

    Parameters
    ----------
    gm
        Changed in place: a buffer ``label_scale`` (shape (), float64) and the nodes ``get_attr``, ``to`` and
        ``torch.mul`` in front of the output. A GraphModule has no ``scaled`` mode.
    C
        Label scale: positive, in units of the labels.
    outputs
        Positions or names, as in `dcsurgery.rescale.rescale_labels`. Needed for a tuple whose nodes carry no example
        values (``torch.fx.passes.shape_prop`` records them), since floating tensors cannot be told from others then.

    Returns
    -------
    callable
        Undoes the rescale.

    Raises
    ------
    BadInput
        If C is not positive and finite or does not fit the model's dtype, or if ``outputs`` does not fit the graph.
    Refused
        If the graph is rescaled already or has a member ``label_scale``.
    """
    scale, chosen = check_scale(C), check_outputs(outputs)
    refuse_second(gm)
    if hasattr(gm, BUFFER):
        raise Refused(f"the GraphModule has a member '{BUFFER}' already, which C needs", fix="rename that member")
    check_range(gm, scale)
    output = gm.graph.output_node()
    before = output.args
    codegen = getattr(gm.graph._codegen, "pytree_info", None)
    out_spec = getattr(codegen, "out_spec", None)
    structure = _plain(before[0])
    if out_spec is not None:
        # Exported programs keep outputs flat and their names in the spec.
        structure = pytree.tree_unflatten(pytree.tree_leaves(structure), out_spec)
    if chosen is None and not isinstance(structure, fx.Node):
        _refuse_unknown(structure)

    added: list[fx.Node] = []
    attribute: list[fx.Node] = []
    scaled: dict[fx.Node, fx.Node] = {}

    def times(node: fx.Node) -> fx.Node:
        if node not in scaled:
            with gm.graph.inserting_before(output):
                if not scaled:
                    added.append(gm.graph.get_attr(BUFFER))
                    attribute.append(added[-1])
                # Casting to the output's dtype and device keeps 0-dim outputs from being promoted to float64.
                factor, scaled[node] = _times(gm, node, attribute[0])
                added.extend((factor, scaled[node]))
            scaled[node].meta.update({key: node.meta[key] for key in ("val", "tensor_meta") if key in node.meta})
        return scaled[node]

    gm.register_buffer(BUFFER, torch.tensor(scale, dtype=torch.float64, device=device_of(gm)))
    try:
        changed = map_labels(_taken_apart(gm, output, structure, added), times, _is_label, chosen)
    except BadInput:
        _remove(gm, output, before, added)
        raise
    output.args = (changed if out_spec is None else tuple(pytree.tree_leaves(changed)),)
    gm.graph.lint()
    gm.recompile()

    return lambda: _remove(gm, output, before, added)


def _times(gm: fx.GraphModule, node: fx.Node, scale: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Add the nodes of ``node * scale.to(node)``; return the factor and the product. A program takes ATen's only."""
    if not isinstance(gm, ProgramModule):
        factor = gm.graph.call_method("to", (scale, node))
        return factor, gm.graph.call_function(torch.mul, (node, factor))
    value = node.meta["val"]
    scale.meta.setdefault("val", value.fake_mode.from_tensor(gm.get_buffer(BUFFER), static_shapes=True))
    settings = {"dtype": value.dtype, "device": value.device}
    factor = gm.graph.call_function(torch.ops.aten._to_copy.default, (scale,), settings)
    with value.fake_mode:
        factor.meta["val"] = torch.ops.aten._to_copy.default(scale.meta["val"], **settings)
    return factor, gm.graph.call_function(torch.ops.aten.mul.Tensor, (node, factor))


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's first tensor."""
    first = next(iter((*module.parameters(), *module.buffers())), None)
    return torch.device("cpu") if first is None else first.device


def refuse_second(module: nn.Module) -> None:
    """Refuse a model of which any part is rescaled already.

    Raises
    ------
    Refused
        With the scale it has, and the part that has it.
    """
    for path, child in module.named_modules():
        # A pickled GraphModule is traced anew and keeps nothing but its graph: that is where the mark must be.
        if _reads_scale(child) if isinstance(child, fx.GraphModule) else hasattr(type(child), MARK):
            what = f"its part {path!r}" if path else "the model"
            raise Refused(
                f"{what} is already rescaled by C={float(child.get_buffer(BUFFER)):g}, and one output has one C",
                fix="undo that rescale first, or start from the original model",
            )


def _reads_scale(gm: fx.GraphModule) -> bool:
    return BUFFER in gm._buffers and any(node.op == "get_attr" and node.target == BUFFER for node in gm.graph.nodes)


def check_range(module: nn.Module, scale: float) -> None:
    """Check that C can be multiplied in the model's dtype.

    Raises
    ------
    BadInput
        If C is 0 or infinite there: in float32, or in float16 for graphs, which compute in the output's own dtype.
    """
    is_graph = isinstance(module, fx.GraphModule)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not tensor.is_floating_point():
            continue
        dtype = tensor.dtype if is_graph or tensor.dtype == torch.float64 else torch.float32
        value = torch.tensor(scale, dtype=torch.float64).to(dtype)
        if not (torch.isfinite(value) and value > 0):
            raise BadInput(
                f"C={scale:g} does not fit {str(dtype).removeprefix('torch.')}, the dtype of {name}",
                fix="use other units, or a model of higher precision",
            )


def _remove(gm: fx.GraphModule, output: fx.Node, before: Any, added: list[fx.Node]) -> None:
    output.args = before
    for node in reversed(added):
        gm.graph.erase_node(node)
    del gm._buffers[BUFFER]
    gm.recompile()


def _plain(value: Any) -> Any:
    """Return fx's immutable containers as ordinary ones."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        items = [_plain(item) for item in value]
        return value._make(items) if hasattr(value, "_make") else tuple(items)
    return value


def _example(node: fx.Node) -> Any:
    for key in ("val", "example_value", "tensor_meta"):
        if key in node.meta:
            return node.meta[key]
    return None


def _is_label(value: Any) -> bool:
    """Say whether a node may hold a floating tensor; one without an example value may."""
    if not isinstance(value, fx.Node):
        return False
    example = _example(value)
    dtype = getattr(example, "dtype", None)
    return example is None or (dtype is not None and (dtype.is_floating_point or dtype.is_complex))


def _refuse_unknown(structure: Any) -> None:
    if isinstance(structure, tuple | list) and any(
        isinstance(item, fx.Node) and _example(item) is None for item in structure
    ):
        raise BadInput(
            f"the graph returns {len(structure)} values and does not say which are floating tensors",
            fix="choose with outputs=, for instance outputs=(0,), or run ShapeProp first",
        )


def _taken_apart(gm: fx.GraphModule, output: fx.Node, structure: Any, added: list[fx.Node]) -> Any:
    """Return a single node that is known to hold a tuple (a module call, for instance) as a tuple of nodes."""
    example = _example(structure) if isinstance(structure, fx.Node) else None
    # Recorded metadata of a tensor is a tuple too; that of a tuple has no dtype.
    if not isinstance(example, tuple | list) or hasattr(example, "dtype"):
        return structure
    nodes = []
    for position, value in enumerate(example):
        with gm.graph.inserting_before(output):
            nodes.append(gm.graph.call_function(operator.getitem, (structure, position)))
        nodes[-1].meta["val"] = value
        added.append(nodes[-1])
    return tuple(_taken_apart(gm, output, node, added) for node in nodes)
