"""Activations that ``forward`` calls by itself, in every way in which Python lets one write a call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import silu

from models.case import Case, Net, between, hand, rows

BY_NAME = {"smooth": F.silu, "round": F.gelu}


class Functional(Net):
    def forward(self, x):
        return self.b(F.silu(self.a(x)))


class FromTorch(Net):
    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Imported(Net):
    def forward(self, x):
        return self.b(silu(self.a(x)))


class Method(Net):
    def forward(self, x):
        return self.b(self.a(x).relu())


class MethodOfExpression(Net):
    def forward(self, x):
        return self.b((self.a(x) + 1).tanh())


class InPlaceMethod(Net):
    def forward(self, x):
        h = self.a(x)
        h.relu_()
        return self.b(h)


class InPlaceFunction(Net):
    def forward(self, x):
        h = self.a(x)
        F.relu(h, inplace=True)
        return self.b(h)


class InPlaceByPosition(Net):
    def forward(self, x):
        h = self.a(x)
        F.elu(h, 1.0, True)
        return self.b(h)


class InPlaceTorch(Net):
    def forward(self, x):
        h = self.a(x)
        y = torch.relu_(h)
        return self.b(y + h)


class InPlaceModule(Net):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.a(x)
        y = self.act(h)
        return self.b(y + h)  # h was changed


class InPlaceOtherModule(Net):
    def __init__(self):
        super().__init__()
        self.act = nn.SiLU(inplace=True)

    def forward(self, x):
        h = self.a(x)
        self.act(h)
        return self.b(h)


class ByString(Net):
    def forward(self, x):
        return self.b(getattr(torch, "selu")(self.a(x)))  # noqa: B009


class ByVariableString(Net):
    def __init__(self):
        super().__init__()
        self.name = "selu"

    def forward(self, x):
        return self.b(getattr(torch, self.name)(self.a(x)))


class ByKeyword(Net):
    def forward(self, x):
        return self.b(F.silu(input=self.a(x)))


class WithSettings(Net):
    def forward(self, x):
        return self.b(F.leaky_relu(F.elu(self.a(x), alpha=0.5), 0.2))


class LocalAlias(Net):
    def forward(self, x):
        f = F.silu
        return self.b(f(self.a(x)))


class LocalDict(Net):
    def __init__(self):
        super().__init__()
        self.kind = "smooth"

    def forward(self, x):
        return self.b({"smooth": F.silu, "round": F.gelu}[self.kind](self.a(x)))


class GlobalDict(Net):
    def __init__(self):
        super().__init__()
        self.kind = "smooth"

    def forward(self, x):
        return self.b(BY_NAME[self.kind](self.a(x)))


class Conditional(Net):
    def __init__(self):
        super().__init__()
        self.smooth = True

    def forward(self, x):
        return self.b((F.silu if self.smooth else F.relu)(self.a(x)))


class MadeOnTheFly(Net):
    def forward(self, x):
        return self.b(nn.Softplus()(self.a(x)))


class MadeOnTheFlyInPlace(Net):
    def forward(self, x):
        h = self.a(x)
        nn.ReLU(inplace=True)(h)
        return self.b(h)


class ForwardCalled(Net):
    def __init__(self):
        super().__init__()
        self.act = nn.SiLU()

    def forward(self, x):
        return self.b(self.act.forward(self.a(x)))


class Applies(nn.Module):
    def forward(self, x, activation):
        return activation(x) + 1


class PassedToChild(Net):
    def __init__(self):
        super().__init__()
        self.child = Applies()

    def forward(self, x):
        return self.b(self.child(self.a(x), F.silu))


class ModulePassedToChild(Net):
    def __init__(self):
        super().__init__()
        self.child = Applies()
        self.act = nn.SiLU()

    def forward(self, x):
        return self.b(self.child(self.a(x), self.act))


class OverSeveralLines(Net):
    def forward(self, x):
        return self.b(
            F.softplus(
                self.a(x),
                beta=2.0,
            )
        )


class TwoOnOneLine(Net):
    def forward(self, x):
        return self.b(F.silu(self.a(x)) * torch.tanh(self.a(-x)))


class SameTwiceOnOneLine(Net):
    def forward(self, x):
        return self.b(F.silu(self.a(x)) * F.silu(self.a(-x)))


class Nested(Net):
    def forward(self, x):
        return self.b(F.silu(F.gelu(self.a(x))))


class NonAscii(Net):
    def forward(self, x):
        h = self.a(x)
        return self.b({"größe": h}["größe"].relu() + F.silu(h))


class StarArguments(Net):
    def forward(self, x):
        args, settings = (self.a(x),), {"beta": 2.0}
        return self.b(F.softplus(*args, **settings))


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


class Chained(Net):
    def forward(self, x):
        return self.b(self.a(x).tanh().exp().relu())


class Augmented(Net):
    def forward(self, x):
        h = F.silu(self.a(x))
        h += 1
        h = h if (y := torch.tanh(h)) is None else y
        return self.b(h)


def chained(m, x):
    return m.b(hand(torch.exp(hand(m.a(x)))))


def augmented(m, x):
    return m.b(hand(hand(m.a(x)) + 1))


def loop(m, x):
    for layer in m.layers:
        x = x + hand(layer(x))
    return x


def twice(m, x):
    return m.b(2 * hand(m.a(x)))


CASES = {
    "functional": Case(Functional, between),
    "from torch": Case(FromTorch, between),
    "imported name": Case(Imported, between),
    "method": Case(Method, between),
    "method of an expression": Case(MethodOfExpression, lambda m, x: m.b(hand(m.a(x) + 1))),
    "in-place method": Case(InPlaceMethod, between),
    "in-place function": Case(InPlaceFunction, between),
    "in-place by position": Case(InPlaceByPosition, between),
    "in-place torch function": Case(InPlaceTorch, twice),
    "in-place module": Case(InPlaceModule, twice),
    "in-place module, result dropped": Case(InPlaceOtherModule, between),
    "getattr with a string": Case(ByString, between),
    "getattr with a variable": Case(ByVariableString, between, static=False),
    "keyword argument": Case(ByKeyword, between),
    "with settings": Case(WithSettings, lambda m, x: m.b(hand(hand(m.a(x)))), edits=2),
    "local alias": Case(LocalAlias, between),
    "dict written in forward": Case(LocalDict, between),
    "dict of the module": Case(GlobalDict, between),
    "conditional callee": Case(Conditional, between),
    "module made on the fly": Case(MadeOnTheFly, between),
    "in-place module made on the fly": Case(MadeOnTheFlyInPlace, between),
    "forward called directly": Case(ForwardCalled, between),
    "function passed to a child": Case(PassedToChild, lambda m, x: m.b(hand(m.a(x)) + 1), static=False),
    "module passed to a child": Case(ModulePassedToChild, lambda m, x: m.b(hand(m.a(x)) + 1)),
    "over several lines": Case(OverSeveralLines, between),
    "two on one line": Case(TwoOnOneLine, lambda m, x: m.b(hand(m.a(x)) * hand(m.a(-x))), edits=2),
    "the same twice on one line": Case(SameTwiceOnOneLine, lambda m, x: m.b(hand(m.a(x)) * hand(m.a(-x))), edits=2),
    "nested": Case(Nested, lambda m, x: m.b(hand(hand(m.a(x)))), edits=2),
    "nested, outer one": Case(
        Nested, lambda m, x: m.b(hand(torch.nn.functional.gelu(m.a(x)))), options={"include": "forward@silu"}
    ),
    "nested, inner one": Case(
        Nested, lambda m, x: m.b(torch.nn.functional.silu(hand(m.a(x)))), options={"include": "forward@gelu"}
    ),
    "second of two equal ones": Case(
        SameTwiceOnOneLine,
        lambda m, x: m.b(torch.nn.functional.silu(m.a(x)) * hand(m.a(-x))),
        options={"include": "forward@silu#2"},
    ),
    "non-ASCII source": Case(NonAscii, lambda m, x: m.b(2 * hand(m.a(x))), edits=2),
    "star arguments": Case(StarArguments, between),
    "loop over layers": Case(Loop, loop),
    "chained methods": Case(Chained, chained, edits=2),
    "augmented assignment and walrus": Case(Augmented, augmented, edits=2),
    "one row": Case(Functional, between, inputs=(rows(1),)),
    "one tensor": Case(Functional, between, inputs=rows(3)),
    "keyword inputs": Case(Functional, between, inputs={"x": rows(3)}),
}
