"""Neighbour graphs and triplets in plain torch: no compiled extension, and derivatives of every order.

An edge j -> i has ``edge_index[0] = j`` (source) and ``edge_index[1] = i`` (target), as in
`torch_geometric.nn.radius_graph`; edges are sorted by target, then by source.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcsurgery.errors import BadInput

__all__ = ["RadiusDistance", "RadiusGraph", "distances", "edge_pairs", "nearest_edges", "radius_graph", "triplets"]


def radius_graph(
    pos: Tensor, r: float, batch: Tensor | None = None, loop: bool = False, max_num_neighbors: int = 32
) -> Tensor:
    """Return the edges between points of one structure that are closer than ``r``.

    Parameters
    ----------
    pos
        Positions in Å, shape (n_atoms, 3).
    r
        Cutoff in Å.
    batch
        Structure that each atom belongs to, shape (n_atoms,), in any order; None for one structure.
    loop
        Keep the edges from each atom to itself.
    max_num_neighbors
        Edges kept per target atom, the nearest ones (of equally near ones, those of lower index).

    Returns
    -------
    Tensor
        ``edge_index``, shape (2, n_edges), dtype int64.

    Raises
    ------
    BadInput
        If a shape does not fit, or ``r`` or ``max_num_neighbors`` is not positive.

    Notes
    -----
    Memory grows with the sum over structures of n_atoms squared. A position that is not finite gets edges to its whole
    structure, so that it shows in the energy instead of vanishing from it.
    """
    if pos.dim() != 2:
        raise BadInput(f"pos must have shape (n_atoms, 3), got {tuple(pos.shape)}")
    if batch is not None and batch.shape != pos.shape[:1]:
        raise BadInput(f"batch must have shape ({pos.shape[0]},) like the atoms, got {tuple(batch.shape)}")
    _check_cutoff(r, max_num_neighbors)
    with torch.no_grad():
        pos = pos.detach()
        source, target = _pairs(pos.shape[0], batch, pos.device)
        square = (pos[source] - pos[target]).pow(2).sum(dim=-1)
        near = ~(square >= r * r)
        if not loop:
            near &= source != target
        source, target, square = source[near], target[near], square[near]
        kept = nearest_edges(source, target, square, pos.shape[0], max_num_neighbors)
        return torch.stack([source[kept], target[kept]])


def nearest_edges(source: Tensor, target: Tensor, square: Tensor, atoms: int, max_num_neighbors: int) -> Tensor:
    """Return which edges are kept if a target may have so many: the nearest, in order of target, then of source.

    Parameters
    ----------
    source, target, square
        Atoms and squared length of each edge, shape (n_edges,).
    atoms
        Number of atoms.
    max_num_neighbors
        Edges kept per target; of equally near ones those of lower source, then those that come first.
    """
    # Stable sorts from the least to the most important key: source, distance, target.
    by_source = source.argsort(stable=True)
    nearest = by_source[square[by_source].argsort(stable=True)]
    nearest = nearest[target[nearest].argsort(stable=True)]
    counts = torch.bincount(target, minlength=atoms)
    first = counts.cumsum(0) - counts
    rank = torch.arange(target.numel(), device=target.device) - first[target[nearest]]
    kept = nearest[rank < max_num_neighbors].sort().values
    kept = kept[source[kept].argsort(stable=True)]
    return kept[target[kept].argsort(stable=True)]


def triplets(edge_index: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the pairs of edges k -> j -> i with k != i, as PyG's DimeNet orders them.

    Parameters
    ----------
    edge_index
        Edges, shape (2, n_edges), without duplicates.
    num_nodes
        Number of atoms.

    Returns
    -------
    tuple of Tensor
        ``i`` and ``j`` of every edge, shape (n_edges,); then ``idx_i``, ``idx_j``, ``idx_k`` (atoms) and ``idx_kj``,
        ``idx_ji`` (edges) of every triplet, shape (n_triplets,). Triplets are sorted by the edge j -> i, then by k.
    """
    source, target = edge_index
    idx_kj, idx_ji = edge_pairs(source, target, num_nodes)
    idx_i, idx_j, idx_k = target[idx_ji], source[idx_ji], source[idx_kj]
    kept = idx_i != idx_k
    return target, source, idx_i[kept], idx_j[kept], idx_k[kept], idx_kj[kept], idx_ji[kept]


def edge_pairs(source: Tensor, target: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Return all pairs of edges k -> j and j -> i, also those with k = i, sorted by the edge j -> i, then by k."""
    by_target = (target * num_nodes + source).argsort(stable=True)
    incoming = torch.bincount(target, minlength=num_nodes)
    first = incoming.cumsum(0) - incoming
    per_edge = incoming[source]  # edges k -> j for each edge j -> i
    idx_ji = torch.arange(source.numel(), device=source.device).repeat_interleave(per_edge)
    within = torch.arange(idx_ji.numel(), device=source.device) - (per_edge.cumsum(0) - per_edge)[idx_ji]
    return by_target[first[source[idx_ji]] + within], idx_ji


def distances(vectors: Tensor) -> Tensor:
    """Return the lengths of vectors, shape (..., 3) -> (...), with zero derivatives of all orders at length 0."""
    square = vectors.pow(2).sum(dim=-1)
    zero = square == 0
    # The square root never sees the 0, where its derivative is infinite.
    return square.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)


class RadiusGraph(nn.Module):
    """Edges within a cutoff and their lengths: the ``interaction_graph`` of PyG's SchNet.

    Parameters
    ----------
    cutoff
        Cutoff in Å.
    max_num_neighbors
        Edges kept per atom, the nearest ones.
    use_pbc
        Let edges cross the boundaries of periodic structures.
    """

    use_pbc = True  # of instances that were saved before there was a choice

    def __init__(self, cutoff: float = 10.0, max_num_neighbors: int = 32, use_pbc: bool = True) -> None:
        super().__init__()
        _check_cutoff(cutoff, max_num_neighbors)
        self.cutoff = cutoff
        self.max_num_neighbors = max_num_neighbors
        self.use_pbc = use_pbc

    def forward(
        self, pos: Tensor, batch: Tensor | None = None, cell: Tensor | None = None, pbc: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ``edge_index`` (2, n_edges) and the edges' lengths (n_edges,) in Å; parameters as for `vectors`."""
        edge_index, vectors = self.vectors(pos, batch, cell, pbc)
        return edge_index, distances(vectors)

    def vectors(
        self, pos: Tensor, batch: Tensor | None = None, cell: Tensor | None = None, pbc: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ``edge_index`` (2, n_edges) and the vectors from target to source (n_edges, 3) in Å.

        Parameters
        ----------
        pos, batch
            Positions (n_atoms, 3) in Å and the structure of each atom (n_atoms,).
        cell, pbc
            Cell vectors (n_structures, 3, 3) in Å and periodic directions (n_structures, 3); without them, or with
            ``use_pbc=False``, no edge crosses a boundary.
        """
        if self.use_pbc and cell is not None and pbc is not None:
            from dcsurgery.zoo.ocp.periodic import periodic_edges

            batch = torch.zeros(pos.shape[0], dtype=torch.long, device=pos.device) if batch is None else batch
            return periodic_edges(pos, self.cutoff, batch, cell, pbc, self.max_num_neighbors)
        edge_index = radius_graph(pos, self.cutoff, batch, max_num_neighbors=self.max_num_neighbors)
        return edge_index, pos[edge_index[0]] - pos[edge_index[1]]

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"cutoff={self.cutoff}, max_num_neighbors={self.max_num_neighbors}"


class RadiusDistance(RadiusGraph):
    """Edges with self-loops, their lengths and vectors: takes the place of PyG's ViSNet ``Distance``."""

    def forward(  # type: ignore[override]
        self, pos: Tensor, batch: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``edge_index`` (2, n_edges), lengths (n_edges,) and vectors source - target (n_edges, 3) in Å."""
        edge_index = radius_graph(pos, self.cutoff, batch, loop=True, max_num_neighbors=self.max_num_neighbors)
        vectors = pos[edge_index[0]] - pos[edge_index[1]]
        # ViSNet normalizes the vectors in place, so that the lengths need a copy of their own.
        return edge_index, distances(vectors.clone()), vectors


def _check_cutoff(cutoff: float, max_num_neighbors: int) -> None:
    if not cutoff > 0:
        raise BadInput(f"the cutoff must be positive, got {cutoff}")
    if max_num_neighbors < 1:
        raise BadInput(f"max_num_neighbors must be at least 1, got {max_num_neighbors}")


def _pairs(atoms: int, batch: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return source and target of all pairs within a structure, sorted by target, then by source."""
    index = torch.arange(atoms, device=device)
    if batch is None:
        batch = torch.zeros(atoms, dtype=torch.long, device=device)
    order = batch.argsort(stable=True)  # the atoms, structure by structure
    sizes = torch.bincount(batch)
    first = sizes.cumsum(0) - sizes
    partners = sizes[batch]
    target = index.repeat_interleave(partners)
    within = torch.arange(target.numel(), device=device) - (partners.cumsum(0) - partners)[target]
    return order[first[batch[target]] + within], target
