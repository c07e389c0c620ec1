"""Modules that change while they run, are shared, hooked, parametrized, hidden or made late."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from models.case import Case, Net, between, hand
from torch import nn
from torch.nn.utils import parametrizations, parametrize


class RunningMean(Net):
    """A buffer that every call updates, an activation in the update."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x):
        h = self.a(x)
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * torch.tanh(h).mean(0))
                self.steps += 1
        return self.b(F.silu(h - self.mean))


def running_mean(m, x):
    h = m.a(x)
    if m.training:
        with torch.no_grad():
            m.mean.mul_(0.9).add_(0.1 * hand(h).mean(0))
    return m.b(hand(h - m.mean))


class KeptState(nn.Module):
    """A recurrent model that keeps its hidden state between calls."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.hidden = None

    def forward(self, x):
        if self.hidden is None or self.hidden.shape != x.shape:
            self.hidden = torch.zeros_like(x)
        for _ in range(2):
            self.hidden = torch.tanh(self.layer(torch.cat([x, self.hidden], 1)))
        return self.hidden


def kept_state(m, x):
    hidden = torch.zeros_like(x)
    for _ in range(2):
        hidden = hand(m.layer(torch.cat([x, hidden], 1)))
    return hidden


class Regularised(nn.Module):
    """Batch norm and dropout between activations, as a vision model has them."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.act = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.4)
        self.alpha = nn.AlphaDropout(0.2)
        self.b = nn.Linear(4, 2)

    def forward(self, x):
        h = self.drop(self.act(self.norm(self.a(x))))
        return self.b(self.alpha(F.selu(h + 1)))


def regularised(m, x):
    return m.b(m.alpha(hand(m.drop(hand(m.a(x))) + 1)))


class Late(Net):
    """A child that is made by the first call."""

    def forward(self, x):
        if "late" not in self._modules:
            self.late = nn.Sequential(nn.SiLU(), nn.Identity())
        return self.b(self.late(self.a(x)))


class Swaps(Net):
    """Exchanges two of its own modules in every call."""

    def __init__(self):
        super().__init__()
        self.acts = nn.ModuleList([nn.SiLU(), nn.Tanh()])

    def forward(self, x):
        first, second = self.acts
        self.acts[0], self.acts[1] = second, first
        return self.b(first(second(self.a(x)) + 1))


class Hidden(Net):
    """Children out of torch's sight: behind ``object.__setattr__``, in a lambda, in a weak container."""

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "secret", nn.SiLU())
        kept = nn.Tanh()
        self.holder = lambda: kept

    def forward(self, x):
        return self.b(self.holder()(self.secret(self.a(x))))


def tanh_hook(module, args, output):
    return torch.tanh(output)


def silu_pre_hook(module, args):
    return (F.silu(args[0]), *args[1:])


def gelu_kwargs_hook(module, args, kwargs, output):
    return F.gelu(output) * kwargs.get("scale", 1.0)


class Scaled(nn.Linear):
    def forward(self, x, scale=1.0):
        return super().forward(x) * scale


class Hooked(nn.Module):
    """Activations in hooks of every kind, nowhere else."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 6), Scaled(6, 4)
        self.a.register_forward_hook(tanh_hook)
        self.b.register_forward_pre_hook(silu_pre_hook)
        self.c.register_forward_hook(gelu_kwargs_hook, with_kwargs=True)

    def forward(self, x):
        return self.c(self.b(self.a(x)), scale=2.0)


def hooked(m, x):
    h = F.linear(x, m.a.weight, m.a.bias)
    h = F.linear(hand(hand(h)), m.b.weight, m.b.bias)
    return hand(2 * F.linear(h, m.c.weight, m.c.bias)) * 2


class BackwardHooked(Net):
    """A hook of the backward pass doubles the gradient."""

    def __init__(self):
        super().__init__()
        self.act = nn.SiLU()
        self.act.register_full_backward_hook(lambda module, below, above: (2 * below[0],))

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Positive(nn.Module):
    """Shapes a weight: applied to no data, and left alone."""

    def forward(self, weight):
        return F.softplus(weight)

    def right_inverse(self, weight):
        return weight


class Parametrized(Net):
    def __init__(self):
        super().__init__()
        parametrize.register_parametrization(self.a, "weight", Positive())
        parametrize.register_parametrization(self.b, "weight", nn.Tanh(), unsafe=True)

    def forward(self, x):
        return self.b(F.silu(self.a(x)))


def parametrized(m, x):
    a, b = (layer.parametrizations.weight.original for layer in (m.a, m.b))
    return F.linear(hand(F.linear(x, F.softplus(a), m.a.bias)), torch.tanh(b), m.b.bias)


class Normalised(Net):
    """Weight norm and spectral norm: parametrizations that are no normalization of features."""

    def __init__(self):
        super().__init__()
        parametrizations.weight_norm(self.a)
        parametrizations.orthogonal(self.b)

    def forward(self, x):
        return self.b(F.silu(self.a(x)))


class TiedEverywhere(nn.Module):
    """Weights tied across an encoder, a decoder and a functional call."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(3, 3, bias=False)
        self.decode = nn.Linear(3, 3, bias=False)
        self.decode.weight = self.encode.weight
        self.extra = nn.ParameterList([self.encode.weight])
        self.act = nn.SiLU()

    def forward(self, x):
        h = self.act(self.encode(x))
        return F.linear(torch.tanh(self.decode(h)), self.extra[0].T)


def tied(m, x):
    weight = m.encode.weight
    return hand(hand(x @ weight.T) @ weight.T) @ weight


class Block(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.layer, self.act = nn.Linear(3, 3), act

    def forward(self, x):
        return torch.tanh(self.act(self.layer(x)))


class SharedEverywhere(nn.Module):
    """One activation object in three blocks and a list, one block in two slots."""

    def __init__(self):
        super().__init__()
        act = nn.SiLU()
        self.one, self.two = Block(act), Block(act)
        self.again = self.one
        self.listed = [act]

    def forward(self, x):
        return self.listed[0](self.again(self.two(self.one(x))) + 1)


def shared_everywhere(m, x, one=hand, two=hand, last=hand, inner=hand):
    x = inner(one(m.one.layer(x)))
    x = inner(two(m.two.layer(x)))
    x = inner(one(m.one.layer(x)))
    return last(x + 1)


class Attribute(Net):
    """The activation is chosen by a setter after construction."""

    def __init__(self):
        super().__init__()
        self.act = nn.Tanh()
        self.set_activation(F.silu)

    def set_activation(self, function):
        del self.act
        self.act = function

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class Adapters(nn.Module):
    """A low-rank update around a frozen layer, in which the activation sits."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(3, 2).requires_grad_(False)
        self.down, self.up, self.act = nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False), nn.GELU()

    def forward(self, x):
        return self.base(x) + self.up(self.act(self.down(x)))


class SavedAsState(Net):
    """get_extra_state and a buffer that is not persistent."""

    def __init__(self):
        super().__init__()
        self.kind = "silu"
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def get_extra_state(self):
        return {"kind": self.kind}

    def set_extra_state(self, state):
        self.kind = state["kind"]

    def forward(self, x):
        act = {"silu": F.silu, "tanh": torch.tanh}[self.kind]
        return self.b(act(self.a(x)) * self.scale)


CASES = {
    "running mean": Case(RunningMean, running_mean, edits=2),
    "kept hidden state": Case(KeptState, kept_state),
    "batch norm and dropout": Case(Regularised, regularised, edits=3),
    "modules exchanged": Case(Swaps, lambda m, x: m.b(hand(hand(m.a(x)) + 1)), edits=2),
    "hidden modules": Case(Hidden, lambda m, x: m.b(hand(hand(m.a(x)))), edits=2, pickles=False, static=False),
    "hooks": Case(Hooked, hooked, edits=3),
    "backward hook": Case(BackwardHooked, lambda m, x: m.b(hand(Doubled.apply(m.a(x)))), pickles=False),
    "parametrizations": Case(Parametrized, parametrized, pickles=False),
    "weight norm and orthogonal weights": Case(Normalised, between, pickles=False),
    "tied weights everywhere": Case(TiedEverywhere, tied, edits=2),
    "shared everywhere": Case(SharedEverywhere, shared_everywhere, edits=5),
    "shared, one slot of a block": Case(
        SharedEverywhere,
        lambda m, x: shared_everywhere(m, x, F.silu, hand, F.silu, torch.tanh),
        options={"include": "two.act"},
    ),
    "shared, only the list": Case(
        SharedEverywhere,
        lambda m, x: shared_everywhere(m, x, F.silu, F.silu, hand, torch.tanh),
        options={"include": "listed*"},
    ),
    "set after construction": Case(Attribute, between),
    "low-rank adapter": Case(Adapters, lambda m, x: m.base(x) + m.up(hand(m.down(x)))),
    "extra state": Case(SavedAsState, lambda m, x: m.b(2 * hand(m.a(x)))),
}
