"""Amend a live module's class: a dynamic subclass that pickles, deep-copies and keeps ``isinstance``.

An *amendment* is a small hashable, picklable value that says which members the subclass gets. What is pickled is the
original class plus the amendments, so that unpickling derives the same subclass again; nothing refers to a class that
no import can find.
"""

from __future__ import annotations

import abc
import functools
import threading
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import nn

from dcsurgery.errors import Refused

__all__ = ["Amendment", "amend", "amended", "amendments_of", "original_class", "rebuild", "restore_class"]


@runtime_checkable
class Amendment(Protocol):
    """What a dynamic subclass adds to a module class; must be hashable and picklable."""

    def members(self, cls: type[nn.Module]) -> dict[str, Any]:
        """Return the class attributes that the subclass of ``cls`` gets."""
        ...


_CLASSES: dict[tuple[type[nn.Module], Amendment], type[nn.Module]] = {}
_LOCK = threading.Lock()


def amended(cls: type[nn.Module], amendment: Amendment) -> type[nn.Module]:
    """Return the subclass of ``cls`` that carries ``amendment``; the same one for equal amendments.

    Raises
    ------
    Refused
        If ``cls`` pickles itself in its own way, so that a subclass could not be restored.
    """
    with _LOCK:
        known = _CLASSES.get((cls, amendment))
    if known is not None:
        return known
    if not amendments_of(cls):
        for name in ("__reduce__", "__reduce_ex__"):
            if getattr(cls, name) is not getattr(object, name):
                raise Refused(
                    f"class {cls.__qualname__} defines {name}, so an edited subclass of it could not be saved",
                    fix="replace the class's own child modules instead, or leave the site out with --exclude",
                )
    members = {
        **amendment.members(cls),
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__reduce_ex__": _reduce_ex,
        "_dcsurgery_original": original_class(cls),
        "_dcsurgery_amendments": (*amendments_of(cls), amendment),
    }
    below = getattr(amendment, "below", None)
    new = _made(cls, members, None if below is None else below(cls))
    with _LOCK:
        return _CLASSES.setdefault((cls, amendment), new)


def _made(cls: type[nn.Module], members: dict[str, Any], below: type[nn.Module] | None) -> type[nn.Module]:
    """Make the subclass, ``below`` being what its author's ``super()`` finds first, without the user's metaclass or ``__init_subclass__`` taking it for one of the user's own."""
    metaclass: Any = type(cls)
    bases: tuple[type[nn.Module], ...] = (cls,) if below is None else (cls, below)
    maker: Any = abc.ABCMeta if issubclass(metaclass, abc.ABCMeta) else type
    if not any("__init_subclass__" in vars(base) for base in cls.__mro__[:-1]):
        return maker.__new__(metaclass, cls.__name__, bases, members)
    new: type[nn.Module] = maker.__new__(metaclass, cls.__name__, (nn.Module,), members)
    try:
        new.__bases__ = bases
    except TypeError as error:
        raise Refused(
            f"class {cls.__qualname__} has __slots__ and __init_subclass__, so it cannot be amended ({error})",
            fix="leave the site out with --exclude",
        ) from None
    return new


def amend(module: nn.Module, amendment: Amendment) -> Callable[[], None]:
    """Give a live module an amended class; return the function that undoes it."""
    before = module.__class__
    module.__class__ = amended(before, amendment)
    return lambda: restore_class(module, before)


def restore_class(module: nn.Module, cls: type[nn.Module]) -> None:
    """Give a module back a class it had before."""
    module.__class__ = cls


def amendments_of(obj: nn.Module | type[nn.Module]) -> tuple[Amendment, ...]:
    """Return the amendments that a module or class carries, in the order in which they were made."""
    return getattr(obj, "_dcsurgery_amendments", ())


def original_class(obj: nn.Module | type[nn.Module]) -> type[nn.Module]:
    """Return the class as its author wrote it, below all amendments."""
    cls = obj if isinstance(obj, type) else type(obj)
    return cls.__dict__.get("_dcsurgery_original", cls) if amendments_of(cls) else cls


def rebuild(cls: type[nn.Module], amendments: tuple[Amendment, ...], *args: Any, **kwargs: Any) -> nn.Module:
    """Make an empty instance of an amended class: what pickle and deepcopy call before they restore the state.

    The arguments are those that the class's own ``__getnewargs__`` gives for its ``__new__``.
    """
    for amendment in amendments:
        cls = amended(cls, amendment)
    return cls.__new__(cls, *args, **kwargs)


def _reduce_ex(self: nn.Module, protocol: int) -> tuple[Any, ...]:
    # object's own reduction honours a user-defined __getstate__; only the constructor is exchanged.
    reduced: Any = object.__reduce_ex__(self, max(protocol, 2))
    _, (_, *args), state, *rest = reduced
    if hasattr(self, "__getnewargs_ex__"):  # its reduction holds one tuple and one dict
        positional, keywords = args
        made = functools.partial(rebuild, original_class(self), amendments_of(self), *positional, **keywords)
        return (made, (), state, *rest)
    return (rebuild, (original_class(self), amendments_of(self), *args), state, *rest)
