"""What a check does with an exception: memory that is used up ends everything, anything else is told in one line."""

from __future__ import annotations

import torch

__all__ = ["first_line", "is_memory_error", "raise_if_memory"]


def first_line(error: BaseException) -> str:
    """Return ``Kind: first line of the message``."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:120]}"


def is_memory_error(error: BaseException) -> bool:
    """Say whether an exception means that there was not enough memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("not enough memory" in text or "out of memory" in text)
    )


def raise_if_memory(error: Exception) -> None:
    """Raise an exception on if there was not enough memory: then no further check would do better."""
    if is_memory_error(error):
        raise error
