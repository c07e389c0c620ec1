"""Which activation runs, and how often, is decided while the model runs."""

from __future__ import annotations

import functools
import itertools

import torch
import torch.nn.functional as F
from models.case import Case, Net, between, hand, rows
from torch import nn

POSITIVE, NEGATIVE = rows().abs(), -rows().abs()


class EarlyReturn(Net):
    def forward(self, x):
        if x.sum() < 0:
            return self.b(torch.tanh(self.a(x)))
        h = F.silu(self.a(x))
        return self.b(h) + 1


class CountInInput(Net):
    """The number of iterations is an integer tensor of the input."""

    def forward(self, x, count):
        h = self.a(x)
        for _ in range(count.item()):
            h = F.gelu(h) + 0.5
        return self.b(h)


class UntilConverged(nn.Module):
    """A fixed point: stops when the update is small."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        with torch.no_grad():
            self.layer.weight.mul_(0.2)

    def forward(self, x):
        z, left = torch.zeros_like(x), 50
        while left:
            new = torch.tanh(self.layer(z) + x)
            if (new - z).abs().max() < 1e-3:
                break
            z, left = new, left - 1
        else:
            return new - 1
        return new + left


class Matched(Net):
    def forward(self, x):
        match x.shape:
            case (rows_, 3) if rows_ > 1:
                h = F.silu(self.a(x))
            case (1, width):
                h = torch.tanh(self.a(x)) + width
            case _:
                raise ValueError
        return self.b(h)


class ExceptionAsBranch(Net):
    """The ordinary way goes through an exception."""

    def forward(self, x):
        h = self.a(x)
        try:
            if h.shape[1] == 4:
                raise KeyError("wide")
            h = torch.tanh(h)
        except KeyError:
            h = F.silu(h)
        finally:
            h = F.softplus(h - 1)
        return self.b(h)


class TriesInTurn(Net):
    """The first function that accepts the input wins; the others raise."""

    def narrow(self, h):
        if h.shape[-1] > 3:
            raise ValueError("too wide")
        return torch.relu(h)

    def wide(self, h):
        return F.mish(h)

    def forward(self, x):
        for attempt in (self.narrow, self.wide):
            try:
                return self.b(attempt(self.a(x)))
            except ValueError:
                continue
        raise RuntimeError


class ShortCircuit(Net):
    def forward(self, x):
        h = self.a(x)
        positive = bool(x.sum() > 0)
        h = (positive and F.silu(h)) if positive else (None or torch.tanh(h))
        return self.b(h)


class Halting(nn.Module):
    """Adaptive computation: each row is worked on until its halting score is used up."""

    def __init__(self):
        super().__init__()
        self.step, self.halt, self.out = nn.Linear(3, 3), nn.Linear(3, 1), nn.Linear(3, 2)

    def forward(self, x):
        left = torch.ones(len(x), 1, dtype=x.dtype)
        result = torch.zeros_like(x)
        for _ in range(4):
            alive = left.squeeze(1) > 0.05
            if not alive.any():
                break
            x = torch.where(alive[:, None], F.silu(self.step(x)), x)
            share = torch.minimum(torch.sigmoid(self.halt(x)), left)
            result = result + share * x
            left = left - share
        return self.out(result)


def halting(m, x):
    left = torch.ones(len(x), 1, dtype=x.dtype)
    result = torch.zeros_like(x)
    for _ in range(4):
        alive = left.squeeze(1) > 0.05
        if not bool(alive.any()):
            break
        x = torch.where(alive[:, None], hand(m.step(x)), x)
        share = torch.minimum(1 / (1 + torch.exp(-m.halt(x))), left)
        result, left = result + share * x, left - share
    return m.out(result)


class MaskedRows(Net):
    """Only the rows that a mask names are activated."""

    def forward(self, x):
        h = self.a(x)
        mask = x[:, 0] > 0
        h[mask] = torch.tanh(h[mask])
        return self.b(h)


def masked(m, x):
    h = m.a(x)
    return m.b(torch.where((x[:, 0] > 0)[:, None], hand(h), h))


@functools.singledispatch
def by_type(value):
    raise TypeError(type(value))


@by_type.register
def _(value: torch.Tensor):
    return F.silu(value)


@by_type.register(list)
@by_type.register(tuple)
def _(value):
    return [torch.tanh(item) for item in value]


class SingleDispatch(Net):
    def forward(self, x):
        h = by_type(self.a(x))
        first, second = by_type([h, h + 1])
        return self.b(first + second)


class SortedExperts(nn.Module):
    """Mixture of experts: rows go to the expert that a score chooses."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(3, 2)
        self.experts = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])
        self.acts = (F.silu, torch.tanh)

    def forward(self, x):
        choice = self.score(x).argmax(1)
        out = x.new_zeros(len(x), 2)
        for number, (expert, act) in enumerate(zip(self.experts, self.acts, strict=True)):
            index = torch.nonzero(choice == number).squeeze(1)
            if len(index):
                out = out.index_copy(0, index, act(expert(x[index])))
        return out


def experts(m, x):
    choice = m.score(x).argmax(1)
    both = torch.stack([hand(e(x)) for e in m.experts])
    return both[choice, torch.arange(len(x))]


class Tools(Net):
    """itertools, zip, reversed, walrus and starred assignment around the call."""

    def forward(self, x):
        h = self.a(x)
        *rest, last = itertools.accumulate([h, h, h], lambda s, y: torch.tanh(s) + y)
        total = sum(part for part in reversed(rest))
        while (count := getattr(self, "_count", 0)) < 2:
            self._count = count + 1
            total = total + F.elu(last)
        self._count = 0
        return self.b(total)


def tools(m, x):
    h = m.a(x)
    second = hand(h) + h
    last = hand(second) + h
    return m.b(h + second + 2 * hand(last))


class NestedLoops(Net):
    def forward(self, x):
        h = self.a(x)
        for i in range(2):
            for j in range(3):
                if (i + j) % 2:
                    continue
                h = F.hardswish(h) + i if i > j else torch.celu(h) - j
        return self.b(h)


def nested_loops(m, x):
    h = m.a(x)
    for i in range(2):
        for j in range(3):
            if (i + j) % 2 == 0:
                h = hand(h) + i if i > j else hand(h) - j
    return m.b(h)


class ManyExits(Net):
    """A context manager, a return inside, and code behind it."""

    def inside(self, h):
        with torch.enable_grad():
            for factor in (1.0, 2.0):
                if factor > 1:
                    return F.silu(h * factor)
                h = torch.tanh(h)
        return h

    def forward(self, x):
        return self.b(self.inside(self.a(x)))


class Recurses(nn.Module):
    """A module that calls itself, as deep as the input says."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x, depth=0):
        if depth == 3:
            return x
        return self(F.silu(self.layer(x)), depth + 1)


def recurses(m, x):
    for _ in range(3):
        x = hand(m.layer(x))
    return x


def early(m, x):
    return between(m, x) if x.sum() < 0 else between(m, x) + 1


def counted(m, x, count):
    h = m.a(x)
    for _ in range(int(count)):
        h = hand(h) + 0.5
    return m.b(h)


def converged(m, x):
    z = torch.zeros_like(x)
    for step in range(50):
        new = hand(m.layer(z) + x)
        if (new - z).abs().max() < 1e-3:
            return new + 50 - step
        z = new
    return new - 1


CASES = {
    "early return": Case(EarlyReturn, early, edits=2, inputs=(POSITIVE,), other_inputs=[(NEGATIVE,)]),
    "number of iterations in the input": Case(
        CountInInput, counted, inputs=(rows(), torch.tensor(2)), other_inputs=[(rows(), torch.tensor(4))]
    ),
    "until converged": Case(UntilConverged, converged),
    "match statement": Case(
        Matched,
        lambda m, x: between(m, x) if len(x) > 1 else m.b(hand(m.a(x)) + 3),
        edits=2,
        other_inputs=[(rows(1),)],
    ),
    "exception as a branch": Case(ExceptionAsBranch, lambda m, x: m.b(hand(hand(m.a(x)) - 1)), edits=3),
    "tries in turn": Case(TriesInTurn, between, edits=2),
    "short circuit": Case(ShortCircuit, between, edits=2, inputs=(POSITIVE,), other_inputs=[(NEGATIVE,)]),
    "adaptive computation": Case(Halting, halting),
    "masked rows": Case(MaskedRows, masked),
    "single dispatch": Case(
        # Both calls of the dispatching function, and the activations that they led to.
        SingleDispatch,
        lambda m, x: m.b(hand(hand(m.a(x))) + hand(hand(m.a(x)) + 1)),
        edits=4,
        static=False,
    ),
    "mixture of experts": Case(SortedExperts, experts, edits=2),
    "iteration tools": Case(Tools, tools, edits=2),
    "nested loops": Case(NestedLoops, nested_loops, edits=2),
    "return inside a context": Case(ManyExits, lambda m, x: m.b(hand(2 * hand(m.a(x)))), edits=2),
    "a module that calls itself": Case(Recurses, recurses),
}
