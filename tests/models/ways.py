"""Ways of writing activations, one class each: what the layers of random networks do between linear maps.

Every class is small enough to be read at a glance; `WAYS` says what it applies, in order, for the reference.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap
from torch.utils.checkpoint import checkpoint

__all__ = ["WAYS", "Way"]

WIDTH = 4
REGISTRY: dict[str, Any] = {"smooth": F.silu, "round": F.gelu}
SHARED_MODULE = nn.Mish()


def swish(x):
    return x * torch.sigmoid(x)


def shifted(x):
    return F.softplus(x) - torch.log(torch.tensor(2.0, dtype=x.dtype))


def through_helper(x):
    return F.mish(x)


def deeper(x):
    return through_helper(x.clone())


def closure(function):
    def inner(x):
        return function(x)

    return inner


def composed(*functions):
    def run(x):
        for function in functions:
            x = function(x)
        return x.clone()

    return run


def logged(function):
    @functools.wraps(function)
    def wrapper(self, x):
        self.calls += 1
        return function(self, x)

    return wrapper


class Kind(enum.Enum):
    SMOOTH = enum.member(F.silu)


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass
class Settings:
    act: Any


class Curve:
    def __call__(self, x):
        return F.elu(x, 0.5)

    def method(self, x):
        return torch.celu(x)


class OwnSwish(nn.Module):
    def forward(self, x):
        return x * x.sigmoid()


class SavedSwish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (s + x * s * (1 - s))


@contextlib.contextmanager
def activated(x):
    yield torch.tanh(x)


def tanh_hook(module, args, output):
    return torch.tanh(output)


def silu_pre_hook(module, args):
    return (F.silu(args[0]),)


class Layer(nn.Module):
    """A linear map, then whatever the subclass does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.calls = 0
        self.prepare()

    def prepare(self) -> None:
        """Make what `activate` needs."""

    def forward(self, x):
        return self.activate(self.linear(x))


class Held(Layer):
    """Calls ``self.act``."""

    def activate(self, x):
        return self.act(x)


class Module(Held):
    def prepare(self):
        self.act = nn.Softplus()


class InplaceModule(Held):
    def prepare(self):
        self.act = nn.ReLU(inplace=True)


class Parametric(Held):
    def prepare(self):
        self.act = nn.PReLU()


class WithSettings(Held):
    def prepare(self):
        self.act = nn.GELU(approximate="tanh")


class OwnModule(Held):
    def prepare(self):
        self.act = OwnSwish()


class InSequential(Held):
    def prepare(self):
        self.act = nn.Sequential(nn.Hardswish(), nn.Identity(), nn.Tanh())


class Attribute(Held):
    def prepare(self):
        self.act = torch.tanh


class LambdaAttribute(Held):
    def prepare(self):
        self.act = lambda x: 1.5 * F.silu(x)


class Partial(Held):
    def prepare(self):
        self.act = functools.partial(F.leaky_relu, negative_slope=0.2)


class Closure(Held):
    def prepare(self):
        self.act = closure(F.hardswish)


class ClosureOfTwo(Held):
    def prepare(self):
        self.act = composed(F.silu, torch.tanh)


class CallableObject(Held):
    def prepare(self):
        self.act = Curve()


class BoundMethod(Held):
    def prepare(self):
        self.act = Curve().method


class MethodCaller(Held):
    def prepare(self):
        self.act = operator.methodcaller("relu")


class EnumMember(Layer):
    def activate(self, x):
        return Kind.SMOOTH.value(x)


class ClassAttribute(Layer):
    act = nn.SELU()

    def activate(self, x):
        return self.act(x)


class StaticAttribute(Layer):
    act = staticmethod(F.logsigmoid)

    def activate(self, x):
        return self.act(x)


class Item(Layer):
    def prepare(self):
        self.acts = [F.relu, {"deep": F.gelu}]

    def activate(self, x):
        return self.acts[1]["deep"](x)


class UnregisteredModule(Layer):
    def prepare(self):
        self.acts = (nn.Tanh(), nn.SiLU())

    def activate(self, x):
        for act in self.acts:
            x = act(x)
        return x


class NamedTuple_(Layer):
    def prepare(self):
        self.pair = Pair(F.silu, nn.Tanh())

    def activate(self, x):
        return self.pair.second(self.pair.first(x))


class InDataclass(Layer):
    def prepare(self):
        self.settings = Settings(torch.celu)

    def activate(self, x):
        return self.settings.act(x)


class ModuleTable(Layer):
    def prepare(self):
        self.acts = nn.ModuleDict({"one": nn.ELU(), "two": nn.CELU()})

    def activate(self, x):
        return self.acts["two"](x)


class Functional(Layer):
    def activate(self, x):
        return F.selu(x)


class Method(Layer):
    def activate(self, x):
        return x.tanh()


class InplaceMethod(Layer):
    def activate(self, x):
        return x.relu_()


class InplaceView(Layer):
    """Activates a view; what it is a view of changes."""

    def activate(self, x):
        x = x.clone()
        x.view(-1).tanh_()
        return x


class OnTheFly(Layer):
    def activate(self, x):
        return nn.Softplus()(x)


class LocalName(Layer):
    def activate(self, x):
        act = torch.celu
        return act(x)


class ByString(Layer):
    def activate(self, x):
        return getattr(F, "silu")(x)  # noqa: B009


class ByVariable(Layer):
    def prepare(self):
        self.name = "gelu"

    def activate(self, x):
        return getattr(F, self.name)(x)


class Registry(Layer):
    def prepare(self):
        self.name = "smooth"

    def activate(self, x):
        return REGISTRY[self.name](x)


class Conditional(Layer):
    def activate(self, x):
        return (F.silu if self.calls == 0 else F.relu)(x)


class NeverReached(Layer):
    def activate(self, x):
        return F.silu(x) if x.shape[0] > 1000 else F.gelu(x)


class Comprehension(Layer):
    def activate(self, x):
        return torch.stack([F.silu(part) for part in x])


class GeneratorOfRows(Layer):
    def rows(self, x):
        for row in x:
            yield torch.tanh(row)

    def activate(self, x):
        return torch.stack(list(self.rows(x)))


class Mapped(Layer):
    def one(self, row):
        return F.elu(row)

    def activate(self, x):
        return torch.stack(list(map(self.one, x)))


class MappedFunction(Layer):
    def activate(self, x):
        return torch.stack(list(map(F.silu, x.unbind())))


class Reduced(Layer):
    def prepare(self):
        self.acts = [F.silu, torch.tanh]

    def activate(self, x):
        return functools.reduce(lambda h, act: act(h), self.acts, x)


class UserFunction(Layer):
    def activate(self, x):
        return swish(x)


class UserFunctionWithShift(Layer):
    def activate(self, x):
        return shifted(x)


class InlineSwish(Layer):
    def activate(self, x):
        return x * torch.sigmoid(x)


class InlineShiftedSoftplus(Layer):
    def activate(self, x):
        return F.softplus(x) - math.log(2.0)


class InlineGELU(Layer):
    def activate(self, x):
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2.0)))


class Helper(Layer):
    def activate(self, x):
        return deeper(x)


class NestedFunction(Layer):
    def activate(self, x):
        def inner(y):
            return F.silu(y + offset) * 1.0

        offset = 0.0
        return inner(x)


class LambdaInside(Layer):
    def activate(self, x):
        run = lambda y: torch.tanh(y.clone())
        return run(x)


class TwoInOneLine(Layer):
    def activate(self, x):
        return F.silu(F.gelu(x))


class Keyword(Layer):
    def activate(self, x):
        return F.elu(input=x, alpha=0.5)


class StarArguments(Layer):
    def activate(self, x):
        args, settings = (x,), {"beta": 2.0}
        return F.softplus(*args, **settings)


class WhileLoop(Layer):
    def activate(self, x):
        count = 0
        while count < 2:
            x = F.mish(x)
            count += 1
        return x


class PartialMethod(Layer):
    def apply_to(self, x, *, act):
        return act(x)

    activate = functools.partialmethod(apply_to, act=torch.tanh)


class StaticMethod(Layer):
    @staticmethod
    def activate(x):
        return F.silu(x)


class ClassMethod(Layer):
    @classmethod
    def activate(cls, x):
        return F.gelu(x)


class Property(Layer):
    @property
    def activated(self):
        return torch.tanh(self.kept)

    def activate(self, x):
        self.kept = x
        try:
            return self.activated
        finally:
            del self.kept


class Decorated(Layer):
    @logged
    def activate(self, x):
        return F.silu(x)


class Mixin:
    def activate(self, x):
        return F.hardswish(super().activate(x))


class ByMixin(Mixin, Method):
    """An activation in a mixin, and one behind its ``super()``."""


class SuperForward(Functional):
    def forward(self, x):
        return torch.tanh(super().forward(x))


class AutogradFunction(Layer):
    def activate(self, x):
        return SavedSwish.apply(x)


class Checkpointed(Layer):
    def body(self, x):
        return torch.tanh(x)

    def activate(self, x):
        return checkpoint(self.body, x, use_reentrant=False)


class Vmapped(Layer):
    def activate(self, x):
        return vmap(lambda row: F.silu(row).clone())(x)


class InContext(Layer):
    def activate(self, x):
        with activated(x) as y:
            return y


class ExceptionAsBranch(Layer):
    def activate(self, x):
        try:
            raise KeyError
        except KeyError:
            return F.silu(x)


class Hook(Layer):
    def prepare(self):
        self.linear.register_forward_hook(tanh_hook)

    def activate(self, x):
        return x.clone()


class PreHook(Layer):
    def prepare(self):
        self.after = nn.Identity()
        self.after.register_forward_pre_hook(silu_pre_hook)

    def activate(self, x):
        return self.after(x)


class ModuleOfFile(Layer):
    def activate(self, x):
        return SHARED_MODULE(x)


class ForwardCalled(Layer):
    def prepare(self):
        self.act = nn.SiLU()

    def activate(self, x):
        return self.act.forward(x)


class OneModuleTwice(Layer):
    """One object in two attributes, both used."""

    def prepare(self):
        self.act1 = self.act2 = nn.Tanh()

    def activate(self, x):
        return self.act2(self.act1(x))


Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Way:
    """One way of writing activations.

    Attributes
    ----------
    layer
        The class.
    applies
        What it applies, in order; empty where that depends on the layer's parameters.
    static
        Whether its source shows that.
    pickles
        False where a layer cannot be pickled before it is edited either.
    """

    layer: type[Layer]
    applies: tuple[Function, ...]
    static: bool = True
    pickles: bool = True


def _tanh_gelu(x):
    return F.gelu(x, approximate="tanh")


def _leaky(x):
    return F.leaky_relu(x, 0.2)


def _half_elu(x):
    return F.elu(x, 0.5)


def _scaled(x):
    return 1.5 * F.silu(x)


def _soft2(x):
    return F.softplus(x, 2.0)


def _relu(x):
    return torch.relu(x)  # not in place, as F.relu may be


_WAYS = [
    Way(Module, (F.softplus,)),
    Way(InplaceModule, (_relu,)),
    Way(Parametric, ()),
    Way(WithSettings, (_tanh_gelu,)),
    Way(OwnModule, (F.silu,)),
    Way(InSequential, (F.hardswish, torch.tanh)),
    Way(Attribute, (torch.tanh,)),
    Way(LambdaAttribute, (_scaled,), pickles=False),
    Way(Partial, (_leaky,)),
    Way(Closure, (F.hardswish,), pickles=False),
    Way(ClosureOfTwo, (F.silu, torch.tanh), static=False, pickles=False),
    Way(CallableObject, (_half_elu,)),
    Way(BoundMethod, (torch.celu,)),
    Way(MethodCaller, (_relu,), static=False),
    Way(EnumMember, (F.silu,), static=False),
    Way(ClassAttribute, (F.selu,)),
    Way(StaticAttribute, (F.logsigmoid,)),
    Way(Item, (F.gelu,)),
    Way(UnregisteredModule, (torch.tanh, F.silu)),
    Way(NamedTuple_, (F.silu, torch.tanh)),
    Way(InDataclass, (torch.celu,)),
    Way(ModuleTable, (torch.celu,)),
    Way(Functional, (F.selu,)),
    Way(Method, (torch.tanh,)),
    Way(InplaceMethod, (_relu,)),
    Way(InplaceView, (torch.tanh,)),
    Way(OnTheFly, (F.softplus,)),
    Way(LocalName, (torch.celu,)),
    Way(ByString, (F.silu,)),
    Way(ByVariable, (F.gelu,), static=False),
    Way(Registry, (F.silu,)),
    Way(Conditional, (F.silu,)),
    Way(NeverReached, (F.gelu,)),
    Way(Comprehension, (F.silu,)),
    Way(GeneratorOfRows, (torch.tanh,)),
    Way(Mapped, (F.elu,)),
    Way(MappedFunction, (F.silu,), static=False),
    Way(Reduced, (F.silu, torch.tanh)),
    Way(UserFunction, (F.silu,)),
    Way(UserFunctionWithShift, (shifted,)),
    Way(InlineSwish, (F.silu,)),
    Way(InlineShiftedSoftplus, (shifted,)),
    Way(InlineGELU, (F.gelu,)),
    Way(Helper, (F.mish,)),
    Way(NestedFunction, (F.silu,)),
    Way(LambdaInside, (torch.tanh,)),
    Way(TwoInOneLine, (F.gelu, F.silu)),
    Way(Keyword, (_half_elu,)),
    Way(StarArguments, (_soft2,)),
    Way(WhileLoop, (F.mish, F.mish)),
    Way(PartialMethod, (torch.tanh,), static=False),
    Way(StaticMethod, (F.silu,)),
    Way(ClassMethod, (F.gelu,)),
    Way(Property, (torch.tanh,)),
    Way(Decorated, (F.silu,)),
    Way(ByMixin, (torch.tanh, F.hardswish)),
    Way(SuperForward, (F.selu, torch.tanh)),
    Way(AutogradFunction, (F.silu,)),
    Way(Checkpointed, (torch.tanh,)),
    Way(Vmapped, (F.silu,)),
    Way(InContext, (torch.tanh,)),
    Way(ExceptionAsBranch, (F.silu,)),
    Way(Hook, (torch.tanh,)),
    Way(PreHook, (F.silu,)),
    Way(ModuleOfFile, (F.mish,)),
    Way(ForwardCalled, (F.silu,)),
    Way(OneModuleTwice, (torch.tanh, torch.tanh)),
]

#: Every way, by the name of its class.
WAYS = {way.layer.__name__: way for way in _WAYS}
