"""Activations in functions that ``forward`` calls, directly or through several others."""

from __future__ import annotations

import contextlib
import functools

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.case import Case, Net, between, hand, rows


def dense(layer, x):
    return F.silu(layer(x))


def dense_with_default(layer, x, act=F.silu, *, scale=2.0):
    return act(layer(x)) * scale


def twice(layer, x):
    return dense(layer, x) + dense(layer, -x)


def deep(x, levels, layers):
    if levels == 0:
        return x
    return deep(torch.tanh(layers[levels - 1](x)), levels - 1, layers)


def make(power):
    def curve(layer, x):
        return F.silu(layer(x)) ** power

    return curve


CUBE = make(3)


def decorated(function):
    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        return function(self, *args, **kwargs) * 2

    return wrapper


def scaled(factor):
    def decorator(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs) * factor

        return wrapper

    return decorator


FIRST, SECOND = (lambda f, x: F.silu(f(x)) + 1), (lambda f, x: torch.tanh(f(x)) * 2)


class Global(Net):
    def forward(self, x):
        return self.b(dense(self.a, x))


class TwoWaysDown(Net):
    def forward(self, x):
        return self.b(dense(self.a, x) + twice(self.a, x))


class FromFactory(Net):
    def forward(self, x):
        return self.b(CUBE(self.a, x))


class Recursive(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

    def forward(self, x):
        return deep(x, 3, self.layers)


class NestedFunction(Net):
    def forward(self, x):
        def inner(y):
            return F.silu(self.a(y)) + offset

        offset = 1.0
        return self.b(inner(x))


class LambdaInForward(Net):
    def forward(self, x):
        run = lambda y: F.silu(self.a(y)) + 1
        return self.b(run(x))


class ListComprehension(Net):
    def forward(self, x):
        return self.b(sum([F.silu(self.a(row)) for row in (x, -x)]))


class GeneratorExpression(Net):
    def forward(self, x):
        return self.b(sum(F.silu(self.a(row)) for row in (x, -x)))


class Generator(Net):
    def rows(self, x):
        yield F.silu(self.a(x))
        yield torch.tanh(self.a(-x))

    def forward(self, x):
        return self.b(sum(self.rows(x)))


class Mapped(Net):
    def forward(self, x):
        return self.b(sum(map(F.silu, (self.a(x), self.a(-x)))))


class MappedHelper(Net):
    def forward(self, x):
        return self.b(sum(map(functools.partial(dense, self.a), (x, -x))))


class MappedMethod(Net):
    def one(self, x):
        return F.silu(self.a(x))

    def forward(self, x):
        return self.b(sum(map(self.one, (x, -x))))


class Checkpointed(Net):
    def body(self, x):
        return F.silu(self.a(x))

    def forward(self, x):
        return self.b(checkpoint(self.body, x, use_reentrant=False))


class CheckpointedHelper(Net):
    def forward(self, x):
        return self.b(checkpoint(dense, self.a, x, use_reentrant=False))


class CheckpointedLambda(Net):
    def forward(self, x):
        return self.b(checkpoint(lambda y: F.silu(self.a(y)) + 1, x, use_reentrant=False))


class Decorated(Net):
    @decorated
    def forward(self, x):
        return self.b(F.silu(self.a(x)))


class DecoratedNested(Net):
    @decorated
    @torch.enable_grad()
    def forward(self, x):
        return self.b(F.silu(F.gelu(self.a(x))))


class DecoratedTwice(Net):
    @scaled(3)
    @decorated
    def forward(self, x):
        return self.b(F.silu(self.a(x)))


class WithoutGradient(Net):
    @torch.no_grad()
    def forward(self, x):
        return self.b(F.silu(self.a(x)))


class WithGradient(Net):
    @torch.enable_grad()
    def forward(self, x):
        return self.b(F.silu(self.a(x)))


class StaticMethod(Net):
    @staticmethod
    def shifted(layer, x):
        return F.silu(layer(x)) + 1

    def forward(self, x):
        return self.b(self.shifted(self.a, x))


class StaticMethodOfClass(Net):
    @staticmethod
    def shifted(layer, x):
        return F.silu(layer(x)) + 1

    def forward(self, x):
        return self.b(StaticMethodOfClass.shifted(self.a, x))


class ClassMethod(Net):
    SHIFT = 2.0

    @classmethod
    def shifted(cls, layer, x):
        return F.silu(layer(x)) + cls.SHIFT

    def forward(self, x):
        return self.b(self.shifted(self.a, x))


class Property(Net):
    @property
    def weight(self):
        return torch.tanh(self.a.weight)

    def forward(self, x):
        return self.b(F.linear(x, self.weight))


class Parent(Net):
    def features(self, x):
        return F.silu(self.a(x))

    def forward(self, x):
        return self.b(self.features(x))


class Child(Parent):
    """Activations in its own method and in the parent's, reached by ``super()``."""

    def features(self, x):
        return torch.tanh(super().features(x) - 0.5)

    def forward(self, x):
        return F.softplus(super().forward(x))


class GrandChild(Child):
    def forward(self, x):
        return super().forward(x) + Parent.forward(self, x)


class Layer(nn.Linear):
    """Inherits torch's forward and calls it."""

    def forward(self, x):
        return F.silu(super().forward(x))


class SuperOfTorch(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Layer(3, 4)

    def forward(self, x):
        return self.layer(x)


class LoudSiLU(nn.SiLU):
    """A subclass of a listed class with a forward of its own."""

    def forward(self, x):
        return super().forward(x) + x.mean()


class SuperOfActivation(Net):
    def __init__(self):
        super().__init__()
        self.act = LoudSiLU()

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class Private(Net):
    def __init__(self):
        super().__init__()
        self.__scale = 2.0
        self.__act = F.silu

    def __curve(self, x):
        return F.gelu(self.a(x)) * self.__scale

    def forward(self, x):
        return self.b(self.__act(self.__curve(x)))


class ClassCell(Net):
    LEVEL = 3.0

    def forward(self, x):
        level = __class__.LEVEL
        assert isinstance(self, __class__)
        return self.b(F.silu(self.a(x)) + level)


class Defaults(Net):
    def forward(self, x, shift=1.0, *more, scale=3.0, **rest):
        h = F.silu(self.a(x)) * scale + shift
        for extra in (*more, *rest.values()):
            h = h + extra
        return self.b(h)


class HelperDefaults(Net):
    def forward(self, x):
        return self.b(dense_with_default(self.a, x, scale=3.0))


class Annotated(Net):
    def forward(self, x: "NoSuchName", /, flag: "Missing" = True) -> "Nowhere":  # noqa: F821, UP037
        return self.b(F.silu(self.a(x)))


class OtherEntry(Net):
    """Activations in a method that ``forward`` reaches through another one."""

    def encode(self, x):
        return self.one(x) + 1

    def one(self, x):
        return F.silu(self.a(x))

    def forward(self, x):
        return self.b(self.encode(x))


class HelperObject:
    def __init__(self, scale):
        self.scale = scale

    def run(self, layer, x):
        return F.silu(layer(x)) * self.scale

    def __call__(self, layer, x):
        return torch.tanh(layer(x)) * self.scale


class MethodOfHelperObject(Net):
    def __init__(self):
        super().__init__()
        self.helper = HelperObject(2.0)

    def forward(self, x):
        return self.b(self.helper.run(self.a, x) + self.helper(self.a, x))


class TwoLambdas(Net):
    def forward(self, x):
        return self.b(FIRST(self.a, x) + SECOND(self.a, x))


class Cached(Net):
    @functools.cached_property
    def weight(self):
        return torch.tanh(self.a.weight) + 1

    def forward(self, x):
        self.__dict__.pop("weight", None)
        return self.b(F.linear(x, self.weight))


class Quiet(contextlib.ContextDecorator):
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


class InContext(Net):
    @Quiet()
    def forward(self, x):
        return self.b(F.silu(self.a(x)))


def _free_forward(self, x):
    return self.b(F.silu(self.a(x)))


class ForwardFromOutside(Net):
    forward = _free_forward


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)

    def encode(self, x):
        return F.silu(self.a(x)) + 1


class OtherMethodOfChild(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleList([Encoder(), Encoder()])
        self.b = nn.Linear(4, 2)

    def forward(self, x):
        return self.b(sum(encoder.encode(x) for encoder in self.encoders))


class OneInstance(nn.Module):
    """The same class twice; only one instance is edited."""

    def __init__(self):
        super().__init__()
        self.first = Global()
        self.second = Global()

    def forward(self, x):
        return self.first(x) + self.second(x)


def grand_child(m, x):
    base = hand(m.a(x))
    child = hand(m.b(hand(base - 0.5)))
    return child + m.b(hand(base - 0.5))


def recursive(m, x):
    for layer in reversed(m.layers):
        x = hand(layer(x))
    return x


def both_signs(m, x):
    return m.b(hand(m.a(x)) + hand(m.a(-x)))


CASES = {
    "global function": Case(Global, between),
    "two ways down to one helper": Case(TwoWaysDown, lambda m, x: m.b(2 * hand(m.a(x)) + hand(m.a(-x)))),
    "closure from a factory": Case(FromFactory, lambda m, x: m.b(hand(m.a(x)) ** 3)),
    "recursive": Case(Recursive, recursive),
    "nested function": Case(NestedFunction, lambda m, x: m.b(hand(m.a(x)) + 1)),
    "lambda in forward": Case(LambdaInForward, lambda m, x: m.b(hand(m.a(x)) + 1)),
    "list comprehension": Case(ListComprehension, both_signs),
    "generator expression": Case(GeneratorExpression, both_signs),
    "generator method": Case(Generator, both_signs, edits=2),
    "map": Case(Mapped, both_signs, static=False),
    "map of a helper": Case(MappedHelper, both_signs),
    "map of a method": Case(MappedMethod, both_signs),
    "checkpoint": Case(Checkpointed, between),
    "checkpoint of a helper": Case(CheckpointedHelper, between),
    "checkpoint of a lambda": Case(CheckpointedLambda, lambda m, x: m.b(hand(m.a(x)) + 1)),
    "decorated": Case(Decorated, lambda m, x: 2 * between(m, x)),
    "decorated, two activations": Case(DecoratedNested, lambda m, x: 2 * m.b(hand(hand(m.a(x)))), edits=2),
    "decorated twice": Case(DecoratedTwice, lambda m, x: 6 * between(m, x)),
    "no_grad": Case(WithoutGradient, between, differentiable=False),
    "enable_grad": Case(WithGradient, between),
    "staticmethod": Case(StaticMethod, lambda m, x: m.b(hand(m.a(x)) + 1)),
    "staticmethod by the class's name": Case(StaticMethodOfClass, lambda m, x: m.b(hand(m.a(x)) + 1)),
    "classmethod": Case(ClassMethod, lambda m, x: m.b(hand(m.a(x)) + 2)),
    "property": Case(Property, lambda m, x: m.b(F.linear(x, hand(m.a.weight)))),
    "super": Case(Child, lambda m, x: hand(m.b(hand(hand(m.a(x)) - 0.5))), edits=3),
    "super of super": Case(GrandChild, grand_child, edits=3),
    "super of a torch layer": Case(SuperOfTorch, lambda m, x: hand(F.linear(x, m.layer.weight, m.layer.bias))),
    "super of an activation": Case(SuperOfActivation, lambda m, x: m.b(hand(m.a(x)) + m.a(x).mean())),
    "private names": Case(Private, lambda m, x: m.b(hand(2 * hand(m.a(x)))), edits=2),
    "__class__": Case(ClassCell, lambda m, x: m.b(hand(m.a(x)) + 3)),
    "defaults": Case(Defaults, lambda m, x: m.b(3 * hand(m.a(x)) + 1)),
    "all kinds of arguments": Case(
        Defaults,
        lambda m, x, *rest: m.b(3 * hand(m.a(x)) + 3),
        inputs=(rows(), 2.0, 1.0),
    ),
    "keyword-only arguments": Case(
        Defaults,
        lambda m, x, scale, other: m.b(scale * hand(m.a(x)) + 1 + other),
        inputs={"x": rows(), "scale": 2.0, "other": 0.25},
    ),
    "defaults of a helper": Case(HelperDefaults, lambda m, x: m.b(3 * hand(m.a(x)))),
    "annotations": Case(Annotated, between),
    "methods behind methods": Case(OtherEntry, lambda m, x: m.b(hand(m.a(x)) + 1)),
    "method of a helper object": Case(MethodOfHelperObject, lambda m, x: m.b(4 * hand(m.a(x))), edits=2, static=False),
    "two lambdas on one line": Case(TwoLambdas, lambda m, x: m.b(3 * hand(m.a(x)) + 1), edits=2),
    "one of two lambdas on one line": Case(
        TwoLambdas, lambda m, x: m.b(F.silu(m.a(x)) + 1 + 2 * hand(m.a(x))), options={"include": "op:tanh"}
    ),
    "cached property": Case(Cached, lambda m, x: m.b(F.linear(x, hand(m.a.weight) + 1))),
    "context decorator": Case(InContext, between),
    "forward from outside": Case(ForwardFromOutside, between),
    "other method of a child": Case(
        OtherMethodOfChild, lambda m, x: m.b(sum(hand(e.a(x)) + 1 for e in m.encoders)), edits=2
    ),
    "one of two instances": Case(
        OneInstance, lambda m, x: between(m.first, x) + m.second(x), options={"include": "first"}
    ),
}
