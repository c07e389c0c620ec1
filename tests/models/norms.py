"""Normalizations, alone and fused with activations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from models.case import Case, Net, between, hand, rows


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.batch = nn.BatchNorm1d(4)
        self.layer = nn.LayerNorm(4)
        self.b = nn.Linear(4, 2)

    def forward(self, x):
        return self.b(F.silu(self.layer(self.batch(self.a(x)))))


class FunctionalNorm(Net):
    """Weights of its own, given to a functional norm."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4))
        self.bias = nn.Parameter(torch.rand(4))

    def forward(self, x):
        h = F.layer_norm(self.a(x), (4,), self.weight, bias=self.bias)
        return self.b(torch.tanh(F.layer_norm(input=h, normalized_shape=(4,))))


class NormAct(nn.BatchNorm1d):
    """A norm with its activation inside, as vision libraries have it."""

    def __init__(self, features, act):
        super().__init__(features)
        self.act = act
        self.drop = nn.Identity()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class WrittenOutNormAct(nn.BatchNorm1d):
    def __init__(self, features):
        super().__init__(features)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )
        return self.act(x)


class Fused(Net):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.b(self.norm(self.a(x)))


class GraphNorms(nn.Module):
    """PyG's norms take the batch vector, too."""

    def __init__(self):
        super().__init__()
        from torch_geometric.nn import GraphNorm, MessageNorm, PairNorm

        self.a = nn.Linear(3, 4)
        self.graph = GraphNorm(4)
        self.pair = PairNorm()
        self.message = MessageNorm()
        self.act = nn.SiLU()
        self.b = nn.Linear(4, 2)

    def forward(self, x, batch):
        h = self.pair(self.act(self.graph(self.a(x), batch)), batch=batch)
        return self.b(self.message(x=h, msg=h + 1))


class Parametric(Net):
    def __init__(self):
        super().__init__()
        self.act = nn.PReLU(4)

    def forward(self, x):
        return self.b(self.act(self.a(x)))


BATCH = torch.tensor([0, 0, 1, 1, 1])

CASES = {
    "norm modules": Case(Norms, between, edits=3),
    "norms only": Case(Norms, lambda m, x: m.b(F.silu(m.a(x))), edits=2, options={"irelu": False}),
    "activations only": Case(
        Norms,
        lambda m, x: m.b(hand(m.layer(m.batch(m.a(x))))),
        options={"denorm": False},
    ),
    "functional norms": Case(FunctionalNorm, between, edits=3),
    "norm and activation in one class": Case(lambda: Fused(NormAct(4, nn.SiLU())), between, edits=2),
    "norm out of a class with an activation": Case(
        lambda: Fused(NormAct(4, nn.SiLU())), lambda m, x: m.b(F.silu(m.a(x))), options={"irelu": False}
    ),
    "functional norm in a norm's subclass": Case(lambda: Fused(WrittenOutNormAct(4)), between, edits=2),
    "norms with two arguments": Case(
        GraphNorms, lambda m, x, batch: m.b(hand(m.a(x)) + 1), edits=4, inputs=(rows(), BATCH)
    ),
    "PReLU": Case(Parametric, between),
}
