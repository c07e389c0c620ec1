"""What a check does with an exception: memory that is used up ends everything, anything else is told in one line."""

from __future__ import annotations

from dcsurgery.memory import is_memory_error

__all__ = ["first_line", "raise_if_memory"]


def first_line(error: BaseException) -> str:
    """Return ``Kind: first line of the message``."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:120]}"


def raise_if_memory(error: Exception) -> None:
    """Raise an exception on if there was not enough memory: then no further check would do better."""
    if is_memory_error(error):
        raise error
