"""Where a model keeps an activation: registries, enums, containers, descriptors, globals."""

from __future__ import annotations

import collections
import contextvars
import enum
import functools
import operator
import threading
import types
import weakref
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from models.case import Case, Net, between, hand
from torch import nn

REGISTRY: dict[str, Any] = {}


def register(name):
    def decorator(thing):
        REGISTRY[name] = thing
        return thing

    return decorator


@register("swish")
def swish(x):
    return x * torch.sigmoid(x)


@register("soft")
class Soft(nn.Module):
    def forward(self, x):
        return F.softplus(x)


REGISTRY["silu"] = F.silu
REGISTRY["tanh"] = nn.Tanh
GLOBAL_MODULE = nn.SiLU()
GLOBAL_FUNCTION = F.gelu
CURRENT = contextvars.ContextVar("activation", default=F.silu)
LOCAL = threading.local()


class Kind(enum.Enum):
    """Functions as the values of an Enum, which has to be told that they are no methods."""

    SMOOTH = enum.member(F.silu)
    PARTIAL = functools.partial(F.leaky_relu, negative_slope=0.1)

    def __call__(self, x):
        return self.value(x)


class Name(enum.StrEnum):
    SILU = "silu"
    TANH = "tanh"


class Slots:
    """No ``__dict__`` to look into."""

    __slots__ = ("act",)

    def __init__(self, act):
        self.act = act


class Descriptor:
    def __get__(self, instance, owner):
        return F.silu


@dataclass
class Options:
    acts: list[Any] = field(default_factory=lambda: [F.silu, torch.tanh])
    table: dict[str, Any] = field(default_factory=lambda: {"out": nn.Softplus()})


class Stage(NamedTuple):
    act: Any
    scale: float


class LooksUp(Net):
    """A registry of the module, asked by name in every call."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x):
        return self.b(REGISTRY[self.name](self.a(x)))


class MakesFromRegistry(Net):
    def __init__(self, name):
        super().__init__()
        self.act = REGISTRY[name]()

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class InEnum(Net):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        return self.b(self.kind(self.a(x)))


class EnumValue(Net):
    def forward(self, x):
        return self.b(Kind.SMOOTH.value(self.a(x)))


class NameInEnum(Net):
    def forward(self, x):
        return self.b(getattr(torch, Name.TANH)(getattr(F, Name.SILU.value)(self.a(x))))


class InOptions(Net):
    def __init__(self):
        super().__init__()
        self.options = Options()

    def forward(self, x):
        h = self.a(x)
        for act in self.options.acts:
            h = act(h)
        return self.b(self.options.table["out"](h))


class InNamespace(Net):
    def __init__(self):
        super().__init__()
        self.space = types.SimpleNamespace(inner=types.SimpleNamespace(act=nn.SiLU()), f=torch.tanh)

    def forward(self, x):
        return self.b(self.space.f(self.space.inner.act(self.a(x))))


class InSlots(Net):
    def __init__(self):
        super().__init__()
        self.slots = Slots(F.silu)

    def forward(self, x):
        return self.b(self.slots.act(self.a(x)))


class Described(Net):
    act = Descriptor()

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class InStages(Net):
    def __init__(self):
        super().__init__()
        self.stages = (Stage(F.silu, 1.0), Stage(nn.Tanh(), 2.0))

    def forward(self, x):
        h = self.a(x)
        for stage in self.stages:
            h = stage.act(h) * stage.scale
        return self.b(h)


class Deep(Net):
    def __init__(self):
        super().__init__()
        self.deep = {"a": [({"b": (F.silu, [nn.Tanh()])},)], "order": collections.deque([F.gelu])}

    def forward(self, x):
        first, (second,) = self.deep["a"][0][0]["b"]
        return self.b(self.deep["order"][0](second(first(self.a(x)))))


class OtherContainers(Net):
    def __init__(self):
        super().__init__()
        self.ordered = collections.OrderedDict(one=F.silu)
        self.chain = collections.ChainMap({}, {"two": torch.tanh})
        self.default = collections.defaultdict(lambda: F.softplus)

    def forward(self, x):
        h = self.chain["two"](self.ordered["one"](self.a(x)))
        return self.b(self.default["anything"](h))


class Numbered(Net):
    def __init__(self):
        super().__init__()
        for number, act in enumerate((F.silu, nn.Tanh(), torch.relu)):
            setattr(self, f"act{number}", act)

    def forward(self, x):
        h = self.a(x)
        for number in range(3):
            h = getattr(self, f"act{number}")(h)
        return self.b(h)


class OverChildren(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(3, 6), nn.SiLU(), nn.Linear(6, 4)

    def forward(self, x):
        for child in self.children():
            x = child(x)
        for name, child in self._modules.items():
            if name == "act":
                x = child(x)
        return x


class GlobalThings(Net):
    def forward(self, x):
        return self.b(GLOBAL_FUNCTION(GLOBAL_MODULE(self.a(x))))


class InContextVariable(Net):
    def forward(self, x):
        token = CURRENT.set(torch.tanh)
        try:
            h = CURRENT.get()(self.a(x))
        finally:
            CURRENT.reset(token)
        return self.b(CURRENT.get()(h))


class InThreadLocal(Net):
    def forward(self, x):
        LOCAL.act = F.silu
        return self.b(LOCAL.act(self.a(x)))


class Weak(Net):
    def __init__(self):
        super().__init__()
        self.act = nn.SiLU()

    def forward(self, x):
        return self.b(weakref.ref(self.act)()(self.a(x)))


class Reduced(Net):
    """functools.reduce over a list of functions."""

    def __init__(self):
        super().__init__()
        self.acts = [F.silu, torch.tanh, nn.Softplus()]

    def forward(self, x):
        return self.b(functools.reduce(lambda h, act: act(h), self.acts, self.a(x)))


class PartialMethod(Net):
    def activate(self, h, *, act, shift):
        return act(h) + shift

    smooth = functools.partialmethod(activate, act=F.silu, shift=1.0)
    hard = functools.partialmethod(activate, act=torch.relu, shift=2.0)

    def forward(self, x):
        return self.b(self.hard(self.smooth(self.a(x))))


class Callers(Net):
    def __init__(self):
        super().__init__()
        self.method = operator.methodcaller("tanh")
        self.getter = operator.attrgetter("functional.silu")
        self.item = operator.itemgetter(1)

    def forward(self, x):
        h = self.getter(nn)(self.method(self.a(x)))
        return self.b(self.item((F.gelu, F.softplus))(h))


class DefaultArgument(Net):
    def forward(self, x, act=F.silu, *, other=torch.tanh):
        return self.b(other(act(self.a(x))))


def on_function(x):
    return on_function.act(x) * on_function.scale + x.mean()


on_function.act = F.silu
on_function.scale = 2.0


class FunctionAttribute(Net):
    def forward(self, x):
        return self.b(on_function(self.a(x)))


@functools.lru_cache
def cached_factory(name):
    return {"silu": F.silu, "tanh": torch.tanh}[name]


class FromCachedFactory(Net):
    def forward(self, x):
        return self.b(cached_factory("tanh")(cached_factory("silu")(self.a(x))))


class Composed(Net):
    """A closure over closures, made in ``__init__``."""

    def __init__(self):
        super().__init__()

        def compose(*functions):
            def run(x):
                for function in functions:
                    x = function(x)
                return x

            return run

        self.run = compose(F.silu, lambda x: x + 1, torch.tanh)

    def forward(self, x):
        return self.b(self.run(self.a(x)))


class Counter(Net):
    """A closure with ``nonlocal`` state that chooses the function."""

    def __init__(self):
        super().__init__()
        turn = -1

        def alternate(x):
            nonlocal turn
            turn += 1
            return F.silu(x) + 1 if turn % 2 == 0 else torch.tanh(x) - 1

        self.alternate = alternate

    def forward(self, x):
        return self.b(self.alternate(self.alternate(self.a(x))))


def two(m, x):
    return m.b(hand(hand(m.a(x))))


def three(m, x):
    return m.b(hand(hand(hand(m.a(x)))))


def children(m, x):
    return hand(m.last(hand(m.first(x))))


CASES = {
    "registry, listed function": Case(lambda: LooksUp("silu"), between),
    "registry, own function": Case(lambda: LooksUp("swish"), between),
    "module made from a registry": Case(lambda: MakesFromRegistry("soft"), between),
    "listed module made from a registry": Case(lambda: MakesFromRegistry("tanh"), between),
    "Enum member that is called": Case(lambda: InEnum(Kind.SMOOTH), between, static=False),
    "partial in an Enum": Case(lambda: InEnum(Kind.PARTIAL), between, static=False, pickles=False),
    "value of an Enum": Case(EnumValue, between, static=False),
    "names in an Enum": Case(NameInEnum, two, edits=2, static=False),
    "fields of a dataclass": Case(InOptions, three, edits=3),
    "namespaces": Case(InNamespace, two, edits=2),
    "slots": Case(InSlots, between, static=False),
    "descriptor": Case(Described, between, static=False),
    "tuple of named tuples": Case(InStages, lambda m, x: m.b(2 * hand(hand(m.a(x)))), edits=2),
    "deeply nested containers": Case(Deep, three, edits=3, static=False),
    "other containers": Case(OtherContainers, three, edits=3, pickles=False, static=False),
    "numbered attributes": Case(Numbered, three, edits=3),
    "over the children": Case(OverChildren, children),
    "module and function of the file": Case(GlobalThings, two, edits=2),
    "context variable": Case(InContextVariable, two, edits=2, static=False),
    "thread-local": Case(InThreadLocal, between, static=False),
    "weak reference": Case(Weak, between),
    "reduce": Case(Reduced, three, edits=3),
    "partialmethod": Case(PartialMethod, lambda m, x: m.b(hand(hand(m.a(x)) + 1) + 2), edits=1, static=False),
    "method caller, attribute getter, item getter": Case(Callers, three, edits=3, static=False),
    "default argument": Case(DefaultArgument, two, edits=2),
    "attribute of a function": Case(
        FunctionAttribute, lambda m, x: m.b(2 * hand(m.a(x)) + m.a(x).mean()), static=False
    ),
    "cached factory": Case(FromCachedFactory, two, edits=2, static=False),
    "closure over closures": Case(Composed, lambda m, x: m.b(hand(hand(m.a(x)) + 1)), pickles=False, static=False),
    "closure with state": Case(Counter, lambda m, x: m.b(hand(hand(m.a(x)) + 1) - 1), edits=2, pickles=False),
}
