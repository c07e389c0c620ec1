"""Models that torch.export takes, and programs made of them."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Branches", "Inplace", "Molecule", "Network", "batch_of", "decomposed", "export", "points"]


class Shifted(nn.Module):
    """softplus(x) - log 2, as SchNet has it."""

    def forward(self, x):
        return F.softplus(x) - 0.6931471805599453


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.act = Shifted()

    def forward(self, x):
        return x + torch.tanh(self.act(self.layer(x)))


class Network(nn.Module):
    """Norms of two kinds, a shared compound, calls in a loop, a buffer, and an output block; outputs by name."""

    def __init__(self, width=6):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.norm = nn.LayerNorm(width)
        self.act = Swish()
        self.out_block = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.register_buffer("factor", torch.full((width,), 1.5))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.mlp(x)
        for block in self.blocks:
            h = block(h)
        h = self.act(self.act(self.norm(h))) * self.factor
        return {"energy": self.out_block(h).squeeze(-1), "hidden": F.elu(h)}


class Branches(nn.Module):
    """A branch that depends on values."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x):
        h = self.a(x)
        h = torch.cond(x.sum() > 0, lambda h: F.silu(h), lambda h: torch.tanh(h) + 1, (h,))
        return self.b(h)


class Inplace(nn.Module):
    """Activations that write into their input, which somebody reads afterwards."""

    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(3, 4), nn.SiLU(inplace=True), nn.Linear(4, 1)

    def forward(self, x):
        h = self.a(x)
        y = self.act(h)
        return self.b(y) + h.sum()


class Molecule(nn.Module):
    """An energy model on edges: number of atoms, edges and molecules are free."""

    def __init__(self, width=8):
        super().__init__()
        self.embedding = nn.Embedding(10, width)
        self.register_buffer("centres", torch.linspace(0, 4, 5))
        self.filter = nn.Sequential(nn.Linear(5, width), Shifted(), nn.Linear(width, width))
        self.update = nn.Sequential(nn.Linear(width, width), Shifted(), nn.Linear(width, width))
        self.readout = nn.Sequential(nn.Linear(width, width), Shifted(), nn.Linear(width, 1))

    def forward(self, z, pos, edge_index, batch, sizes):
        i, j = edge_index
        distance = (pos[i] - pos[j]).norm(dim=-1)
        basis = torch.exp(-2 * (distance[:, None] - self.centres) ** 2)
        cutoff = 0.5 * (torch.cos(distance * 0.6) + 1)
        x = self.embedding(z)
        message = x[j] * self.filter(basis) * cutoff[:, None]
        x = x + self.update(torch.zeros_like(x).index_add(0, i, message))
        energy = self.readout(x).squeeze(-1)
        return torch.zeros_like(sizes, dtype=energy.dtype).index_add(0, batch, energy)


def batch_of(sizes, seed=0):
    """Return atoms of molecules of some sizes, every pair within one an edge."""
    generator = torch.Generator().manual_seed(seed)
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    same = (batch[:, None] == batch) & ~torch.eye(len(batch), dtype=torch.bool)
    z = torch.randint(1, 9, (len(batch),), generator=generator)
    pos = 2 * torch.randn(len(batch), 3, generator=generator, dtype=torch.float64)
    return z, pos, same.nonzero().T.contiguous(), batch, torch.tensor(sizes)


def points(count=5, width=3, seed=0):
    """Return inputs in float64."""
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def export(model, *inputs, shapes=None):
    """Export a model, if nothing else is said with a free first dimension of its one input."""
    shapes = ({0: torch.export.Dim("count", min=2)},) if shapes is None else shapes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own doings
        return torch.export.export(model, inputs, dynamic_shapes=shapes)


def decomposed(program):
    """Return a program in core ATen operators."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return program.run_decompositions()
