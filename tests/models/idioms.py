"""Activations that are written out in an expression, and what looks like one and is none."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from models.case import Case, Net, between, hand, rows


class Silu(Net):
    """Beside a call of its own, so that both are told apart."""

    def forward(self, x):
        h = self.a(x)
        return self.b(h * torch.sigmoid(h) + F.softplus(h))


class SiluByMethod(Net):
    def forward(self, x):
        h = self.a(x)
        return self.b(h.sigmoid() * h)


class SiluByFunctions(Net):
    def forward(self, x):
        h = self.a(x)
        return self.b(torch.mul(torch.sigmoid(h), h))


class SiluWrittenInto(Net):
    """The sigmoid is a new tensor: nobody sees that it is written into."""

    def forward(self, x):
        h = self.a(x)
        return self.b(torch.sigmoid(h).mul_(h))


class SiluByExp(Net):
    def forward(self, x):
        h = self.a(x)
        return self.b(h / (1 + torch.exp(-h)))


class SiluOverLines(Net):
    def forward(self, x):
        h = self.a(x)
        return self.b(
            h
            * torch.sigmoid(
                h,
            )
        )


class SiluByModule(Net):
    def __init__(self):
        super().__init__()
        self.gate = nn.Sigmoid()

    def forward(self, x):
        h = self.a(x)
        return self.b(h * self.gate(h))


class SiluByAttribute(Net):
    def __init__(self):
        super().__init__()
        self.gate = torch.sigmoid

    def forward(self, x):
        h = self.a(x)
        return self.b(h * self.gate(h))


class ShiftedSoftplus(Net):
    """Its source is a call, which is made once."""

    def forward(self, x):
        return self.b(F.softplus(self.a(x)) - math.log(2.0))


class ScaledSilu(Net):
    def forward(self, x):
        return self.b(F.silu(self.a(x)) * (1 / 0.6))


class Softplus(Net):
    def forward(self, x):
        return self.b(torch.log(1 + torch.exp(self.a(x))))


class Gelu(Net):
    def forward(self, x):
        x = self.a(x)
        return self.b(0.5 * x * (1 + torch.erf(x / math.sqrt(2))))


class GeluByTanh(Net):
    def forward(self, x):
        x = self.a(x)
        return self.b(0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0)))))


class QuickGelu(Net):
    def forward(self, x):
        x = self.a(x)
        return self.b(x * torch.sigmoid(1.702 * x))


class Mish(Net):
    def forward(self, x):
        x = self.a(x)
        return self.b(x * torch.tanh(F.softplus(x)))


class Hardswish(Net):
    def forward(self, x):
        x = self.a(x)
        return self.b(x * F.relu6(x + 3) / 6)


class Relus(Net):
    """Five ways of writing one, and two of writing a leaky one with a slope from the module."""

    def __init__(self):
        super().__init__()
        self.slope = 0.2

    def forward(self, x):
        h = self.a(x)
        y = torch.maximum(h, torch.zeros_like(h)) + h.clamp(min=0) + torch.where(h > 0, h, torch.zeros_like(h))
        y = y + h * (h > 0) + torch.clamp_min(h, 0)
        return self.b(y + torch.where(h > 0, h, self.slope * h) + torch.maximum(h, self.slope * h))


class Tanh(Net):
    def forward(self, x):
        h = self.a(x)
        return self.b(2 * torch.sigmoid(2 * h) - 1 + h / (1 + h.abs()))


class OfASum(Net):
    """The source is an expression that is written twice and evaluated once afterwards."""

    def forward(self, x):
        h, g = self.a(x), self.a(-x)
        return self.b((h + g) * torch.sigmoid(h + g) + h[:, :1] * torch.sigmoid(h[:, :1]))


class OfAttributes(Net):
    def forward(self, x):
        self.kept = self.a(x)
        return self.b(self.kept * torch.sigmoid(self.kept))


class OverTwoLines(Net):
    def forward(self, x):
        h = self.a(x)
        s = torch.sigmoid(h)
        h = h * s
        return self.b(h)


class OverThreeLines(Net):
    def forward(self, x):
        x = self.a(x)
        c: float = math.sqrt(2.0 / math.pi)
        inner = c * (x + 0.044715 * x**3)
        other = x + 1
        t = torch.tanh(inner)
        return self.b(0.5 * x * (1 + t)) + other.sum()


class Augmented(Net):
    def forward(self, x):
        h = self.a(x)
        g = h.clone()
        h *= torch.sigmoid(h)
        return self.b(h + g)


class Nested(Net):
    """An idiom's source has sites of its own: a call, and another idiom."""

    def forward(self, x):
        y = F.softplus(torch.tanh(self.a(x))) - math.log(2.0)
        return self.b(torch.log(1 + torch.exp(y * torch.sigmoid(y))))


def gelu_of(h, w):
    cdf = 0.5 * (1.0 + torch.erf(h / math.sqrt(2.0)))
    return h * cdf + w


class InHelper(Net):
    """In a function that does more than that, called in two ways."""

    def forward(self, x):
        return self.b(gelu_of(self.a(x), 1.0) + gelu_of(self.a(-x), 2.0))


class InLoops(Net):
    def forward(self, x):
        h = self.a(x)
        for _ in range(2):
            h = h * torch.sigmoid(h)
        parts = [p * torch.sigmoid(p) for p in h.chunk(2, -1)]
        return self.b(torch.cat(parts, -1)) + sum(v * v.sigmoid() for v in (x.sum(), x.mean()))


class InLocalFunction(Net):
    def forward(self, x):
        def act(h):
            return h * torch.sigmoid(h)

        f = lambda h: h * torch.sigmoid(h) + 1
        return self.b(act(self.a(x)) + f(self.a(-x)))


class NotReached(Net):
    def forward(self, x):
        h = self.a(x)
        if x.sum() > 1e6:
            s = torch.sigmoid(h)
            return self.b(h * s)
        return self.b(h * torch.sigmoid(h))


class OneScaled(Net):
    """The scale is not the activation's."""

    def forward(self, x):
        h = self.a(x)
        return self.b(2 * (h * torch.sigmoid(h)) + 3 * F.silu(h) + (F.softplus(h) + 1))


class Residual(Net):
    def forward(self, x):
        h = self.a(x)
        return self.b(h + F.relu(h) + (h + h.clamp(min=0)))


class Gates(Net):
    """Sigmoids that weigh something else, one of them spelt out, and a tanh made into one."""

    def forward(self, x):
        h, g = self.a(x), self.a(-x)
        return self.b(torch.sigmoid(h) * g + 1 / (1 + torch.exp(-h)) * g + 0.5 * (1 + torch.tanh(h)) * g + F.silu(g))


def gates(m, x):
    h, g = m.a(x), m.a(-x)
    return m.b(2 * torch.sigmoid(h) * g + torch.sigmoid(2 * h) * g + hand(g))


def over_three_lines(m, x):
    return between(m, x) + (m.a(x) + 1).sum()


def in_loops(m, x):
    return m.b(hand(hand(hand(m.a(x))))) + hand(x.sum()) + hand(x.mean())


def of_a_sum(m, x):
    h, g = m.a(x), m.a(-x)
    return m.b(hand(h + g) + hand(h[:, :1]))


CASES = {
    "silu": Case(Silu, lambda m, x: m.b(2 * hand(m.a(x))), edits=2),
    "silu by method": Case(SiluByMethod, between),
    "silu by functions": Case(SiluByFunctions, between),
    "silu written into": Case(SiluWrittenInto, between),
    "silu by exp": Case(SiluByExp, between),
    "silu over lines": Case(SiluOverLines, between),
    "silu by module": Case(SiluByModule, between),
    "silu by attribute": Case(SiluByAttribute, between),
    "shifted softplus": Case(ShiftedSoftplus, between),
    "scaled silu": Case(ScaledSilu, between),
    "softplus": Case(Softplus, between),
    "gelu": Case(Gelu, between),
    "gelu by tanh": Case(GeluByTanh, between),
    "quick gelu": Case(QuickGelu, between),
    "mish": Case(Mish, between),
    "hardswish": Case(Hardswish, between),
    "relus": Case(Relus, lambda m, x: m.b(7 * hand(m.a(x))), edits=7),
    "tanh and softsign": Case(Tanh, lambda m, x: m.b(2 * hand(m.a(x))), edits=2),
    "of a sum": Case(OfASum, of_a_sum, edits=2),
    "of an attribute": Case(OfAttributes, between),
    "over two lines": Case(OverTwoLines, between),
    "over three lines": Case(OverThreeLines, over_three_lines),
    "augmented assignment": Case(Augmented, lambda m, x: m.b(hand(m.a(x)) + m.a(x))),
    "nested idioms": Case(Nested, lambda m, x: m.b(hand(hand(hand(hand(m.a(x)))))), edits=4),
    "in a helper": Case(InHelper, lambda m, x: m.b(hand(m.a(x)) + 1 + hand(m.a(-x)) + 2)),
    "in loops": Case(InLoops, in_loops, edits=3),
    "in local functions": Case(InLocalFunction, lambda m, x: m.b(hand(m.a(x)) + hand(m.a(-x)) + 1), edits=2),
    "not reached": Case(NotReached, between, edits=2, other_inputs=(rows() * 1e6 + 1e6,)),
    "one scaled": Case(OneScaled, lambda m, x: m.b(5 * hand(m.a(x)) + hand(m.a(x)) + 1), edits=3),
    "residual": Case(Residual, lambda m, x: m.b(2 * (m.a(x) + hand(m.a(x)))), edits=2),
    "gates spelt out": Case(Gates, gates),
}
