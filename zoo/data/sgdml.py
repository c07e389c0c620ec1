"""Energies and forces of many geometries at once, from an sGDML force field in its public npz format.

With d the inverse distances of all pairs of atoms, d_j those of the training geometries and their permuted copies, and
q = √5 / sigma, D_j = q |d - d_j|, the energy is

    E = c + s Σ_j 5 / (3 sigma²) exp(-D_j) (1 + D_j) a_j · (d - d_j),

and F = -dE/dR is written out below, so that both cost four matrix products. Source: Chmiela et al., Nat. Commun. 9, 3887
(2018), Eq. 8-10, and Comput. Phys. Commun. 240, 38 (2019) for the file format. Files of 2018 (``Rt_desc``, no ``std``) and of
sGDML 1.0 (``R_desc``, energies scaled by ``std``) are read.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.npz_files import stored_units
from dcsurgery.zoo.data.units import KCAL, Units

__all__ = ["ForceField", "read_force_field"]

_IN_CACHE = 32  # geometries at a time on a CPU: what belongs to them then stays near the processor
_READ = (
    *("R_desc", "R_d_desc_alpha", "Rt_desc", "Rt_d_desc_alpha", "tril_perms_lin", "sig", "c", "std", "z"),
    *("alphas_E", "lattice", "e_unit", "r_unit"),
)
_FIX = "give an sGDML force field: an npz with R_desc, R_d_desc_alpha, tril_perms_lin, sig, c and z"


class ForceField(nn.Module):
    """An sGDML force field.

    Parameters
    ----------
    numbers
        Atomic numbers, shape (n_atoms,).
    descriptors
        Inverse distances of the training geometries and their permuted copies, shape (n_points, n_pairs), pairs in the
        order of the lower triangle.
    weights
        a_j, shape (n_points, n_pairs).
    sigma
        Length scale sigma of the kernel.
    constant
        c, in the unit of energy.
    scale
        s.
    n_unpermuted
        The first so many rows of ``descriptors`` at equal steps are the training geometries themselves.
    units
        Of energies and lengths.
    name
        For tables and records.
    """

    stacked: Tensor  # (n_pairs, 2 n_points): descriptors and weights, so that one product gives both
    rows: Tensor  # (2 n_points, n_pairs)
    mean: Tensor  # (n_pairs,), of the descriptors
    squares: Tensor  # (n_points,)
    offsets: Tensor  # (n_points,)
    first: Tensor  # (n_pairs,), atoms of the pairs
    second: Tensor

    def __init__(
        self,
        numbers: NDArray[Any],
        descriptors: NDArray[Any],
        weights: NDArray[Any],
        sigma: float,
        constant: float,
        *,
        scale: float = 1.0,
        n_unpermuted: int | None = None,
        units: Units = KCAL,
        name: str = "sGDML",
    ) -> None:
        super().__init__()
        self.numbers = np.asarray(numbers, dtype=np.int64)
        self.sigma, self.constant, self.scale = float(sigma), float(constant), float(scale)
        self.units, self.name = units, name
        self.training = False
        self.n_training = len(descriptors) if n_unpermuted is None else n_unpermuted
        points, a = torch.from_numpy(np.ascontiguousarray(descriptors)), torch.from_numpy(np.ascontiguousarray(weights))
        # All that counts are differences of descriptors: taken from their mean, products lose fewer digits.
        mean = points.mean(0)
        points = points - mean
        rows = torch.cat([points, a])
        self.register_buffer("mean", mean)
        self.register_buffer("rows", rows)
        self.register_buffer("stacked", rows.T.contiguous())
        self.register_buffer("squares", (points * points).sum(1))
        self.register_buffer("offsets", (points * a).sum(1))
        first, second = np.tril_indices(len(self.numbers), -1)
        self.register_buffer("first", torch.from_numpy(first))
        self.register_buffer("second", torch.from_numpy(second))

    @property
    def n_atoms(self) -> int:
        """Atoms of the molecule."""
        return len(self.numbers)

    @torch.no_grad()  # forces are written out; that saves the graph of thousands of points
    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies and forces.

        Parameters
        ----------
        positions
            Shape (n, n_atoms, 3), float64, in the force field's unit of length.

        Returns
        -------
        energies, forces
            Shapes (n,) and (n, n_atoms, 3), F = -dE/dR.
        """
        if positions.device.type == "cpu" and len(positions) > _IN_CACHE:
            parts = [self(part) for part in positions.split(_IN_CACHE)]
            return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        n_points = len(self.squares)
        apart = positions[:, self.first] - positions[:, self.second]  # (n, n_pairs, 3)
        d = apart.square().sum(-1).rsqrt()  # (n, n_pairs)
        x = d - self.mean
        q = 5**0.5 / self.sigma
        products = x @ self.stacked  # (n, 2 n_points)
        D = products[:, :n_points].mul(-2 * q * q)
        D.add_(q * q * (x.square().sum(1, keepdim=True) + self.squares)).clamp_min_(0).sqrt_()
        dot = products[:, n_points:] - self.offsets
        decay = torch.exp(-D)
        outer = D.add_(1).mul_(decay)
        inner = decay.mul_(dot)
        prefactor = self.scale * 5 / (3 * self.sigma**2)
        energies = prefactor * (outer * dot).sum(1) + self.constant
        # dE/dd = Σ_j prefactor exp(-D_j) [(1 + D_j) a_j - q² dot_j (d - d_j)]
        slope = inner @ self.rows[:n_points]
        slope.sub_(inner.sum(1, keepdim=True) * x).mul_(q * q).addmm_(outer, self.rows[n_points:])
        pair = (prefactor * slope * d**3)[..., None] * apart  # of d = 1/r: dd/dR = -R/r³
        forces = torch.zeros_like(positions)
        forces.index_add_(1, self.first, pair).index_add_(1, self.second, pair, alpha=-1.0)
        return energies, forces

    def nearness(self, positions: Tensor) -> Tensor:
        """Return how far each geometry's descriptor is from the nearest training geometry's, in units of sigma; (n,)."""
        x = (positions[:, self.first] - positions[:, self.second]).square().sum(-1).rsqrt() - self.mean
        square = x.square().sum(1, keepdim=True) - 2 * x @ self.stacked[:, : len(self.squares)] + self.squares
        return square.clamp_min(0).min(1).values.sqrt() / self.sigma

    def training_geometries(self, indices: Any) -> Tensor:
        """Return geometries that the force field was trained on, from their distances alone; (n, n_atoms, 3).

        A mirror image has the same distances: which of the two it is is lost, and means nothing to the energy.
        """
        step = len(self.squares) // self.n_training
        d = (
            self.rows[: len(self.squares) : step][torch.as_tensor(indices)] + self.mean
        )  # every step-th row is unpermuted
        n, atoms = len(d), self.n_atoms
        square = torch.zeros(n, atoms, atoms, dtype=torch.float64, device=d.device)
        square[:, self.first, self.second] = d**-2
        square = square + square.mT
        centring = torch.eye(atoms, dtype=torch.float64, device=d.device) - 1 / atoms
        values, vectors = torch.linalg.eigh(-0.5 * centring @ square @ centring)
        return vectors[..., -3:] * values[:, None, -3:].clamp_min(0).sqrt()


def read_force_field(path: str | Path) -> ForceField:
    """Read an sGDML force field.

    Raises
    ------
    BadInput
        If the file is missing or damaged, is no force field, has arrays that do not fit together or are not finite, or
        is of a kind that is not evaluated here: trained on energies as well, or periodic.
    """
    where = str(path)
    if not Path(path).is_file():
        raise BadInput("is a directory" if Path(path).is_dir() else "no such file", where=where, fix=_FIX)
    try:
        with open(path, "rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise BadInput("a single array, not an npz file", where=where, fix=_FIX)
            present = ", ".join(file.files) or "none"
            # Others are left alone: they may be pickled, and are not needed.
            stored = {key: file[key] for key in file.files if key in _READ}
    except BadInput:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"not a readable npz file ({error})", where=where, fix=_FIX) from None
    keys = ("R_desc", "R_d_desc_alpha") if "R_desc" in stored else ("Rt_desc", "Rt_d_desc_alpha")
    missing = [key for key in (*keys, "tril_perms_lin", "sig", "c", "z") if key not in stored]
    if missing:
        raise BadInput(f"no array {', '.join(missing)}; present: {present}", where=where, fix=_FIX)
    for key, reason in (("alphas_E", "trained on energies as well"), ("lattice", "periodic")):
        if key in stored:
            raise BadInput(f"a force field that is {reason}", where=where, fix="use one that is not")
    z = stored["z"].astype(np.int64).reshape(-1)
    pairs = len(z) * (len(z) - 1) // 2
    points = stored[keys[0]]
    weights = stored[keys[1]].reshape(len(stored[keys[1]]), -1)
    order = stored["tril_perms_lin"].astype(np.int64).reshape(-1)
    n = points.shape[-1]
    if points.shape != (pairs, n) or weights.shape != (n, pairs) or not pairs or not order.size or order.size % pairs:
        raise BadInput(
            f"{len(z)} atoms have {pairs} pairs, but {keys[0]} has shape {points.shape}, {keys[1]} {weights.shape},"
            f" tril_perms_lin {order.size} entries",
            where=where,
            fix=_FIX,
        )
    copies = order.size // pairs
    if order.min() < 0 or order.max() >= order.size or float(stored["sig"]) <= 0:
        raise BadInput("tril_perms_lin or sig is out of range", where=where, fix=_FIX)
    # Entry (pair, copy) of the list says which pair of which copy to take; copy 0 is the geometry itself.
    chosen = order.reshape(pairs, copies).T % pairs  # (n_copies, n_pairs)
    arrays = {
        "descriptors": points.T[:, chosen].reshape(n * copies, pairs),
        "weights": weights[:, chosen].reshape(n * copies, pairs),
    }
    for key, array in {**arrays, "c": stored["c"]}.items():
        if not np.isfinite(array).all():
            raise BadInput(f"{key} is not finite", where=where, fix="get the file again")
    name = Path(path).stem.removeprefix("sgdml_model_")
    return ForceField(
        z,
        **arrays,
        sigma=float(stored["sig"]),
        constant=float(stored["c"]),
        scale=float(stored.get("std", 1.0)),
        n_unpermuted=n,
        units=stored_units(stored) or KCAL,
        name=name,
    )
