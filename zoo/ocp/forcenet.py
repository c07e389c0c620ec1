"""ForceNet with the constructor values, the weights' names and the energies of OCP's, which no released fairchem has.

Source: Hu et al., arXiv:2103.01436. Directions enter as they are, so the energy follows a translation but *not* a rotation
of the structure: the paper learns that from rotated training data. Takes ``(z, pos, batch)`` as the models of
`dcsurgery.zoo.ocp.pyg_models` do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.models.schnet import ShiftedSoftplus
from torch_geometric.utils import scatter

from dcsurgery.zoo.ocp import element_tables
from dcsurgery.zoo.ocp.forcenet_basis import BASES, FixedBasis, HarmonicBasis
from dcsurgery.zoo.ocp.graph import RadiusGraph, distances

__all__ = ["ForceDecoder", "ForceNet", "ForceNetInteraction"]

_ACTIVATIONS = {
    "swish": nn.SiLU,
    "ssp": ShiftedSoftplus,
    "sp": nn.Softplus,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
}
_NEAREST = 1e-3  # smallest distance, in cutoffs, after the atoms' radii were taken from it


class ForceNet(nn.Module):
    """Edge filters from directions, distances and both atoms; dense updates with batch norms; a sum over the atoms.

    ``forward`` gives energies, and forces are their gradient. OCP's ForceNet reads its forces from a decoder instead; that
    is `direct_forces` here. Its weights take no part in the energy.

    Parameters
    ----------
    hidden_channels, num_interactions
        Width of the atom features, number of interaction blocks.
    cutoff
        Cutoff in Å.
    num_freqs
        Number of functions in which each feature is expanded.
    basis
        ``gauss``, ``powersine`` or ``sphallmul`` (sines times spherical harmonics, OCP's default).
    depth_mlp_edge, depth_mlp_node
        Hidden layers of filters and updates; at 0 a batch norm takes their place.
    activation_str
        ``swish``, ``ssp``, ``sp``, ``relu``, ``leaky_relu``, ``elu`` or ``tanh``.
    decoder_hidden_channels, decoder_type, decoder_activation_str
        Width of what energy and forces are read from; ``mlp``, ``linear``, or ``none`` for no direct forces; activation.
    max_neighbors
        Neighbours kept per atom, the nearest ones.
    use_pbc
        Let edges cross the boundaries of structures that have a cell.
    """

    #: Atomic numbers whose properties and radius the tables know.
    elements = tuple(z for z in range(1, 96) if z not in (36, 54, 85, 86, 87))

    def __init__(
        self,
        hidden_channels: int = 512,
        num_interactions: int = 5,
        cutoff: float = 6.0,
        num_freqs: int = 50,
        basis: str = "sphallmul",
        depth_mlp_edge: int = 2,
        depth_mlp_node: int = 1,
        activation_str: str = "swish",
        decoder_hidden_channels: int = 512,
        decoder_type: str = "mlp",
        decoder_activation_str: str = "swish",
        max_neighbors: int = 50,
        use_pbc: bool = True,
    ) -> None:
        super().__init__()
        if basis not in BASES:
            raise ValueError(f"basis must be one of {', '.join(BASES)}, got {basis!r}")
        self.cutoff = cutoff
        self.basis = basis
        self.graph = RadiusGraph(cutoff, max_neighbors, use_pbc)
        self.atom_radii = nn.Parameter(element_tables.radii().nan_to_num(), requires_grad=False)
        self.atom_map = nn.Parameter(_unit_range(element_tables.properties()), requires_grad=False)
        atoms = FixedBasis(self.atom_map.shape[1], num_freqs, "gauss" if basis == "gauss" else "powersine")
        self.embedding = nn.Sequential(atoms, nn.Linear(atoms.out_features, hidden_channels))
        self.basis_fun = HarmonicBasis(4, num_freqs) if basis == "sphallmul" else FixedBasis(7, num_freqs, basis)
        self.interactions = nn.ModuleList(
            ForceNetInteraction(
                hidden_channels, self.basis_fun.out_features, depth_mlp_edge, depth_mlp_node, activation_str
            )
            for _ in range(num_interactions)
        )
        self.lin = nn.Linear(hidden_channels, decoder_hidden_channels)
        self.activation = _activation(activation_str)
        self.decoder = (
            None
            if decoder_type == "none"
            else ForceDecoder(decoder_type, decoder_hidden_channels, decoder_activation_str)
        )
        self.energy_mlp = nn.Linear(decoder_hidden_channels, 1)

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
        return self.energy_mlp(scatter(self._atoms(z, pos, batch, cell, pbc), batch, dim=0, reduce="sum"))

    def direct_forces(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
    ) -> Tensor:
        """Return the decoder's forces (n_atoms, 3), which are not the gradient of the energy.

        Raises
        ------
        ValueError
            If the model was built without a decoder.
        """
        if self.decoder is None:
            raise ValueError("this ForceNet has no decoder: build it with decoder_type='mlp' or 'linear'")
        batch = torch.zeros_like(z) if batch is None else batch
        return self.decoder(self._atoms(z, pos, batch, cell, pbc))

    def _atoms(self, z: Tensor, pos: Tensor, batch: Tensor, cell: Tensor | None, pbc: Tensor | None) -> Tensor:
        """Return what energy and forces are read from, (n_atoms, decoder_hidden_channels)."""
        edge_index, vectors = self.graph.vectors(pos, batch, cell, pbc)
        dist = distances(vectors)
        direction = vectors / dist.masked_fill(dist == 0, 1.0)[:, None]
        edge_weight = torch.cos(0.5 * math.pi / self.cutoff * dist)
        edge_attr = self._edge_features(direction, dist, self.atom_radii[z], edge_index)
        h = self.embedding(F.embedding(z, self.atom_map))  # (n_atoms, hidden_channels)
        for interaction in self.interactions:
            h = h + interaction(h, edge_index, edge_attr, edge_weight)
        return self.activation(self.lin(h))

    def _edge_features(self, direction: Tensor, dist: Tensor, radii: Tensor, edge_index: Tensor) -> Tensor:
        source, target = radii[edge_index[0]], radii[edge_index[1]]
        gaps = torch.stack([dist, dist - source, dist - target, dist - source - target], dim=1) / self.cutoff
        gaps = gaps.clamp_min(_NEAREST)
        if self.basis == "sphallmul":
            return self.basis_fun(direction, gaps)
        if self.basis == "gauss":
            direction = (direction + 1) / 2  # into the range of the Gaussians
        return self.basis_fun(torch.cat([direction, gaps], dim=1))


class ForceNetInteraction(MessagePassing):
    """One interaction: messages filtered by edge and both atoms, summed, the atom's own features, a dense update.

    Parameters
    ----------
    hidden_channels, edge_features
        Widths of atom and edge features.
    depth_edge, depth_node
        Hidden layers of filter and update.
    activation
        Name of the activation.
    """

    def __init__(
        self, hidden_channels: int, edge_features: int, depth_edge: int, depth_node: int, activation: str
    ) -> None:
        super().__init__(aggr="add")
        width = hidden_channels
        self.lin_basis = nn.Linear(edge_features, width)
        edge: list[nn.Module] = [nn.Linear(3 * width, width)]
        for _ in range(depth_edge):
            edge += [_activation(activation), nn.Linear(width, width)]
        self.mlp_edge = nn.Sequential(*edge, *([] if depth_edge else [nn.BatchNorm1d(width)]))
        self.lin = nn.Linear(width, width)
        node: list[nn.Module] = [nn.Linear(width, width)]
        for _ in range(depth_node):
            node += [nn.BatchNorm1d(width), _activation(activation), nn.Linear(width, width)]
        self.mlp_trans = nn.Sequential(*node, *([] if depth_node else [nn.BatchNorm1d(width)]))
        self.center_W = nn.Parameter(torch.empty(1, width))
        _start_linear_layers(self)
        nn.init.xavier_uniform_(self.center_W)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, edge_weight: Tensor) -> Tensor:
        """Return the update (n_atoms, width) of x from edges (2, n_edges), their features and weights (n_edges,)."""
        source, target = edge_index
        about = torch.cat([self.lin_basis(edge_attr), x[source], x[target]], dim=1)
        weights = self.mlp_edge(about) * edge_weight[:, None]
        x = self.lin(x)
        return self.mlp_trans(self.propagate(edge_index, x=x, weights=weights) + self.center_W * x)

    def message(self, x_j: Tensor, weights: Tensor) -> Tensor:
        """Return the message of each edge, (n_edges, width), from the features of its source."""
        return x_j * weights


class ForceDecoder(nn.Module):
    """Read direct forces from atom features.

    Parameters
    ----------
    kind
        ``mlp`` or ``linear``.
    width
        Width of the atom features.
    activation
        Name of the activation.
    """

    def __init__(self, kind: str, width: int, activation: str) -> None:
        super().__init__()
        if kind not in ("mlp", "linear"):
            raise ValueError(f"decoder_type must be 'mlp', 'linear' or 'none', got {kind!r}")
        hidden = [nn.Linear(width, width), nn.BatchNorm1d(width), _activation(activation)] if kind == "mlp" else []
        self.decoder = nn.Sequential(*hidden, nn.Linear(width, 3))
        _start_linear_layers(self)

    def forward(self, h: Tensor) -> Tensor:
        """Return forces (n_atoms, 3) of atom features (n_atoms, width)."""
        return self.decoder(h)


def _start_linear_layers(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def _activation(name: str) -> nn.Module:
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {name!r}")
    return _ACTIVATIONS[name]()


def _unit_range(properties: Tensor) -> Tensor:
    """Return each property as a fraction of its range over the elements, (101, 9); 0 where it is not known."""
    known = properties[~properties[:, 0].isnan()]
    low, high = known.amin(dim=0), known.amax(dim=0)
    return ((properties - low) / (high - low)).nan_to_num()
