"""What a batch must be like for a model: elements that it knows, neighbours within its cutoff."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.ocp.graph import RadiusGraph

__all__ = ["check_batch", "check_elements", "check_neighbours", "elements_of"]

_SHIFTED = "AtomEmbedding"  # fairchem's: its first row is hydrogen's
_SHOWN = 5


def check_batch(model: nn.Module, batch: Any) -> None:
    """Raise BadInput if a model of the zoo cannot be trained or evaluated on a batch, and say why.

    Parameters
    ----------
    model
        Any model; of one that the zoo did not build nothing is known, and nothing checked.
    batch
        The structures.
    """
    check_elements(model, batch)
    check_neighbours(model, batch)


def check_elements(model: nn.Module, batch: Any) -> None:
    """Raise BadInput if a structure has an element without an embedding."""
    known = elements_of(model)
    if known is None:
        return
    numbers = {int(z) for z in batch.atomic_numbers.unique()}
    unknown = sorted(numbers.difference(known))
    if unknown:
        some = ", ".join(map(str, unknown[:_SHOWN])) + (", …" if len(unknown) > _SHOWN else "")
        raise BadInput(
            f"atomic numbers {some} are outside of what the model knows ({min(known)} to {max(known)})",
            where=type(model).__name__,
            fix="leave these structures out, or take another model",
        )


def elements_of(model: nn.Module) -> Collection[int] | None:
    """Return the atomic numbers that a model of the zoo can be given; None if that is not known."""
    if not hasattr(model, "dcsurgery_config"):
        return None
    own = getattr(model, "elements", None)
    if own is not None:
        return frozenset(own)
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            owner = model.get_submodule(path.rpartition(".")[0])
            shifted = type(owner).__name__ == _SHIFTED
            return range(1, module.num_embeddings + (1 if shifted else 0))
    return None


def check_neighbours(model: nn.Module, batch: Any) -> None:
    """Raise BadInput if an atom has no neighbour within the cutoff of a model of the zoo."""
    values = getattr(model, "dcsurgery_config", {})
    values = values["model"] if isinstance(values.get("model"), dict) else values
    cutoff = values.get("cutoff")
    if cutoff is None:
        return
    graph = RadiusGraph(cutoff, 1, values.get("use_pbc", True))
    periodic = batch.get("pbc") is not None and bool(batch.pbc.any())
    cell = (batch.cell.reshape(-1, 3, 3), batch.pbc.reshape(-1, 3)) if periodic else (None, None)
    with torch.no_grad():
        edges = graph.vectors(batch.pos.detach(), batch.batch, *cell)[0]
    alone = torch.ones(batch.pos.shape[0], dtype=torch.bool, device=batch.pos.device)
    alone[edges[1]] = False
    if bool(alone.any()):
        first = int(alone.nonzero()[0])
        structure = int(batch.batch[first])
        atom = first - int((batch.batch < structure).sum())
        raise BadInput(
            f"{int(alone.sum())} of {alone.numel()} atoms have no neighbour within the cutoff of {cutoff:g} Å, the first "
            f"is atom {atom} of structure {structure}",
            where=type(model).__name__,
            fix="take a larger cutoff, or check the unit of the positions, which must be Å",
        )
