"""What Python's object model allows around a call: overridden ``__call__``, delegation, mixins, operators, coroutines."""

from __future__ import annotations

import abc
import asyncio
import concurrent.futures
import contextlib
import functools
import threading
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from models.case import Case, Net, between, hand
from torch import nn

Width = TypeVar("Width")


class CallOverridden(Net):
    """Code of the model's own around ``nn.Module.__call__``."""

    def __call__(self, x, *args, **kwargs):
        return torch.tanh(super().__call__(F.silu(x), *args, **kwargs))

    def forward(self, x):
        return self.b(F.softplus(self.a(x)))


class ActOnCall(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def __call__(self, x):
        return F.silu(self.layer(x))


class ChildWithoutForward(nn.Module):
    """A child whose ``__call__`` replaces torch's: no hook of torch runs for it."""

    def __init__(self):
        super().__init__()
        self.child = ActOnCall()
        self.b = nn.Linear(4, 2)

    def forward(self, x):
        return self.b(self.child(x))


class Delegates(nn.Module):
    """Finds what it does not have in the model that it wraps."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x):
        return self.b(self.act(self.a(x)))  # all three are the inner model's


class Held(Net):
    def __init__(self):
        super().__init__()
        self.act = nn.SiLU()
        self.free = torch.tanh

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class DelegatesFunction(Delegates):
    def forward(self, x):
        return self.b(self.free(self.a(x)))


class Smooth:
    """A mixin that is no module."""

    def activate(self, x):
        return F.silu(x) + self.shift()

    def shift(self):
        return 1.0


class Sharp:
    def activate(self, x):
        return torch.relu(super().activate(x))


class Mixed(Sharp, Smooth, Net):
    def shift(self):
        return super().shift() * 2

    def forward(self, x):
        return self.b(self.activate(self.a(x)))


class Diamond(Net):
    def run(self, x):
        return torch.tanh(self.a(x))


class Left(Diamond):
    def run(self, x):
        return F.silu(super().run(x) + 1)


class Right(Diamond):
    def run(self, x):
        return F.gelu(super().run(x) - 1)


class Bottom(Left, Right):
    def forward(self, x):
        return self.b(super().run(x))


class Abstract(Net, abc.ABC):
    @abc.abstractmethod
    def act(self, x): ...

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class Concrete(Abstract):
    act = staticmethod(torch.tanh)


class Choosing(type):
    """A metaclass that writes the method."""

    def __new__(mcs, name, bases, members, *, activation):
        def forward(self, x):
            return self.b(activation(self.a(x)))

        return super().__new__(mcs, name, bases, {**members, "forward": forward})


class MadeByMetaclass(Net, metaclass=Choosing, activation=F.silu):
    pass


@dataclass(eq=False)
class DataModule(nn.Module):
    """A module that is a dataclass."""

    width: int = 4

    def __post_init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, self.width), nn.Linear(self.width, 2)

    def forward(self, x):
        return self.b(F.silu(self.a(x)))


class Typed(Net, Generic[Width]):
    def forward(self, x: Width) -> Width:
        return self.b(F.silu(self.a(x)))


class InClosure(Net):
    def __init__(self):
        super().__init__()

        class Local(nn.Module):
            def forward(self, x):
                return torch.tanh(x) + x.mean()

        self.local = Local()

    def forward(self, x):
        return self.b(self.local(self.a(x)))


class Properties(Net):
    """A property with a setter, a cached one, and one that returns a function."""

    def __init__(self):
        super().__init__()
        self.scale = 0.5

    @property
    def scale(self):
        return torch.tanh(self._scale * self.a.weight.sum())

    @scale.setter
    def scale(self, value):
        self._scale = value

    @property
    def act(self):
        return F.silu

    def forward(self, x):
        return self.b(self.act(self.a(x)) * self.scale)


class Pipe:
    """Operators that apply functions: ``x @ f``, ``x >> f``, ``x[f]``."""

    def __init__(self, value):
        self.value = value

    def __rshift__(self, function):
        return Pipe(function(self.value))

    def __getitem__(self, shift):
        return Pipe(torch.tanh(self.value + shift))

    def __neg__(self):
        return Pipe(F.gelu(-self.value))


class Operators(Net):
    def forward(self, x):
        return self.b((-((Pipe(self.a(x)) >> F.silu)[0.5])).value)


class Augments(Net):
    """An activation in ``__iadd__`` and ``__contains__`` of a helper object."""

    def forward(self, x):
        total = Total(self.a(x))
        total += 1.0
        assert 2.0 in total
        return self.b(total.value)


class Total:
    def __init__(self, value):
        self.value = value

    def __iadd__(self, other):
        self.value = F.silu(self.value) + other
        return self

    def __contains__(self, other):
        self.value = torch.tanh(self.value) + other
        return True


class Coroutines(Net):
    """Methods that are coroutines, run by an event loop inside ``forward``."""

    async def step(self, h):
        await asyncio.sleep(0)
        return F.silu(h)

    async def steps(self, h):
        first, second = await asyncio.gather(self.step(h), self.step(h + 1))
        return torch.tanh(first + second)

    def forward(self, x):
        loop = asyncio.new_event_loop()
        try:
            return self.b(loop.run_until_complete(self.steps(self.a(x))))
        finally:
            loop.close()


class Generators(Net):
    """Values go in by ``send`` and come out by ``yield from``."""

    def inner(self):
        h = yield None
        while h is not None:
            h = yield F.silu(h)

    def outer(self):
        yield from self.inner()

    def forward(self, x):
        generator = self.outer()
        next(generator)
        h = generator.send(self.a(x))
        h = generator.send(h - 0.25)
        generator.close()
        return self.b(h)


class InThread(Net):
    def forward(self, x):
        found = {}
        h = self.a(x)

        def work():
            found["h"] = F.silu(h)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return self.b(found["h"])


class InPool(Net):
    def half(self, part):
        return torch.tanh(self.a(part))

    def forward(self, x):
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            parts = list(pool.map(self.half, (x[:2], x[2:])))
        return self.b(torch.cat(parts))


class ChildrenInThreads(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(3, 2), nn.SiLU()) for _ in range(2))

    def forward(self, x):
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return sum(future.result() for future in [pool.submit(part, x) for part in self.parts])


class Stack(Net):
    """Callbacks on an exit stack."""

    def forward(self, x):
        found = []
        with contextlib.ExitStack() as stack:
            h = self.a(x)
            stack.callback(lambda: found.append(F.silu(h)))
        return self.b(found[0])


@contextlib.contextmanager
def activated(h):
    yield F.silu(h)


class ContextManager(Net):
    def forward(self, x):
        with activated(self.a(x)) as h:
            return self.b(h)


def counting(function):
    @functools.wraps(function)
    def wrapper(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return torch.tanh(function(self, x))

    return wrapper


class Decorating:
    """A decorator that is a class."""

    def __init__(self, function):
        self.function = function
        functools.update_wrapper(self, function)

    def __get__(self, instance, owner):
        return functools.partial(self.function, instance)


class DecoratorActivates(Net):
    @counting
    def forward(self, x):
        return self.b(F.silu(self.a(x)))


class DecoratedByClass(Net):
    @Decorating
    def encode(self, x):
        return F.silu(self.a(x))

    def forward(self, x):
        return self.b(self.encode(x))


class PartlyWithoutGradient(Net):
    @torch.no_grad()
    def gate(self, x):
        return torch.tanh(self.a(x))

    def forward(self, x):
        with torch.no_grad():
            level = F.softplus(self.a(x)).mean()
        return self.b(F.silu(self.a(x)) * self.gate(x) + level)


class Overloaded(Net):
    """``forward`` of the parent under another name, ``forward`` itself taken from a table."""

    def encode(self, x):
        return self.b(F.silu(self.a(x)))

    def decode(self, x):
        return torch.tanh(self.a(x)).sum(1)

    def forward(self, x, mode="encode"):
        return {"encode": self.encode, "decode": self.decode}[mode](x)


class Executed(Net):
    """A helper that was compiled from a string: there is no source."""

    def forward(self, x):
        return self.b(EXECUTED(self.a(x)))


_space = {"F": F, "__name__": __name__}
exec("def EXECUTED(x):\n    return F.silu(x) + x.mean()\n", _space)
EXECUTED = _space["EXECUTED"]


def bottom(m, x):
    return m.b(hand(hand(hand(m.a(x)) - 1) + 1))


def coroutine(m, x):
    return m.b(hand(hand(m.a(x)) + hand(m.a(x) + 1)))


CASES = {
    "__call__ overridden": Case(CallOverridden, lambda m, x: hand(m.b(hand(m.a(hand(x))))), edits=3, static=False),
    "child without forward": Case(ChildWithoutForward, lambda m, x: m.b(hand(m.child.layer(x))), static=False),
    "delegated module": Case(lambda: Delegates(Held()), lambda m, x: between(m.inner, x), edits=2),
    "delegated function": Case(
        lambda: DelegatesFunction(Held()), lambda m, x: between(m.inner, x), edits=3, static=False
    ),
    "mixins": Case(Mixed, lambda m, x: m.b(hand(hand(m.a(x)) + 2)), edits=2),
    "diamond": Case(Bottom, bottom, edits=3),
    "abstract class": Case(Concrete, between),
    "metaclass": Case(MadeByMetaclass, between),
    "dataclass": Case(DataModule, between),
    "generic class": Case(Typed, between),
    "class in a function": Case(InClosure, lambda m, x: m.b(hand(m.a(x)) + m.a(x).mean()), pickles=False),
    "properties": Case(
        Properties, lambda m, x: m.b(hand(m.a(x)) * hand(0.5 * m.a.weight.sum())), edits=2, static=False
    ),
    "operators of a helper object": Case(
        Operators, lambda m, x: m.b(hand(-hand(hand(m.a(x)) + 0.5))), edits=3, static=False
    ),
    "in-place operators": Case(Augments, lambda m, x: m.b(hand(hand(m.a(x)) + 1) + 2), edits=2, static=False),
    "coroutines": Case(Coroutines, coroutine, edits=2),
    "generators": Case(Generators, lambda m, x: m.b(hand(hand(m.a(x)) - 0.25))),
    "thread": Case(InThread, between, witnessed=False),
    "thread pool": Case(InPool, between, witnessed=False),
    "children in threads": Case(
        ChildrenInThreads,
        lambda m, x: sum(hand(p[0](x)) for p in m.parts),
        edits=2,
        differentiable=False,
        witnessed=False,
    ),
    "exit stack": Case(Stack, between),
    "context manager": Case(ContextManager, between),
    "decorator that activates": Case(DecoratorActivates, lambda m, x: hand(between(m, x)), edits=2),
    "decorator that is a class": Case(DecoratedByClass, between, static=False),
    "partly without gradient": Case(
        PartlyWithoutGradient,
        lambda m, x: m.b(hand(m.a(x)) * hand(m.a(x)).detach() + hand(m.a(x)).detach().mean()),
        edits=3,
    ),
    "method from a table": Case(
        Overloaded,
        lambda m, x, mode="encode": between(m, x) if mode == "encode" else hand(m.a(x)).sum(1),
        edits=2,
        other_inputs=[{"x": torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3), "mode": "decode"}],
    ),
    "without source": Case(Executed, lambda m, x: m.b(hand(m.a(x)) + m.a(x).mean()), static=False),
}
