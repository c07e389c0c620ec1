"""Calls of an `autograd.Function`: which class a frame belongs to, and what ``apply`` was given."""

from __future__ import annotations

import os
import types
from pathlib import Path
from typing import Any

import torch

__all__ = ["application_around", "applied_class"]

_TORCH = str(Path(torch.__file__).parent) + os.sep
_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


def applied_class(frame: types.FrameType) -> type[torch.autograd.Function] | None:
    """Return the class whose ``forward`` or ``setup_context`` a frame runs, None for all other code.

    In both styles, with and without ``setup_context``, and below vmap, that is what ``apply`` has called.
    """
    outer = frame.f_back
    while outer is not None and outer.f_code.co_filename.startswith(_TORCH):
        if _applies_users(outer):
            cls: type[torch.autograd.Function] = outer.f_locals["cls"]
            return cls
        outer = outer.f_back
    return None


def _applies_users(frame: types.FrameType) -> bool:
    """Say whether a frame is the ``apply`` of a user's class; torch's own (a reentrant checkpoint) run user code inside."""
    return frame.f_code is _APPLY and not frame.f_locals["cls"].__module__.startswith("torch.")


def application_around(
    frame: types.FrameType | None, end: types.FrameType
) -> tuple[types.FrameType, Any, tuple[Any, ...]] | None:
    """Return the outermost ``apply`` that runs between a frame and one that is further out: its frame, class, arguments."""
    found = None
    while frame is not None and frame is not end:
        if _applies_users(frame):
            found = frame
        frame = frame.f_back
    return None if found is None else (found, found.f_locals["cls"], tuple(found.f_locals["args"]))
