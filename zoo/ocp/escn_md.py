"""eSCN-MD of fairchem-core 2.x, the backbone of UMA, as an energy model that takes ``(z, pos, batch)``.

Weights are random, or a user's own: those of a fairchem ``HydraModel`` with this backbone and an energy head load under
``model.``. Forces are the gradient of the energy.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["EscnMD"]

_BACKBONE = "fairchem.core.models.uma.escn_md.eSCNMDBackbone"
_HEAD = "fairchem.core.models.uma.escn_md.MLP_Energy_Head"


class EscnMD(nn.Module):
    """Equivariant convolutions on spherical harmonics, an energy head.

    Parameters
    ----------
    sphere_channels, hidden_channels, edge_channels
        Widths of atom features, inside the blocks, and of edge features.
    lmax, mmax
        Largest degree and order of the spherical harmonics.
    num_layers, num_distance_basis
        Number of blocks and of radial functions.
    cutoff
        Cutoff in Å.
    max_neighbors
        Neighbours kept per atom. Fewer than there are make the energy discontinuous.
    use_pbc
        Let edges cross the boundaries of structures that have a cell.
    """

    #: Atomic numbers that it has an embedding of.
    elements = tuple(range(1, 100))

    def __init__(
        self,
        sphere_channels: int = 128,
        hidden_channels: int = 128,
        edge_channels: int = 128,
        lmax: int = 2,
        mmax: int = 2,
        num_layers: int = 2,
        num_distance_basis: int = 64,
        cutoff: float = 6.0,
        max_neighbors: int = 300,
        use_pbc: bool = True,
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.use_pbc = use_pbc
        with contextlib.redirect_stdout(io.StringIO()):
            importlib.import_module("fairchem.core.models.uma.escn_md")
            hydra = importlib.import_module("fairchem.core.models.base").HydraModel
            self.model = hydra(
                backbone={
                    "model": _BACKBONE,
                    "sphere_channels": sphere_channels,
                    "hidden_channels": hidden_channels,
                    "edge_channels": edge_channels,
                    "lmax": lmax,
                    "mmax": mmax,
                    "num_layers": num_layers,
                    "num_distance_basis": num_distance_basis,
                    "cutoff": cutoff,
                    "max_neighbors": max_neighbors,
                    "otf_graph": True,
                    "always_use_pbc": False,
                    "direct_forces": False,
                    "regress_forces": False,
                    "chg_spin_emb_type": "rand_emb",
                    "cs_emb_grad": True,
                    "use_dataset_embedding": False,
                },
                heads={"energy": {"module": _HEAD, "wrap_property": False}},
            )

    def forward(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        cell: Tensor | None = None,
        pbc: Tensor | None = None,
    ) -> Tensor:
        """Return energies (n_structures, 1), in float64, of atoms z (n_atoms,) at pos (n_atoms, 3) in Å."""
        batch = torch.zeros_like(z) if batch is None else batch
        energy: Tensor = self.model(self._data(z, pos, batch, cell, pbc))["energy"]["energy"]
        return energy.reshape(-1, 1)

    def _data(self, z: Tensor, pos: Tensor, batch: Tensor, cell: Tensor | None, pbc: Tensor | None) -> Any:
        natoms = torch.bincount(batch)
        structures = natoms.numel()
        if cell is None or pbc is None or not self.use_pbc:
            cell = torch.eye(3, dtype=pos.dtype, device=pos.device).expand(structures, 3, 3).clone()
            pbc = torch.zeros(structures, 3, dtype=torch.bool, device=pos.device)
        nothing = torch.zeros(structures, dtype=torch.long, device=pos.device)
        atomic_data = importlib.import_module("fairchem.core.datasets.atomic_data").AtomicData
        return atomic_data(
            pos=pos,
            atomic_numbers=z,
            cell=cell,
            pbc=pbc,
            natoms=natoms,
            edge_index=torch.zeros(2, 0, dtype=torch.long, device=pos.device),
            cell_offsets=pos.new_zeros(0, 3),
            nedges=nothing,
            charge=nothing,
            spin=nothing,
            fixed=torch.zeros_like(z),
            tags=torch.zeros_like(z),
            batch=batch,
            sid=[""] * structures,
            dataset=["omol"] * structures,
        )
