"""Sharing, aliases, branches, hooks, modes and ways of passing inputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn

from models.case import Case, Net, between, hand, rows


class SharedModule(nn.Module):
    """One activation module in three slots."""

    def __init__(self):
        super().__init__()
        act = nn.SiLU()
        self.net = nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 2))
        self.last = act

    def forward(self, x):
        return self.last(self.net(x) + 3)


class SharedBlock(nn.Module):
    """One block, activation in its source, in two slots."""

    def __init__(self):
        super().__init__()
        self.first = Square()
        self.second = self.first
        self.act = nn.Tanh()

    def forward(self, x):
        return self.act(self.second(self.first(x)))


class Square(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return F.silu(self.layer(x))


class Aliased(nn.Module):
    """The same list under two names, each of which ``forward`` uses."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.SiLU(), nn.Linear(3, 3), nn.Tanh()])
        self.blocks = self.layers

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        for layer in self.blocks:
            x = layer(x)
        return x


class Parenthood(Net):
    """A child that knows its parent."""

    def __init__(self):
        super().__init__()
        self.child = Knows(self)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.b(self.child(self.a(x)))


class Knows(nn.Module):
    def __init__(self, parent):
        super().__init__()
        self.parents = [parent]

    def forward(self, x):
        return self.parents[0].act(x) + x.mean()


class Branches(Net):
    """Which activation runs depends on the values."""

    def forward(self, x):
        h = self.a(x)
        if x.sum() > 0:
            h = torch.tanh(h)
        elif x.sum() > -100:
            h = F.silu(h)
        else:
            h = h.relu()
        return self.b(h)


class Until(Net):
    """How often it runs depends on the values."""

    def forward(self, x):
        h = self.a(x)
        count = int(x.abs().max())
        while count > 0:
            h = torch.tanh(h) + 1
            count -= 1
        return self.b(h)


class ModeDependent(Net):
    """Another activation while training, and dropout."""

    def forward(self, x):
        h = self.a(x)
        h = F.silu(h) if self.training else torch.tanh(h)
        return self.b(F.dropout(h, 0.5, self.training))


class OptionalInput(Net):
    def forward(self, x, mask=None, *, flag=False):
        h = F.silu(self.a(x))
        if mask is not None:
            h = h * mask
        if flag:
            h = torch.tanh(h)
        return {"value": self.b(h), "hidden": [h]}


class DictInput(Net):
    def forward(self, batch):
        return self.b(F.silu(self.a(batch["x"])) * batch["scale"])


class WithForces(Net):
    """Energy, and its negative gradient taken inside ``forward``."""

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_() if not x.requires_grad else x
            energy = self.b(torch.tanh(self.a(x))).sum()
            (gradient,) = torch.autograd.grad(energy, x, create_graph=True)
        return energy, -gradient


class Remembers(Net):
    """Keeps what it computed: neither Proxies nor tensors of a trial run may stay."""

    def __init__(self):
        super().__init__()
        self.history = []
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.last = F.silu(self.a(x))
        self.history.append(self.last)
        return self.b(self.history[-1])


class Tied(nn.Module):
    """Tied weights and a buffer that is no part of the state."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.b.bias.requires_grad_(False)
        self.register_buffer("shift", torch.ones(3), persistent=False)

    def forward(self, x):
        return self.b(F.silu(self.a(x)) + self.shift)


class Traceable(nn.Module):
    """Modules, functions and methods, for torch.fx to trace."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.act = nn.SiLU()
        self.b = nn.Linear(4, 4)
        self.c = nn.Linear(4, 2)

    def forward(self, x):
        h = self.act(self.norm(self.a(x)))
        h = torch.tanh(self.b(h)) + F.gelu(h)
        return (self.c(h) + 3).relu()


class HoldsGraph(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = traced()
        self.out = nn.Linear(2, 1)

    def forward(self, x):
        return self.out(F.softplus(self.inner(x)))


class Recurrent(nn.Module):
    def __init__(self, cls):
        super().__init__()
        self.rnn = cls(3, 4, batch_first=True)
        self.out = nn.Linear(4, 1)

    def forward(self, x):
        return self.out(self.rnn(x[None])[0])


def traced():
    return fx.symbolic_trace(Traceable())


def traceable(m, x):
    h = hand(m.a(x))
    h = hand(m.b(h)) + hand(h)
    return hand(m.c(h) + 3)


def shared(m, x, acts=(hand, hand, hand)):
    x = acts[0](m.net[0](x))
    x = acts[1](m.net[2](x))
    return acts[2](m.net[4](x) + 3)


def aliased(m, x):
    for _ in range(2):
        x = hand(m.layers[2](hand(m.layers[0](x))))
    return x


def until(m, x):
    h = m.a(x)
    for _ in range(int(x.abs().max())):
        h = hand(h) + 1
    return m.b(h)


def optional(m, x, mask=None, flag=False):
    h = hand(m.a(x))
    if mask is not None:
        h = h * mask
    if flag:
        h = hand(h)
    return {"value": m.b(h), "hidden": [h]}


def with_forces(m, x):
    x = x.detach().requires_grad_() if not x.requires_grad else x
    pre = m.a(x)
    energy = m.b(hand(pre)).sum()
    slope = m.b.weight.sum(0) * pre.clamp(min=0)
    return energy, -(slope @ m.a.weight)


def lstm(m, x):
    """The recurrence of torch's documentation, both tanh exchanged."""
    weights = (m.rnn.weight_ih_l0, m.rnn.weight_hh_l0, m.rnn.bias_ih_l0, m.rnn.bias_hh_l0)
    h = c = x.new_zeros(4)
    found = []
    for row in x:
        i, f, g, o = (weights[0] @ row + weights[2] + weights[1] @ h + weights[3]).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * hand(g)
        h = torch.sigmoid(o) * hand(c)
        found.append(h)
    return m.out(torch.stack(found)[None])


def gru(m, x):
    weights = (m.rnn.weight_ih_l0, m.rnn.weight_hh_l0, m.rnn.bias_ih_l0, m.rnn.bias_hh_l0)
    h = x.new_zeros(4)
    found = []
    for row in x:
        r, z, n = (weights[0] @ row + weights[2]).chunk(3)
        hr, hz, hn = (weights[1] @ h + weights[3]).chunk(3)
        new = hand(n + torch.sigmoid(r + hr) * hn)
        update = torch.sigmoid(z + hz)
        h = (1 - update) * new + update * h
        found.append(h)
    return m.out(torch.stack(found)[None])


POSITIVE, NEGATIVE = rows().abs(), -rows().abs()

CASES = {
    "shared module": Case(SharedModule, shared, edits=3),
    "one slot of a shared module": Case(
        SharedModule, lambda m, x: shared(m, x, (F.silu, hand, F.silu)), options={"include": "net.3"}
    ),
    "all but one slot of a shared module": Case(
        SharedModule, lambda m, x: shared(m, x, (F.silu, hand, hand)), edits=2, options={"exclude": "net.1"}
    ),
    "shared block": Case(SharedBlock, lambda m, x: hand(hand(m.first.layer(hand(m.first.layer(x))))), edits=2),
    "two names for one list": Case(Aliased, aliased, edits=2),
    "by the other name": Case(Aliased, aliased, edits=2, options={"include": "blocks.*"}),
    "child that knows its parent": Case(Parenthood, lambda m, x: m.b(hand(m.a(x)) + m.a(x).mean())),
    "branch not reached": Case(
        Branches, between, edits=3, inputs=(POSITIVE,), other_inputs=[(NEGATIVE,), (1000 * NEGATIVE,)]
    ),
    "number of runs depends on values": Case(Until, until, inputs=(POSITIVE,), other_inputs=[(5 * POSITIVE,)]),
    "mode dependent": Case(ModeDependent, lambda m, x: m.b(F.dropout(hand(m.a(x)), 0.5, m.training)), edits=2),
    "optional inputs": Case(
        OptionalInput,
        optional,
        edits=2,
        inputs=(rows(),),
        other_inputs=[(rows(), torch.full((5, 4), 0.5, dtype=torch.float64)), {"x": rows(), "flag": True}],
    ),
    "keyword arguments": Case(OptionalInput, optional, edits=2, inputs={"x": rows(), "mask": None, "flag": True}),
    "dict as the one argument": Case(
        DictInput,
        lambda m, batch: m.b(hand(m.a(batch["x"])) * batch["scale"]),
        inputs=({"x": rows(), "scale": torch.tensor(2.0, dtype=torch.float64)},),
    ),
    "forces inside": Case(WithForces, with_forces),
    "keeps what it computed": Case(Remembers, between),
    "tied weights": Case(Tied, lambda m, x: m.b(hand(m.a(x)) + 1)),
    "GraphModule": Case(traced, traceable, edits=5),
    "GraphModule as a child": Case(HoldsGraph, lambda m, x: m.out(hand(traceable(m.inner, x))), edits=6),
    "LSTM": Case(lambda: Recurrent(nn.LSTM), lstm),
    "GRU": Case(lambda: Recurrent(nn.GRU), gru),
}
