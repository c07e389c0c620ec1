"""An amended class behaves like the original in everything but its amendments, and comes back from files."""

from __future__ import annotations

import abc
import copy
import io
import pickle
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import pytest
import torch
from torch import nn

from dcsurgery.errors import Refused
from dcsurgery.identity import fingerprint_of, structure_of
from dcsurgery.subclass import (
    Amendment,
    amend,
    amended,
    amendments_of,
    original_class,
    rebuild,
    restore_class,
)


@dataclass(frozen=True)
class Times:
    """Multiplies what ``forward`` returns."""

    factor: float

    def members(self, cls: type[nn.Module]) -> dict[str, Any]:
        factor = self.factor

        def forward(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
            return cls.forward(module, x) * factor

        return {"forward": forward}


T = TypeVar("T")


class Plain(nn.Module):
    """Documented."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.note = "kept"

    def forward(self, x):
        return self.layer(x)


class WithState(Plain):
    """Pickles without its cache."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = [1, 2]

    def __getstate__(self):
        state = self.__dict__.copy()
        del state["cache"]
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        self.cache = ["restored"]


class Abstract(Plain, abc.ABC):
    @abc.abstractmethod
    def name(self): ...


class Concrete(Abstract):
    def name(self):
        return "concrete"


class Generally(Plain, Generic[T]):
    pass


class Registered(Plain):
    """Registers its subclasses, and insists on an argument."""

    classes: ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls, *, key: str) -> None:
        super().__init_subclass__()
        Registered.classes[key] = cls


class Entry(Registered, key="entry"):
    pass


class Insisting(type):
    """Needs an argument, and counts the classes that it makes."""

    made: ClassVar[list[str]] = []

    def __new__(mcs, name, bases, members, *, key):
        Insisting.made.append(name)
        return super().__new__(mcs, name, bases, members)

    def __init__(cls, name, bases, members, *, key):
        super().__init__(name, bases, members)


class OfMetaclass(Plain, metaclass=Insisting, key=1):
    pass


class WithArguments(Plain):
    """Its ``__new__`` needs what ``__getnewargs__`` gives."""

    def __new__(cls, number):
        return super().__new__(cls)

    def __init__(self, number=2):
        super().__init__()
        self.number = number

    def __getnewargs__(self):
        return (self.number,)


class WithKeywords(Plain):
    def __new__(cls, *, number):
        return super().__new__(cls)

    def __init__(self, number=2):
        super().__init__()
        self.number = number

    def __getnewargs_ex__(self):
        return (), {"number": self.number}


class RegisteredWithSlots(Registered, key="slots"):
    __slots__ = ("extra",)


class Reduces(Plain):
    def __reduce__(self):
        return (Reduces, ())


class ReducesEx(Plain):
    def __reduce_ex__(self, protocol):
        return (ReducesEx, ())


CLASSES = [Plain, WithState, Concrete, Generally, Entry, OfMetaclass]


def reloaded(model: nn.Module, how: str) -> nn.Module:
    if how == "deepcopy":
        return copy.deepcopy(model)
    if how == "torch.save":
        stream = io.BytesIO()
        torch.save(model, stream)
        stream.seek(0)
        return torch.load(stream, weights_only=False)
    return pickle.loads(pickle.dumps(model, protocol=int(how)))


@pytest.mark.parametrize("cls", CLASSES)
def test_an_amended_module_is_still_one_of_its_class(cls):
    model = cls()
    keys = list(model.state_dict())
    amend(model, Times(2.0))
    assert isinstance(model, cls)
    assert type(model) is not cls
    assert original_class(model) is original_class(type(model)) is cls
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(type(model), name) == getattr(cls, name)
    assert type(model).__mro__[1:] == cls.__mro__
    assert list(model.state_dict()) == keys
    assert model.note == "kept"
    assert amendments_of(cls()) == ()
    assert original_class(cls()) is cls


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("how", ["deepcopy", "torch.save", "0", "2", "4", "5"])
def test_it_comes_back_with_its_amendments_in_their_order(cls, how):
    torch.manual_seed(0)
    model, x = cls(), torch.randn(3, 2)
    plain = model(x)
    amend(model, Times(2.0))
    amend(model, Times(0.5))
    amend(model, Times(3.0))
    assert amendments_of(model) == (Times(2.0), Times(0.5), Times(3.0))
    restored = reloaded(model, how)
    assert type(restored) is type(model)
    assert amendments_of(restored) == amendments_of(model)
    assert torch.equal(restored(x), model(x))
    torch.testing.assert_close(restored(x), plain * 3.0)
    assert not any(a is b for a, b in zip(restored.parameters(), model.parameters(), strict=True))


def test_the_classes_own_state_methods_are_honoured():
    model = WithState()
    amend(model, Times(2.0))
    assert pickle.loads(pickle.dumps(model)).cache == ["restored"]
    assert model.cache == [1, 2]


def test_equal_amendments_make_one_class():
    assert amended(Plain, Times(2.0)) is amended(Plain, Times(2.0))
    assert amended(Plain, Times(2.0)) is not amended(Plain, Times(3.0))
    assert amended(Plain, Times(2.0)) is not amended(Concrete, Times(2.0))


def test_what_is_pickled_names_the_original_class():
    model = Plain()
    amend(model, Times(2.0))
    rebuilder, (cls, amendments), *_ = model.__reduce_ex__(4)
    assert rebuilder is rebuild
    assert cls is Plain
    assert amendments == (Times(2.0),)
    empty = rebuild(cls, amendments)
    assert type(empty) is type(model)
    assert not hasattr(empty, "_parameters"), "the constructor has not run"


def test_other_instances_are_not_touched():
    one, other = Plain(), Plain()
    amend(one, Times(2.0))
    assert type(other) is Plain
    assert Plain.forward is vars(Plain)["forward"]


def test_undoing_gives_back_the_class_that_was_there():
    model = Plain()
    first = amend(model, Times(2.0))
    cls = type(model)
    second = amend(model, Times(3.0))
    second()
    assert type(model) is cls
    first()
    assert type(model) is Plain
    restore_class(model, cls)
    assert type(model) is cls


def test_a_registry_of_subclasses_does_not_see_the_amended_one():
    before = dict(Registered.classes)
    amend(Entry(), Times(7.0))
    assert Registered.classes == before == {"entry": Entry, "slots": RegisteredWithSlots}


def test_a_metaclass_does_not_see_the_amended_one():
    before = list(Insisting.made)
    amend(OfMetaclass(), Times(7.0))
    assert Insisting.made == before == ["OfMetaclass"]


def test_an_abstract_class_tells_its_instances_from_those_of_the_amended_one():
    model = Concrete()
    assert isinstance(model, Abstract)
    amend(model, Times(2.0))
    assert isinstance(model, type(model))
    assert not isinstance(Concrete(), type(model))


@pytest.mark.parametrize("model", [WithArguments(3), WithKeywords(number=3)], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("how", ["deepcopy", "torch.save", "4"])
def test_what_new_needs_is_given_to_it(model, how):
    undo = amend(model, Times(2.0))
    try:
        restored = reloaded(model, how)
    finally:
        undo()
    assert restored.number == 3
    assert amendments_of(restored) == (Times(2.0),)


def test_slots_in_a_class_that_registers_are_refused():
    with pytest.raises(Refused, match=r"RegisteredWithSlots has __slots__ and __init_subclass__.*--exclude"):
        amend(RegisteredWithSlots(), Times(2.0))


@pytest.mark.parametrize("cls", [Reduces, ReducesEx])
def test_a_class_that_pickles_in_its_own_way_is_refused(cls):
    model = cls()
    with pytest.raises(Refused, match=rf"class {cls.__name__} defines __reduce(_ex)?__.*--exclude"):
        amend(model, Times(2.0))
    assert type(model) is cls


def test_amendments_are_told_by_what_they_can_do():
    assert isinstance(Times(2.0), Amendment)
    assert not isinstance(3, Amendment)


@pytest.mark.parametrize("training", [True, False])
def test_modes_hooks_and_moves_work(training):
    model, x = Plain(), torch.randn(3, 2)
    seen = []
    model.register_forward_hook(lambda *args: seen.append(args[2]))
    amend(model, Times(2.0))
    model.train(training)
    assert model.layer.training is training
    out = model(x)
    assert seen[0] is out
    assert model.double()(x.double()).dtype == torch.float64
    model.requires_grad_(False)
    assert not model(x.double()).requires_grad


def test_the_structure_says_which_modules_are_amended():
    one, other = Plain(), Plain()
    with torch.no_grad():
        other.layer.weight.zero_()
    assert fingerprint_of(one) == fingerprint_of(other) == fingerprint_of(other.double()), "values do not count"
    amend(one, Times(2.0))
    assert fingerprint_of(one) != fingerprint_of(other)
    assert structure_of(one)[0].endswith("Plain +Times")
    assert structure_of(other) == (
        f"module (model): {__name__}.Plain",
        "module layer: torch.nn.modules.linear.Linear",
        "tensor layer.weight: [2, 2]",
        "tensor layer.bias: [2]",
    )


def test_another_shape_or_path_is_another_structure():
    one = Plain()
    wide = Plain()
    wide.layer = nn.Linear(2, 3)
    more = Plain()
    more.again = more.layer
    assert len({fingerprint_of(m) for m in (one, wide, more)}) == 3
