"""CGCNN with the constructor values, the weights' names and the energies of OCP's, which no released fairchem has.

Source: Xie & Grossman, arXiv:1710.10324, Eq. 5, v_i <- g(v_i + norm(sum_j sigmoid(z1_ij) * softplus(z2_ij))), with a layer
norm and mean pooling as in OCP. Takes ``(z, pos, batch)`` as the models of `dcsurgery.zoo.ocp.pyg_models` do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.models.schnet import GaussianSmearing
from torch_geometric.utils import scatter

from dcsurgery.zoo.ocp import element_tables
from dcsurgery.zoo.ocp.graph import RadiusGraph

__all__ = ["CGCNN", "CrystalConvolution"]


class CGCNN(nn.Module):
    """Crystal-graph convolutions on k-hot codes of the elements, a mean over the atoms, a dense head.

    The energy is that of a mean atom: it does not grow with the structure. There is no smooth cutoff. In training mode the
    batch norms couple the structures of a batch, their forces included.

    Parameters
    ----------
    atom_embedding_size
        Width of the atom features.
    num_graph_conv_layers
        Number of convolutions.
    fc_feat_size, num_fc_layers
        Width and number of the layers of the head.
    cutoff
        Cutoff in Å.
    num_gaussians
        Number of Gaussians that expand a distance.
    max_neighbors
        Neighbours kept per atom, the nearest ones.
    use_pbc
        Let edges cross the boundaries of structures that have a cell.
    """

    #: Atomic numbers that it has codes of.
    elements = tuple(range(1, 101))
    embedding: Tensor

    def __init__(
        self,
        atom_embedding_size: int = 64,
        num_graph_conv_layers: int = 6,
        fc_feat_size: int = 128,
        num_fc_layers: int = 4,
        cutoff: float = 6.0,
        num_gaussians: int = 50,
        max_neighbors: int = 50,
        use_pbc: bool = True,
    ) -> None:
        super().__init__()
        codes = element_tables.khot()
        self.register_buffer("embedding", codes, persistent=False)  # not among OCP's weights, either
        self.embedding_fc = nn.Linear(codes.shape[1], atom_embedding_size)
        self.graph = RadiusGraph(cutoff, max_neighbors, use_pbc)
        self.distance_expansion = GaussianSmearing(0.0, cutoff, num_gaussians)
        self.convs = nn.ModuleList(
            CrystalConvolution(atom_embedding_size, num_gaussians) for _ in range(num_graph_conv_layers)
        )
        self.conv_to_fc = nn.Sequential(nn.Linear(atom_embedding_size, fc_feat_size), nn.Softplus())
        if num_fc_layers > 1:
            layers = ((nn.Linear(fc_feat_size, fc_feat_size), nn.Softplus()) for _ in range(num_fc_layers - 1))
            self.fcs = nn.Sequential(*(layer for pair in layers for layer in pair))
        else:
            self.fcs = nn.Sequential()
        self.fc_out = nn.Linear(fc_feat_size, 1)

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
        x = self.embedding_fc(F.embedding(z - 1, self.embedding))  # (n_atoms, atom_embedding_size)
        for conv in self.convs:
            x = conv(x, edge_index, edge_attr)
        return self.fc_out(self.fcs(self.conv_to_fc(scatter(x, batch, dim=0, reduce="mean"))))


class CrystalConvolution(MessagePassing):
    """One convolution: gated messages over the edges, summed, normalized, added to the atom features, softplus.

    Parameters
    ----------
    node_features, edge_features
        Widths of atom and edge features.
    """

    def __init__(self, node_features: int, edge_features: int) -> None:
        super().__init__(aggr="add")
        self.lin1 = nn.Linear(2 * node_features + edge_features, 2 * node_features)
        self.bn1 = nn.BatchNorm1d(2 * node_features)
        self.ln1 = nn.LayerNorm(node_features)
        self.gate = nn.Sigmoid()
        self.core = nn.Softplus()
        self.act = nn.Softplus()
        nn.init.xavier_uniform_(self.lin1.weight)
        nn.init.zeros_(self.lin1.bias)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """Return new atom features from x (n_atoms, width), edges (2, n_edges) and edge_attr (n_edges, width)."""
        return self.act(self.ln1(self.propagate(edge_index, x=x, edge_attr=edge_attr)) + x)

    def message(self, x_i: Tensor, x_j: Tensor, edge_attr: Tensor) -> Tensor:
        """Return the message of each edge, (n_edges, width), from the features of target, source and edge."""
        gate, core = self.bn1(self.lin1(torch.cat([x_i, x_j, edge_attr], dim=1))).chunk(2, dim=1)
        return self.gate(gate) * self.core(core)
