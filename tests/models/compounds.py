"""Activations that nobody listed: recognised by what they compute, and replaced whole; and gates."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from models.case import Case, Net, between, hand


def swish(x):
    return x * torch.sigmoid(x)


def shifted_softplus(x):
    return F.softplus(x) - math.log(2.0)


def scaled_silu(x, scale=1 / 0.6):
    return F.silu(x) * scale


class Swish(nn.Module):
    def forward(self, x):
        return x * x.sigmoid()


class ShiftedSoftplus(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = math.log(2.0)

    def forward(self, x):
        return F.softplus(x) - self.shift


class ScaledSiLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = 1 / 0.6
        self._activation = nn.SiLU()

    def forward(self, x):
        return self._activation(x) * self.scale


class SavedSwish(torch.autograd.Function):
    """A swish with a backward of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (s + x * s * (1 - s))


class WithFunction(Net):
    def forward(self, x):
        return self.b(swish(self.a(x)))


class WithModule(Net):
    def __init__(self, act):
        super().__init__()
        self.act = act

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class InSequential(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 4), Swish(), nn.Linear(4, 2), ShiftedSoftplus())


class WithAutogradFunction(Net):
    def forward(self, x):
        return self.b(SavedSwish.apply(self.a(x)))


class WithHeldAutogradFunction(Net):
    def __init__(self):
        super().__init__()
        self.act = SavedSwish.apply

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class Gated(Net):
    """Three gates and one activation."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(3, 8)
        self.glu = nn.GLU()
        self.gate = nn.Sigmoid()

    def forward(self, x):
        h = self.glu(self.wide(x)) + F.glu(self.wide(x), dim=1)
        return self.b(h * self.gate(self.a(x)) + F.silu(h))


def gated(m, x):
    h = 2 * F.glu(m.wide(x))
    return m.b(h * torch.sigmoid(m.a(x)) + hand(h))


def opened(m, x):
    left, right = m.wide(x).chunk(2, -1)
    h = 2 * left * hand(right)
    return m.b(h * hand(m.a(x)) + hand(h))


def sequential(m, x):
    return hand(m[2](hand(m[0](x))))


CASES = {
    "swish function": Case(WithFunction, between),
    "held shifted softplus": Case(lambda: WithModule(shifted_softplus), between),
    "held scaled silu": Case(lambda: WithModule(scaled_silu), between),
    "swish module": Case(lambda: WithModule(Swish()), between),
    "shifted softplus module": Case(lambda: WithModule(ShiftedSoftplus()), between),
    "scaled silu module": Case(lambda: WithModule(ScaledSiLU()), between),
    "modules in a Sequential": Case(InSequential, sequential, edits=2),
    "autograd.Function": Case(WithAutogradFunction, between),
    "held autograd.Function": Case(WithHeldAutogradFunction, between, pickles=False),
    "gates": Case(Gated, gated),
    "gates, asked for": Case(Gated, opened, edits=4, options={"gates": True}),
}
