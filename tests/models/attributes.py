"""Activations that a model holds in attributes which are no registered children."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from models.case import Case, Net, between, hand, rows


class Pair(NamedTuple):
    first: Any
    second: Any


class Held(Net):
    """Calls ``self.act``, whatever it is."""

    def __init__(self, act: Any) -> None:
        super().__init__()
        self.act = act

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class Curve:
    """A callable object with a setting."""

    def __init__(self, shift: float) -> None:
        self.shift = shift

    def __call__(self, x):
        return F.softplus(x) - self.shift

    def method(self, x):
        return F.silu(x)


@dataclass
class Settings:
    act: Any
    width: int = 4


@dataclass(frozen=True)
class Frozen:
    inner: Settings


class Listed(Net):
    def __init__(self, acts):
        super().__init__()
        self.acts = acts

    def forward(self, x):
        h = self.a(x)
        for act in self.acts:
            h = act(h)
        return self.b(h)


class Keyed(Net):
    def __init__(self, acts):
        super().__init__()
        self.acts = acts

    def forward(self, x):
        return self.b(self.acts["b"](self.acts["a"](self.a(x))))


class Configured(Net):
    def __init__(self):
        super().__init__()
        self.config = Frozen(Settings(F.silu))

    def forward(self, x):
        return self.b(self.config.inner.act(self.a(x)))


class BoundToSelf(Net):
    def __init__(self):
        super().__init__()
        self.act = self.curve

    def curve(self, x):
        return F.silu(x)

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class InClassBody(Net):
    act = staticmethod(F.silu)

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class BuiltinInClassBody(Net):
    act = torch.tanh

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class ModuleInClassBody(Net):
    act = nn.SiLU()

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class Inherits(ModuleInClassBody):
    pass


class HiddenInList(Net):
    def __init__(self):
        super().__init__()
        self.hidden = [nn.SiLU(), nn.Tanh()]

    def forward(self, x):
        return self.b(self.hidden[1](self.hidden[0](self.a(x))))


class HiddenInDict(Net):
    def __init__(self):
        super().__init__()
        self.hidden = {"a": {"deep": nn.SiLU()}, 3: (nn.Tanh(),)}

    def forward(self, x):
        return self.b(self.hidden[3][0](self.hidden["a"]["deep"](self.a(x))))


class HiddenBlock(Net):
    def __init__(self):
        super().__init__()
        self.hidden = [nn.Sequential(nn.SiLU(), nn.Tanh())]

    def forward(self, x):
        return self.b(self.hidden[0](self.a(x)))


class NamedTuple(Net):
    def __init__(self):
        super().__init__()
        self.acts = Pair(F.silu, nn.Tanh())

    def forward(self, x):
        return self.b(self.acts.second(self.acts.first(self.a(x))))


class StrangeNames(Net):
    """torch forbids dots in the names of children, and nothing else."""

    def __init__(self):
        super().__init__()
        self.acts = nn.ModuleDict({"a[0]": nn.Sequential(nn.SiLU()), "(b, 'c')": nn.Tanh()})

    def forward(self, x):
        return self.b(self.acts["(b, 'c')"](self.acts["a[0]"](self.a(x))))


class TwoAttributes(Net):
    def __init__(self):
        super().__init__()
        self.act1 = self.act2 = F.silu

    def forward(self, x):
        return self.b(self.act2(self.act1(self.a(x)) + 1))


class Taken(Held):
    """Takes the attribute into a local name before it calls it."""

    def forward(self, x):
        act = self.act
        return self.b(act(self.a(x)))


class HandedOn(Held):
    """Hands the attribute to a function that calls it."""

    def forward(self, x):
        return self.b(apply_to(self.act, self.a(x)))


def apply_to(function, x):
    return function(x) * 1.0


class HandsAttributeToChild(Held):
    def __init__(self):
        super().__init__(F.silu)
        self.child = Caller()

    def forward(self, x):
        return self.b(self.child(self.a(x), self.act))


class Caller(nn.Module):
    def forward(self, x, activation):
        return activation(x)


class Set(Net):
    """Calls ``self.act`` with settings besides the input."""

    def __init__(self, act, *args, **kwargs):
        super().__init__()
        self.act, self.args, self.kwargs = act, args, kwargs

    def forward(self, x):
        return self.b(self.act(self.a(x), *self.args, **self.kwargs))


class Weighted(Net):
    def __init__(self):
        super().__init__()
        self.act = F.prelu
        self.slope = nn.Parameter(torch.tensor([0.3]))

    def forward(self, x):
        return self.b(self.act(self.a(x), weight=self.slope))


class InPlaceByArgument(Net):
    def __init__(self):
        super().__init__()
        self.act = F.silu

    def forward(self, x):
        h = self.a(x)
        self.act(h, inplace=True)
        return self.b(h)


def glu_by_hand(x):
    a, b = x.chunk(2, 0)
    return a * hand(b)


def both(m, x):
    return m.b(hand(hand(m.a(x))))


CASES = {
    "function": Case(lambda: Held(F.silu), between),
    "builtin function": Case(lambda: Held(torch.tanh), between),
    "unbound tensor method": Case(lambda: Held(torch.Tensor.relu), between),
    "ATen overload": Case(lambda: Held(torch.ops.aten.silu.default), between, pickles=False),
    "partial": Case(lambda: Held(functools.partial(F.leaky_relu, negative_slope=0.2)), between),
    "in-place partial": Case(lambda: Held(functools.partial(F.relu, inplace=True)), between),
    "lambda": Case(lambda: Held(lambda x: x * torch.sigmoid(x)), between, pickles=False),
    "bound method": Case(lambda: Held(Curve(0.5).method), between),
    "bound method of the model": Case(BoundToSelf, between),
    "callable object": Case(lambda: Held(Curve(0.6931471805599453)), between),
    "method caller": Case(lambda: Held(operator.methodcaller("relu")), between, static=False),
    "list": Case(lambda: Listed([F.silu, torch.tanh]), both, edits=2),
    "tuple": Case(lambda: Listed((F.silu, nn.Tanh())), both, edits=2),
    "dict": Case(lambda: Keyed({"a": F.silu, "b": torch.tanh}), both, edits=2),
    "named tuple": Case(NamedTuple, both, edits=2),
    "dataclass in a frozen dataclass": Case(Configured, between),
    "staticmethod in the class body": Case(InClassBody, between),
    "builtin in the class body": Case(BuiltinInClassBody, between),
    "module in the class body": Case(ModuleInClassBody, between),
    "module in a parent's class body": Case(Inherits, between),
    "modules in a list": Case(HiddenInList, both, edits=2),
    "modules in nested containers": Case(HiddenInDict, both, edits=2),
    "block in a list": Case(HiddenBlock, both, edits=2),
    "strange names": Case(StrangeNames, both, edits=2),
    "one function in two attributes": Case(TwoAttributes, lambda m, x: m.b(hand(hand(m.a(x)) + 1)), edits=2),
    "one of two attributes": Case(
        TwoAttributes, lambda m, x: m.b(F.silu(hand(m.a(x)) + 1)), options={"include": "act1"}
    ),
    "one of a list": Case(
        lambda: Listed([F.silu, torch.tanh]),
        lambda m, x: m.b(torch.tanh(hand(m.a(x)))),
        options={"include": "acts[0]"},
    ),
    "taken into a local name": Case(lambda: Taken(F.silu), between),
    "handed to a function": Case(lambda: HandedOn(F.silu), between),
    "with a setting": Case(lambda: Set(F.leaky_relu, 0.3), between),
    "with a keyword": Case(lambda: Set(F.gelu, approximate="tanh"), between),
    "with a weight": Case(Weighted, between),
    "in place by argument": Case(InPlaceByArgument, between),
    "gated, gates and all": Case(
        lambda: Set(F.glu, dim=0), lambda m, x: m.b(glu_by_hand(m.a(x))), options={"gates": True}, inputs=(rows(6),)
    ),
    "handed to a child": Case(HandsAttributeToChild, between),
}
