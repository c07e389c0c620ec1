"""Activations that no call in the source names: handed to C code, called by Python itself, or in an autograd.Function."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from models.case import Case, Net, between, hand


def swish(x):
    return x * torch.sigmoid(x)


def doubled(x):
    return 2 * F.silu(x)


class OldStyle(torch.autograd.Function):
    """Swish with a gain that is no tensor."""

    @staticmethod
    def forward(ctx, x, beta=1.0):
        ctx.save_for_backward(x)
        ctx.beta = beta
        return x * torch.sigmoid(beta * x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(ctx.beta * x)
        return gradient * (s + ctx.beta * x * s * (1 - s)), None


class NewStyle(torch.autograd.Function):
    """The same, with the context set up apart, as functorch wants it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, beta):
        return x * torch.sigmoid(beta * x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.beta = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, gradient):
        return OldStyle.backward(ctx, gradient)


class WithGain(Net):
    def forward(self, x):
        return self.b(NewStyle.apply(self.a(x), 1.0))


class WithDefault(Net):
    def forward(self, x):
        return self.b(OldStyle.apply(self.a(x)))


class InTurns(Net):
    def forward(self, x):
        h = self.a(x)
        for _ in range(2):
            h = NewStyle.apply(h, 2.0)
        return self.b(h)


def through_helper(x):
    return NewStyle.apply(x, 1.0)


class ThroughHelper(Net):
    def forward(self, x):
        return self.b(through_helper(self.a(x)))


class Held(Net):
    """In attributes and a list, with a further argument and without."""

    def __init__(self):
        super().__init__()
        self.act = NewStyle.apply
        self.acts = [OldStyle.apply]
        self.gain = 1.5

    def forward(self, x):
        h = self.act(self.a(x), self.gain)
        for act in self.acts:
            h = act(h)
        return self.b(h)


class Mapped(Net):
    """`map` calls what it is given from C."""

    def forward(self, x):
        return self.b(sum(map(swish, (self.a(x), self.a(-x)))) + sum(map(doubled, [self.a(x)])))


class Each:
    """An iterator: Python calls its methods, no call in the source does."""

    def __init__(self, values):
        self.values = iter(values)

    def __iter__(self):
        return self

    def __next__(self):
        return F.silu(next(self.values))


class Iterated(Net):
    def forward(self, x):
        total = 0
        for y in Each((self.a(x), self.a(-x))):
            total = total + y
        return self.b(torch.tanh(total))


class Stepped(Net):
    """The call of `next` can be rewritten, and that changes nothing."""

    def forward(self, x):
        return self.b(torch.tanh(next(Each([self.a(x)]))))


class Activation:
    def __matmul__(self, x):
        return torch.tanh(x)


class ByOperator(Net):
    def __init__(self):
        super().__init__()
        self.acts = {"only": Activation()}

    def forward(self, x):
        return self.b(self.acts["only"] @ self.a(x))


class Unpacked(Net):
    def forward(self, x):
        h, g = map(F.silu, (self.a(x), self.a(-x)))
        return self.b(h - g)


CASES = {
    "autograd.Function with a gain": Case(WithGain, between),
    "autograd.Function with a default": Case(WithDefault, between),
    "autograd.Function in turns": Case(InTurns, lambda m, x: m.b(hand(hand(m.a(x))))),
    "autograd.Function in a helper": Case(ThroughHelper, between),
    "autograd.Functions in attributes": Case(Held, lambda m, x: m.b(hand(hand(m.a(x)))), edits=2, pickles=False),
    "user functions mapped": Case(Mapped, lambda m, x: m.b(hand(m.a(x)) + hand(m.a(-x)) + 2 * hand(m.a(x))), edits=2),
    "iterator of the user's": Case(
        Iterated, lambda m, x: m.b(hand(hand(m.a(x)) + hand(m.a(-x)))), edits=2, static=False
    ),
    "next of the user's": Case(Stepped, lambda m, x: m.b(hand(hand(m.a(x)))), edits=2, static=False),
    "operator of the user's": Case(ByOperator, between, static=False),
    "map unpacked": Case(Unpacked, lambda m, x: m.b(hand(m.a(x)) - hand(m.a(-x))), static=False),
}
