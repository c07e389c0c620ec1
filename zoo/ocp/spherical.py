"""The spherical basis of DimeNet in closed form: sbf_ln(d, angle) = u(d/c) j_l(z_ln d/c) / N_ln * Y_l0(angle).

PyG builds the same functions from sympy expressions, which takes many seconds, cannot be pickled and evaluates each
function alone; here they are recursions over l on tensors of shape (n_edges, n_radial).
Source: Gasteiger, Gross, Günnemann, "Directional Message Passing for Molecular Graphs", arXiv:2003.03123, Eqs. 6-8.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["SphericalBasis", "spherical_bessel_zeros"]


def spherical_bessel_zeros(orders: int, count: int) -> NDArray[Any]:
    """Return the first positive zeros of the spherical Bessel functions, shape (orders, count).

    The zeros of j_l lie one by one between those of j_(l-1), which start as multiples of pi; bisection finds them.
    """
    zeros = np.arange(1, count + orders) * np.pi
    rows = [zeros[:count]]
    for order in range(1, orders):
        low, high = zeros[:-1], zeros[1:]
        rising = _bessel_at(order, low) < 0
        for _ in range(60):
            middle = 0.5 * (low + high)
            above = (_bessel_at(order, middle) > 0) == rising
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        zeros = 0.5 * (low + high)
        rows.append(zeros[:count])
    return np.stack(rows)


def _bessel_at(order: int, x: NDArray[Any]) -> NDArray[Any]:
    before, value = np.cos(x) / x, np.sin(x) / x  # j_(-1), j_0
    for step in range(order):
        before, value = value, (2 * step + 1) / x * value - before
    return value


class SphericalBasis(nn.Module):
    """Products of spherical Bessel functions of distances and zonal spherical harmonics of angles.

    Parameters
    ----------
    num_spherical
        Number of orders l = 0, 1, ...
    num_radial
        Number of radial functions of each order.
    cutoff
        Cutoff c in Å; the functions vanish there.
    envelope_exponent
        Exponent of the smooth cutoff u.
    """

    zeros: Tensor
    norms: Tensor

    def __init__(self, num_spherical: int, num_radial: int, cutoff: float = 5.0, envelope_exponent: int = 5) -> None:
        from torch_geometric.nn.models.dimenet import Envelope

        super().__init__()
        self.num_spherical = num_spherical
        self.num_radial = num_radial
        self.cutoff = cutoff
        self.envelope = Envelope(envelope_exponent)
        zeros = spherical_bessel_zeros(num_spherical, num_radial)
        norms = np.stack([np.abs(_bessel_at(order + 1, row)) for order, row in enumerate(zeros)]) / math.sqrt(2)
        dtype = torch.get_default_dtype()
        # Not in the state_dict: they are constants, and PyG's layer stores none.
        self.register_buffer("zeros", torch.tensor(zeros, dtype=dtype), persistent=False)
        self.register_buffer("norms", torch.tensor(norms, dtype=dtype), persistent=False)

    def forward(self, dist: Tensor, angle: Tensor, idx_kj: Tensor) -> Tensor:
        """Evaluate the basis.

        Parameters
        ----------
        dist
            Edge lengths in Å, shape (n_edges,).
        angle
            Angles of the triplets in rad, shape (n_triplets,).
        idx_kj
            The edge k -> j of each triplet, shape (n_triplets,).

        Returns
        -------
        Tensor
            Shape (n_triplets, num_spherical * num_radial), order-major.
        """
        scaled = dist / self.cutoff
        radial = self.envelope(scaled).view(-1, 1, 1) * self._bessel(scaled)  # (n_edges, l, n)
        return (radial[idx_kj] * self._harmonics(angle).unsqueeze(-1)).flatten(1)

    def _bessel(self, scaled: Tensor) -> Tensor:
        columns = []
        for order in range(self.num_spherical):
            x = scaled.unsqueeze(-1) * self.zeros[order]  # (n_edges, n)
            before, value = x.cos() / x, x.sin() / x
            for step in range(order):
                before, value = value, (2 * step + 1) / x * value - before
            columns.append(value / self.norms[order])
        return torch.stack(columns, dim=1)

    def _harmonics(self, angle: Tensor) -> Tensor:
        cosine = angle.cos()
        before, value = torch.zeros_like(cosine), torch.ones_like(cosine)  # Legendre P_(-1), P_0
        columns = []
        for order in range(self.num_spherical):
            columns.append(math.sqrt((2 * order + 1) / (4 * math.pi)) * value)
            before, value = value, ((2 * order + 1) * cosine * value - order * before) / (order + 1)
        return torch.stack(columns, dim=1)
