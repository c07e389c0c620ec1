"""Neighbour lists under periodic boundaries in plain torch, differentiable in positions and cell."""

from __future__ import annotations

import torch
from torch import Tensor

from dcsurgery.errors import BadInput
from dcsurgery.zoo.ocp.graph import edge_pairs, nearest_edges

__all__ = ["periodic_edges", "periodic_triplets"]

_SAME = 1e-6  # Å^2: two images of an atom are never as near as this


def periodic_edges(
    pos: Tensor, r: float, batch: Tensor, cell: Tensor, pbc: Tensor, max_num_neighbors: int
) -> tuple[Tensor, Tensor]:
    """Return the edges closer than ``r`` between atoms of a structure and the images of its atoms.

    Parameters
    ----------
    pos
        Positions in Å, shape (n_atoms, 3), inside the cell or not.
    r
        Cutoff in Å.
    batch
        Structure of each atom, shape (n_atoms,), in any order.
    cell
        Rows are the cell vectors in Å, shape (n_structures, 3, 3); rows of directions that are not periodic may be 0.
    pbc
        Whether each direction is periodic, shape (n_structures, 3).
    max_num_neighbors
        Edges kept per target atom, the nearest ones.

    Returns
    -------
    tuple of Tensor
        ``edge_index`` (2, n_edges), source and target, sorted by target; and the vectors from target to source, images
        included, (n_edges, 3) in Å.

    Raises
    ------
    BadInput
        If a shape does not fit, or a periodic direction has no cell vector.
    """
    structures = cell.shape[0] if cell.dim() == 3 else 0
    if cell.shape[1:] != (3, 3) or pbc.shape != (structures, 3):
        raise BadInput(
            f"cell must have shape (n_structures, 3, 3) and pbc (n_structures, 3), got {tuple(cell.shape)} and "
            f"{tuple(pbc.shape)}"
        )
    found = []
    with torch.no_grad():
        for index in range(structures):
            atoms = (batch == index).nonzero().flatten()
            found.append(_edges(pos[atoms].detach(), r, cell[index].detach().to(pos), pbc[index].bool(), atoms, index))
        source, target, image, square = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = nearest_edges(source, target, square, pos.shape[0], max_num_neighbors)
        source, target, image = source[kept], target[kept], image[kept]
    offset = torch.einsum("ei,eij->ej", image, cell.to(pos)[batch[target]])
    return torch.stack([source, target]), pos[source] - pos[target] + offset


def periodic_triplets(edge_index: Tensor, vectors: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the pairs of edges k -> j -> i that do not return to where they came from.

    Parameters
    ----------
    edge_index, vectors
        Edges j -> i (2, n_edges), the same atoms perhaps more than once, and their vectors from j to i, (n_edges, 3).
    num_nodes
        Number of atoms.

    Returns
    -------
    tuple of Tensor
        ``i`` and ``j`` of every edge, and ``idx_kj``, ``idx_ji`` (edges) of every triplet. k may be an image of i, but not
        i itself: then both edges have the same vector, one forth and one back.
    """
    source, target = edge_index
    idx_kj, idx_ji = edge_pairs(source, target, num_nodes)
    with torch.no_grad():
        back = (vectors[idx_kj] + vectors[idx_ji]).square().sum(dim=-1) < _SAME
        kept = ~(back & (source[idx_kj] == target[idx_ji]))
    return target, source, idx_kj[kept], idx_ji[kept]


def _edges(
    pos: Tensor, r: float, cell: Tensor, pbc: Tensor, atoms: Tensor, index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return source, target, image (n_edges, 3) of the source and squared length of one structure's edges."""
    cell = _complete(cell, pbc, index)
    inverse = torch.linalg.inv(cell.double())  # columns: reciprocal vectors; their lengths are 1 / height
    fractional = pos.double() @ inverse
    # Atoms outside their cell are moved into it first, so that a bounded number of images is enough.
    wrapped = torch.where(pbc, fractional.floor(), torch.zeros_like(fractional))
    inside = fractional - wrapped
    reach = [int(r * float(inverse[:, axis].norm())) + 1 if pbc[axis] else 0 for axis in range(3)]
    steps = [torch.arange(-n, n + 1, device=pos.device, dtype=torch.float64) for n in reach]
    images = torch.cartesian_prod(*steps)  # (n_images, 3)
    base = inside[None, :, :] - inside[:, None, :]  # (target, source, 3)
    sources, targets, shifts, squares = [], [], [], []
    for image in images:
        square = ((base + image) @ cell.double()).square().sum(dim=-1)
        near = ~(square >= r * r)
        if not image.any():
            near.fill_diagonal_(False)
        target, source = near.nonzero(as_tuple=True)
        sources.append(atoms[source])
        targets.append(atoms[target])
        shifts.append(image - wrapped[source] + wrapped[target])
        squares.append(square[target, source])
    return torch.cat(sources), torch.cat(targets), torch.cat(shifts).to(pos), torch.cat(squares)


def _complete(cell: Tensor, pbc: Tensor, index: int) -> Tensor:
    """Return the cell with a unit vector, normal to the others, for each direction without one."""
    empty = cell.norm(dim=1) == 0
    if bool((empty & pbc).any()):
        raise BadInput(
            "a periodic direction has no cell vector", where=f"structure {index}", fix="give cell, or set pbc"
        )
    if bool(empty.all()):
        return torch.eye(3, dtype=cell.dtype, device=cell.device)
    if bool(empty.any()):
        # Vectors of the null space: normal to the others and to each other.
        normal = torch.linalg.svd(cell[~empty], full_matrices=True).Vh[int((~empty).sum()) :]
        cell = cell.clone()
        cell[empty] = normal
    if not float(torch.linalg.det(cell).abs()) > 0:
        raise BadInput("its cell vectors lie in one plane", where=f"structure {index}", fix="give another cell")
    return cell
