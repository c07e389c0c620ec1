"""What the parts of the pickle policy share: its refusal, and the questions that an entry may ask it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

__all__ = ["Entry", "Forbidden", "Rules", "is_plain"]


class Forbidden(Exception):
    """A pickle names or does what is not known to be safe."""

    def __init__(self, name: str, why: str = "") -> None:
        self.name = name
        self.why = why
        super().__init__(f"{name}: {why}" if why else name)


class Rules(Protocol):
    """What an entry may ask the policy for (see `dcsurgery.files.safe_globals.Policy`)."""

    def call(self, function: Any, args: tuple[Any, ...]) -> Any:
        """Call a listed function."""
        ...

    def new(self, cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make an empty instance of a listed class."""
        ...

    def knows_class(self, cls: Any) -> bool:
        """Return whether a class was found under a name that the policy allows."""
        ...

    def class_at(self, module: str, qualname: str) -> type | None:
        """Return the class of that name if the policy allows it."""
        ...

    def allows_module(self, module: str) -> bool:
        """Return whether classes of a module are allowed at all."""
        ...

    def allow_class(self, cls: type) -> type:
        """Let the file make and fill instances of a class that was built from checked code."""
        ...

    def load_storage(self, data: bytes) -> Any:
        """Read a tensor storage from the bytes that plain pickles hold."""
        ...


Entry = Callable[[Rules, tuple[Any, ...]], Any]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout, torch.Tensor)
_DATA = (*_PLAIN, torch.UntypedStorage, torch.TypedStorage)


def is_plain(value: Any) -> bool:
    """Return whether a value is tensor data: numbers, texts, tensors, storages, and sequences of them."""
    if isinstance(value, tuple | list):
        return all(is_plain(item) for item in value)
    if isinstance(value, dict):  # backward hooks are functions: an empty table is all that torch.save writes
        return not value
    return isinstance(value, _DATA)
