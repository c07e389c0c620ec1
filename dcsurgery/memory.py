"""Memory that is used up: told in one line, with what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from dcsurgery.errors import BadInput

__all__ = ["is_memory_error", "telling_memory"]


def is_memory_error(error: BaseException) -> bool:
    """Say whether an exception means that there was not enough memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("not enough memory" in text or "out of memory" in text)
    )


@contextlib.contextmanager
def telling_memory(doing: str) -> Iterator[None]:
    """Turn an exception for want of memory into one line.

    Raises
    ------
    BadInput
        If there was not enough memory.
    """
    try:
        yield
    except Exception as error:
        if not is_memory_error(error):
            raise
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"not enough memory while {doing}: {text[:150]}",
            fix="give smaller example inputs, or free some memory; nothing was written",
        ) from error
