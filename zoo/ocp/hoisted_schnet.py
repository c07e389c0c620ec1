"""SchNet with its edges as an input, in plain torch: torch.jit.script, torch.export and torch.fx take it whole.

No capture of a whole model survives a neighbour list inside it, whose size depends on the data. With the edges outside
(the list is made by `dcsurgery.zoo.ocp.graph.radius_graph`, once for many steps if need be) nothing is left that does.
Parameters, keys and energies are those of PyG's SchNet; after Schütt et al., arXiv:1706.08566.
"""

# Without "from __future__ import annotations": torch.fx cannot pickle a graph whose types are strings.

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["HoistedSchNet"]


class ShiftedSoftplus(nn.Module):
    """softplus(x) - log 2: 0 at 0."""

    def __init__(self) -> None:
        super().__init__()
        # In float32, as in PyG: in float64 a rounder log 2 would change the forces by 1e-6.
        self.shift = torch.log(torch.tensor(2.0)).item()

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of ``x``."""
        return F.softplus(x) - self.shift


class GaussianSmearing(nn.Module):
    """Distances on a grid of Gaussians."""

    def __init__(self, stop: float, num_gaussians: int) -> None:
        super().__init__()
        offset = torch.linspace(0.0, stop, num_gaussians)
        self.coeff = -0.5 / float(offset[1] - offset[0]) ** 2
        self.register_buffer("offset", offset)
        self.offset: Tensor

    def forward(self, distance: Tensor) -> Tensor:
        """Return (n_edges, num_gaussians) for distances (n_edges,) in Å."""
        difference = distance.unsqueeze(-1) - self.offset
        return torch.exp(self.coeff * difference * difference)


class FilterConvolution(nn.Module):
    """Continuous-filter convolution: messages x_j * W(d_ij), summed over the neighbours j of i."""

    def __init__(self, hidden_channels: int, num_filters: int, filters: nn.Sequential, cutoff: float) -> None:
        super().__init__()
        self.lin1 = nn.Linear(hidden_channels, num_filters, bias=False)
        self.lin2 = nn.Linear(num_filters, hidden_channels)
        self.nn = filters
        self.cutoff = cutoff

    def forward(self, x: Tensor, edge_index: Tensor, distance: Tensor, edge_attr: Tensor) -> Tensor:
        """Return (n_atoms, hidden_channels)."""
        envelope = 0.5 * (torch.cos(distance * math.pi / self.cutoff) + 1.0)
        weights = self.nn(edge_attr) * envelope.unsqueeze(-1)
        y = self.lin1(x)
        messages = y.index_select(0, edge_index[0]) * weights
        return self.lin2(torch.zeros_like(y).index_add(0, edge_index[1], messages))


class Interaction(nn.Module):
    """One interaction block."""

    def __init__(self, hidden_channels: int, num_gaussians: int, num_filters: int, cutoff: float) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(num_gaussians, num_filters), ShiftedSoftplus(), nn.Linear(num_filters, num_filters)
        )
        self.conv = FilterConvolution(hidden_channels, num_filters, self.mlp, cutoff)
        self.act = ShiftedSoftplus()
        self.lin = nn.Linear(hidden_channels, hidden_channels)

    def forward(self, x: Tensor, edge_index: Tensor, distance: Tensor, edge_attr: Tensor) -> Tensor:
        """Return the change of the atom features, (n_atoms, hidden_channels)."""
        return self.lin(self.act(self.conv(x, edge_index, distance, edge_attr)))


class HoistedSchNet(nn.Module):
    """SchNet on given edges; energies of shape (n_structures, 1).

    Parameters
    ----------
    hidden_channels, num_filters, num_interactions, num_gaussians
        Width of the atom features, width of the filters, number of interaction blocks and of radial Gaussians.
    cutoff
        Cutoff in Å; the edges are expected not to be longer.
    """

    def __init__(
        self,
        hidden_channels: int = 128,
        num_filters: int = 128,
        num_interactions: int = 6,
        num_gaussians: int = 50,
        cutoff: float = 10.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, hidden_channels, padding_idx=0)
        self.distance_expansion = GaussianSmearing(cutoff, num_gaussians)
        self.interactions = nn.ModuleList(
            Interaction(hidden_channels, num_gaussians, num_filters, cutoff) for _ in range(num_interactions)
        )
        self.lin1 = nn.Linear(hidden_channels, hidden_channels // 2)
        self.act = ShiftedSoftplus()
        self.lin2 = nn.Linear(hidden_channels // 2, 1)

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor, edge_index: Tensor, natoms: Tensor) -> Tensor:
        """Return the energy of each structure.

        Parameters
        ----------
        z
            (n_atoms,) atomic numbers, int64.
        pos
            (n_atoms, 3) positions in Å.
        batch
            (n_atoms,) structure of each atom, int64.
        edge_index
            (2, n_edges) source and target atoms, int64.
        natoms
            (n_structures,) atoms of each structure: its length is what counts here.
        """
        difference = pos.index_select(0, edge_index[0]) - pos.index_select(0, edge_index[1])
        distance = torch.sqrt((difference * difference).sum(-1))
        edge_attr = self.distance_expansion(distance)
        h = self.embedding(z)
        for interaction in self.interactions:
            h = h + interaction(h, edge_index, distance, edge_attr)
        h = self.lin2(self.act(self.lin1(h)))
        return torch.zeros_like(natoms, dtype=h.dtype).unsqueeze(-1).index_add(0, batch, h)
