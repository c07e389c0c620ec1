"""The bases in which ForceNet expands its features: Gaussians, sines, and sines times spherical harmonics."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["BASES", "FixedBasis", "Gaussians", "HarmonicBasis", "Sines", "spherical_harmonics"]

BASES = ("gauss", "powersine", "sphallmul")
_GROWTH = 1.1  # from one frequency to the next


class Gaussians(nn.Module):
    """Gaussians, equally spaced on [0, 1], of each of some features.

    Parameters
    ----------
    features, functions
        Numbers of features and of functions of each.
    """

    def __init__(self, features: int, functions: int) -> None:
        super().__init__()
        self.functions = functions
        self.inverse_width = float(max(functions - 1, 1))
        self.offset = _constant(torch.linspace(0, 1, functions), features)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, functions * features) of x (n, features), function by function."""
        return torch.exp(-0.5 * (self.inverse_width * (x.repeat(1, self.functions) - self.offset)).square())


class Sines(nn.Module):
    """Sines, whose frequencies grow by a factor from one to the next, of each of some features.

    Parameters
    ----------
    features, functions
        Numbers of features and of functions of each.
    """

    def __init__(self, features: int, functions: int) -> None:
        super().__init__()
        self.functions = functions
        self.freq_filter = _constant(_GROWTH ** torch.arange(functions, dtype=torch.float32), features)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, functions * features) of x (n, features), function by function."""
        return torch.sin(x.repeat(1, self.functions) * self.freq_filter)


class FixedBasis(nn.Module):
    """Expand each of some features, which lie in [0, 1], in the same functions.

    Parameters
    ----------
    features, functions
        Numbers of features and of functions of each.
    kind
        ``gauss`` or ``powersine``.
    """

    def __init__(self, features: int, functions: int, kind: str) -> None:
        super().__init__()
        self.out_features = features * functions
        self.smearing = Gaussians(features, functions) if kind == "gauss" else Sines(features, functions)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, out_features) of x (n, features)."""
        return self.smearing(x)


class HarmonicBasis(nn.Module):
    """Products of sines of the distances with the spherical harmonics up to l = 2 of the direction.

    Parameters
    ----------
    distances, functions
        Numbers of distances of an edge and of sines of each.
    """

    harmonics = 9

    def __init__(self, distances: int, functions: int) -> None:
        super().__init__()
        self.out_features = distances * self.harmonics
        self.smearing_sine = Sines(distances, functions)
        self.lin = nn.Linear(distances * functions, distances)

    def forward(self, direction: Tensor, distances: Tensor) -> Tensor:
        """Return (n_edges, out_features) of unit vectors (n_edges, 3) and distances (n_edges, distances)."""
        weights = self.lin(self.smearing_sine(distances))
        return (spherical_harmonics(direction)[:, :, None] * weights[:, None, :]).flatten(start_dim=1)


def spherical_harmonics(direction: Tensor) -> Tensor:
    """Return the spherical harmonics of unit vectors (n, 3) as polynomials, (n, 9), with the Condon-Shortley phase.

    Columns: Y_00, Y_10, Y_20, then the real parts of Y_11, Y_21, Y_22, then their imaginary parts.
    """
    x, y, z = direction.unbind(dim=1)
    a, b, c = math.sqrt(1 / math.pi) / 2, math.sqrt(3 / math.pi) / 2, math.sqrt(5 / math.pi) / 4
    d, e, f = math.sqrt(1.5 / math.pi) / 2, math.sqrt(7.5 / math.pi) / 2, math.sqrt(7.5 / math.pi) / 4
    columns = [torch.full_like(x, a), b * z, c * (3 * z**2 - 1)]
    columns += [-d * x, -e * x * z, f * (x**2 - y**2)]
    columns += [-d * y, -e * y * z, 2 * f * x * y]
    return torch.stack(columns, dim=1)


def _constant(values: Tensor, features: int) -> nn.Parameter:
    """Return values that are saved and counted with the weights, as OCP does, and not trained, (1, len * features)."""
    return nn.Parameter(values.repeat_interleave(features)[None], requires_grad=False)
