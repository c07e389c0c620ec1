"""Inputs of another size, derived from the example inputs: half a batch, or twice a single item."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

__all__ = ["resized"]


def resized(example_inputs: Any) -> tuple[Any, str]:
    """Return other inputs and what they are; None and the reason where none can be derived.

    Parameters
    ----------
    example_inputs
        Tensors that share their first dimension are cut to its first half, or repeated where it is 1. A PyG ``Batch`` of
        several graphs loses the last ones.
    """
    graph = _single_graph(example_inputs)
    if graph is not None:
        return _fewer_graphs(example_inputs, graph)
    leaves, spec = pytree.tree_flatten(example_inputs)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if not tensors:
        return None, "the inputs hold no tensor, so that no other size can be derived"
    if any(t.dim() == 0 for t in tensors):
        return None, "an input is a single number, so that no other size can be derived"
    if any(t.layout is not torch.strided for t in tensors):
        return None, "an input is sparse, so that no other size can be derived"
    sizes = {t.shape[0] for t in tensors}
    if len(sizes) > 1:
        return (
            None,
            f"the inputs' first dimensions differ ({', '.join(map(str, sorted(sizes)))}): no batch to be halved",
        )
    (size,) = sizes
    new = size // 2 if size > 1 else 2
    changed = [_rows(leaf, new) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    return pytree.tree_unflatten(changed, spec), f"{new} rows instead of {size}"


def _rows(tensor: torch.Tensor, count: int) -> torch.Tensor:
    return tensor[:count] if tensor.shape[0] >= count else torch.cat([tensor] * count)


def _single_graph(example_inputs: Any) -> Any:
    values = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    graphs = [v for v in values if hasattr(v, "to_data_list") or (hasattr(v, "apply") and hasattr(v, "keys"))]
    return graphs[0] if graphs and len(values) == 1 else None


def _fewer_graphs(example_inputs: Any, graph: Any) -> tuple[Any, str]:
    count = getattr(graph, "num_graphs", 1)
    if count < 2 or not hasattr(graph, "to_data_list"):
        return None, "the inputs are a single graph, so that no other size can be derived"
    try:
        from torch_geometric.data import Batch

        fewer = Batch.from_data_list(graph.to_data_list()[: count // 2])
    except (ImportError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        return None, f"the batch cannot be taken apart ({type(error).__name__})"
    return (fewer,) if isinstance(example_inputs, tuple) else fewer, f"{count // 2} graphs instead of {count}"
