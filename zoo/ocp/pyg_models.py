"""Energy models on PyG's layers whose graphs need no compiled extension: SchNet, DimeNet++, batch-normalized CGConv.

Every model takes ``(z, pos, batch)``: atomic numbers (n_atoms,) of dtype int64, positions (n_atoms, 3) in Å, structure
of each atom (n_atoms,), and, for periodic structures, ``cell`` (n_structures, 3, 3) in Å and ``pbc`` (n_structures, 3). It
returns one energy per structure, shape (n_structures, 1). Forces are -dE/dpos.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch_geometric.nn import CGConv
from torch_geometric.nn import models as pyg
from torch_geometric.nn.models import dimenet
from torch_geometric.nn.models.schnet import GaussianSmearing
from torch_geometric.nn.resolver import activation_resolver
from torch_geometric.utils import scatter

from dcsurgery.zoo.ocp.graph import RadiusGraph, distances, radius_graph, triplets
from dcsurgery.zoo.ocp.periodic import periodic_edges, periodic_triplets
from dcsurgery.zoo.ocp.spherical import SphericalBasis

__all__ = ["CGConvNet", "DimeNetPlusPlus", "SchNet", "angles"]

ANGLE_EPS = 1e-12  # Å^4


class SchNet(pyg.SchNet):
    """PyG's SchNet on a neighbour graph in plain torch.

    Parameters and ``state_dict`` keys are those of `torch_geometric.nn.SchNet`, for energies.

    Parameters
    ----------
    hidden_channels, num_filters, num_interactions, num_gaussians
        Width of the atom features, width of the filters, number of interaction blocks and of radial Gaussians.
    cutoff
        Cutoff in Å.
    max_num_neighbors
        Neighbours kept per atom, the nearest ones.
    readout
        Sum (``add``) or ``mean`` of the atoms' energies.
    use_pbc
        Let edges cross the boundaries of structures that have a cell.
    """

    def __init__(
        self,
        hidden_channels: int = 128,
        num_filters: int = 128,
        num_interactions: int = 6,
        num_gaussians: int = 50,
        cutoff: float = 10.0,
        max_num_neighbors: int = 32,
        readout: str = "add",
        use_pbc: bool = True,
    ) -> None:
        super().__init__(
            hidden_channels=hidden_channels,
            num_filters=num_filters,
            num_interactions=num_interactions,
            num_gaussians=num_gaussians,
            cutoff=cutoff,
            interaction_graph=RadiusGraph(cutoff, max_num_neighbors, use_pbc),
            readout=readout,
        )

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
    ) -> Tensor:
        """Return energies (n_structures, 1) of atoms z (n_atoms,) at pos (n_atoms, 3) in Å."""
        batch = torch.zeros_like(z) if batch is None else batch
        h = self.embedding(z)  # (n_atoms, hidden_channels)
        edge_index, dist = self.interaction_graph(pos, batch, cell, pbc)
        edge_attr = self.distance_expansion(dist)  # (n_edges, num_gaussians)
        for interaction in self.interactions:
            h = h + interaction(h, edge_index, dist, edge_attr)
        h = self.lin2(self.act(self.lin1(h)))
        return self.readout(h, batch, dim=0)


class DimeNetPlusPlus(pyg.DimeNetPlusPlus):
    """PyG's DimeNet++ on graphs, triplets and a spherical basis in plain torch.

    ``state_dict`` keys and blocks are those of `torch_geometric.nn.models.DimeNetPlusPlus`, and so are the energies (to
    rounding). The angles keep their gradient, so forces are exact; the cross product's norm carries a small offset
    (``ANGLE_EPS``), so that derivatives stay finite where three atoms lie on a line.

    Parameters
    ----------
    hidden_channels, num_blocks, int_emb_size, basis_emb_size, out_emb_channels
        Width of the edge features, number of interaction blocks, widths inside interaction and output blocks.
    num_spherical, num_radial
        Number of angular and radial basis functions.
    out_channels
        Outputs per structure; 1 for an energy.
    cutoff
        Cutoff in Å.
    max_num_neighbors
        Neighbours kept per atom, the nearest ones.
    envelope_exponent, num_before_skip, num_after_skip, num_output_layers
        As in PyG.
    act
        Activation; a name that PyG resolves. One object serves the whole model.
    output_initializer
        ``zeros`` (as published: energy and forces are 0 before training) or ``glorot_orthogonal``.
    use_pbc
        Let edges cross the boundaries of structures that have a cell.
    """

    def __init__(
        self,
        hidden_channels: int = 128,
        num_blocks: int = 4,
        int_emb_size: int = 64,
        basis_emb_size: int = 8,
        out_emb_channels: int = 256,
        num_spherical: int = 7,
        num_radial: int = 6,
        out_channels: int = 1,
        cutoff: float = 5.0,
        max_num_neighbors: int = 32,
        envelope_exponent: int = 5,
        num_before_skip: int = 1,
        num_after_skip: int = 2,
        num_output_layers: int = 3,
        act: str | Callable[[Tensor], Tensor] = "swish",
        output_initializer: str = "zeros",
        use_pbc: bool = True,
    ) -> None:
        # PyG's own constructor would spend its time on the symbolic basis, which SphericalBasis replaces.
        nn.Module.__init__(self)
        if num_spherical < 2:
            raise ValueError(f"num_spherical must be at least 2, got {num_spherical}")
        act = activation_resolver(act)
        self.cutoff = cutoff
        self.max_num_neighbors = max_num_neighbors
        self.use_pbc = use_pbc
        self.num_blocks = num_blocks
        self.rbf = dimenet.BesselBasisLayer(num_radial, cutoff, envelope_exponent)
        self.sbf = SphericalBasis(num_spherical, num_radial, cutoff, envelope_exponent)
        self.emb = dimenet.EmbeddingBlock(num_radial, hidden_channels, act)
        self.output_blocks = nn.ModuleList(
            dimenet.OutputPPBlock(
                num_radial, hidden_channels, out_emb_channels, out_channels, num_output_layers, act, output_initializer
            )
            for _ in range(num_blocks + 1)
        )
        self.interaction_blocks = nn.ModuleList(
            dimenet.InteractionPPBlock(
                hidden_channels,
                int_emb_size,
                basis_emb_size,
                num_spherical,
                num_radial,
                num_before_skip,
                num_after_skip,
                act,
            )
            for _ in range(num_blocks)
        )
        self.reset_parameters()

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
    ) -> Tensor:
        """Return energies (n_structures, out_channels) of atoms z (n_atoms,) at pos (n_atoms, 3) in Å."""
        batch = torch.zeros_like(z) if batch is None else batch
        atoms = z.shape[0]
        if cell is None or pbc is None or not self.use_pbc:
            edge_index = radius_graph(pos, self.cutoff, batch, max_num_neighbors=self.max_num_neighbors)
            edge = pos[edge_index[1]] - pos[edge_index[0]]  # (n_edges, 3), from j to i
            i, j, _, _, _, idx_kj, idx_ji = triplets(edge_index, atoms)
        else:
            edge_index, back = periodic_edges(pos, self.cutoff, batch, cell, pbc, self.max_num_neighbors)
            edge = -back
            i, j, idx_kj, idx_ji = periodic_triplets(edge_index, edge, atoms)
        dist = distances(edge)
        rbf = self.rbf(dist)
        sbf = self.sbf(dist, angles(edge[idx_ji], edge[idx_kj]), idx_kj)
        x = self.emb(z, rbf, i, j)
        energy = self.output_blocks[0](x, rbf, i, num_nodes=atoms)  # (n_atoms, out_channels)
        for interaction, output in zip(self.interaction_blocks, self.output_blocks[1:], strict=True):
            x = interaction(x, rbf, sbf, idx_kj, idx_ji)
            energy = energy + output(x, rbf, i, num_nodes=atoms)
        return scatter(energy, batch, dim=0, reduce="sum")


def angles(ji: Tensor, kj: Tensor) -> Tensor:
    """Return the angles between the edges of each triplet, shape (n_triplets,), in rad."""
    cross = torch.linalg.cross(ji, kj).pow(2).sum(dim=-1)
    return torch.atan2((cross + ANGLE_EPS).sqrt(), (ji * kj).sum(dim=-1))


class CGConvNet(nn.Module):
    """Crystal-graph network with batch normalization: embedding, PyG's CGConv, pooling, dense Softplus head.

    The layers of CGCNN (Xie & Grossman, arXiv:1710.10324) as PyG has them; in training the batch statistics couple the
    structures of a batch, their forces included. Like CGCNN it has no smooth cutoff.

    Parameters
    ----------
    atom_embedding_size
        Width of the atom features.
    num_graph_conv_layers
        Number of CGConv layers.
    fc_feat_size, num_fc_layers
        Width and number of the hidden layers of the head.
    num_gaussians
        Number of Gaussians that expand a distance.
    cutoff
        Cutoff in Å.
    max_num_neighbors
        Neighbours kept per atom, the nearest ones.
    batch_norm
        Normalize the output of each convolution.
    pooling
        ``mean`` (as in CGCNN; the energy does not grow with the structure) or ``sum`` of the atom features.
    use_pbc
        Let edges cross the boundaries of structures that have a cell.
    """

    def __init__(
        self,
        atom_embedding_size: int = 64,
        num_graph_conv_layers: int = 6,
        fc_feat_size: int = 128,
        num_fc_layers: int = 4,
        num_gaussians: int = 50,
        cutoff: float = 6.0,
        max_num_neighbors: int = 50,
        batch_norm: bool = True,
        pooling: str = "mean",
        use_pbc: bool = True,
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "sum"):
            raise ValueError(f"pooling must be 'mean' or 'sum', got {pooling!r}")
        self.pooling = pooling
        self.embedding = nn.Embedding(101, atom_embedding_size)
        self.graph = RadiusGraph(cutoff, max_num_neighbors, use_pbc)
        self.distance_expansion = GaussianSmearing(0.0, cutoff, num_gaussians)
        self.convs = nn.ModuleList(
            CGConv(atom_embedding_size, dim=num_gaussians, batch_norm=batch_norm) for _ in range(num_graph_conv_layers)
        )
        widths = [atom_embedding_size, *[fc_feat_size] * num_fc_layers]
        hidden = [layer for width, after in pairwise(widths) for layer in (nn.Linear(width, after), nn.Softplus())]
        self.head = nn.Sequential(*hidden, nn.Linear(widths[-1], 1))

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
    ) -> Tensor:
        """Return energies (n_structures, 1) of atoms z (n_atoms,) at pos (n_atoms, 3) in Å."""
        batch = torch.zeros_like(z) if batch is None else batch
        edge_index, dist = self.graph(pos, batch, cell, pbc)
        edge_attr = self.distance_expansion(dist)  # (n_edges, num_gaussians)
        x = self.embedding(z)  # (n_atoms, atom_embedding_size)
        for conv in self.convs:
            x = conv(x, edge_index, edge_attr)
        return self.head(scatter(x, batch, dim=0, reduce=self.pooling))
