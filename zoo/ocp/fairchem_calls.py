"""How models of fairchem-core 1.x are called: what they read from a batch, energies alone, angles with a gradient."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.ocp.pyg_models import angles

__all__ = ["attached_angles", "energies_only", "prepared"]


def prepared(model: nn.Module, batch: Any) -> Any:
    """Return a batch with the fields and dtypes that a fairchem model reads; any other model's is returned as it is."""
    if not _parts(model):
        return batch
    ready = batch.clone()
    structures = int(batch.natoms.numel())
    if ready.get("cell") is None:
        _add(ready, "cell", batch.pos.new_zeros(structures, 3, 3), like="natoms")
    ready.cell = ready.cell.reshape(structures, 3, 3).to(torch.float32)  # its cell repetitions are float32
    if ready.get("pbc") is None:
        _add(ready, "pbc", torch.zeros(structures, 3, dtype=torch.bool, device=batch.pos.device), like="natoms")
    ready.pbc = ready.pbc.reshape(structures, 3)
    if ready.get("tags") is None:
        _add(ready, "tags", torch.zeros_like(ready.atomic_numbers), like="atomic_numbers")
    return ready


def _add(batch: Any, key: str, value: Tensor, *, like: str) -> None:
    """Add a field to a PyG batch, so that its structures, taken apart, have it as well."""
    batch[key] = value
    for name in ("_slice_dict", "_inc_dict"):
        places = getattr(batch, name, None)
        if isinstance(places, dict) and like in places:
            setattr(batch, name, {**places, key: places[like]})


@contextlib.contextmanager
def energies_only(model: nn.Module) -> Iterator[None]:
    """Let fairchem's models leave out the forces that they differentiate themselves, and work in their weights' dtype."""
    parts = _parts(model)
    told = [part for part in parts if getattr(part, "regress_forces", False)]
    for part in told:
        part.regress_forces = False  # type: ignore[assignment]
    try:
        with _default_dtype(_dtype_of(parts)):
            yield
    finally:
        for part in told:
            part.regress_forces = True  # type: ignore[assignment]


def _dtype_of(parts: list[nn.Module]) -> torch.dtype | None:
    """Return the dtype that fairchem's constants must have; None if there is no part of fairchem.

    Raises
    ------
    BadInput
        If it is float64 in GemNet-OC, which computes a part of itself in float32 whatever its weights are.
    """
    found = {p.dtype for part in parts for p in part.parameters() if p.is_floating_point() and p.requires_grad}
    dtype = next(iter(found)) if len(found) == 1 else None
    if dtype == torch.float64 and any(type(part).__name__ == "GemNetOC" for part in parts):
        raise BadInput("fairchem's GemNet-OC works in float32 only", where="GemNetOC", fix="call model.float()")
    return dtype


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    # Some of fairchem's models make their constants, and buffers for neighbours, in torch's default dtype.
    before = torch.get_default_dtype()
    if dtype is None or dtype == before:
        yield
        return
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def attached_angles(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Let fairchem's DimeNet++ compute its angles from positions that keep their gradient."""
    name = "fairchem.core.models.dimenet_plus_plus"
    cls = getattr(sys.modules.get(name), "DimeNetPlusPlusWrap", None) if wanted else None
    found = [part for part in model.modules() if cls is not None and isinstance(part, cls)]
    for part in found:
        part.__dict__["_forward"] = partial(_dimenet, part)
    try:
        yield
    finally:
        for part in found:
            del part.__dict__["_forward"]


def _dimenet(model: Any, data: Any) -> Tensor:
    """Return the energies (n_structures, 1) of fairchem's DimeNet++, by its own layers."""
    graph = model.generate_graph(data)
    atoms = data.pos.shape[0]
    j, i = graph.edge_index
    *_, idx_kj, idx_ji = model.triplets(graph.edge_index, graph.cell_offsets, num_nodes=atoms)
    edge = graph.edge_distance_vec
    rbf = model.rbf(graph.edge_distance)
    sbf = model.sbf(graph.edge_distance, angles(edge[idx_ji], edge[idx_kj]), idx_kj)
    x = model.emb(data.atomic_numbers.long(), rbf, i, j)
    energy = model.output_blocks[0](x, rbf, i, num_nodes=atoms)
    for interaction, output in zip(model.interaction_blocks, model.output_blocks[1:], strict=True):
        x = interaction(x, rbf, sbf, idx_kj, idx_ji)
        energy = energy + output(x, rbf, i, num_nodes=atoms)
    structures = int(data.natoms.numel())
    return energy.new_zeros(structures, energy.shape[1]).index_add(0, data.batch, energy)


def _parts(model: nn.Module) -> list[nn.Module]:
    """Return the parts of a model that are models of fairchem 1.x; the package is not imported for it."""
    base = getattr(sys.modules.get("fairchem.core.models.base"), "GraphModelMixin", None)
    return [] if base is None else [part for part in model.modules() if isinstance(part, base)]
