"""Notice that a forward starts threads: the witness stands in for kernels in the thread that it was made in, and no other."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

__all__ = ["noticing_new_threads"]

_LOCK = threading.Lock()
_WATCHING: list[tuple[int, Callable[[], None]]] = []  # who is told of threads that a thread starts
_START = threading.Thread.start


@contextlib.contextmanager
def noticing_new_threads(notice: Callable[[], None]) -> Iterator[None]:
    """Call ``notice`` whenever this thread starts another one."""
    entry = (threading.get_ident(), notice)
    with _LOCK:
        _WATCHING.append(entry)
        threading.Thread.start = _noticed  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        with _LOCK:
            _WATCHING.remove(entry)
            if not _WATCHING:
                threading.Thread.start = _START  # type: ignore[method-assign]


def _noticed(thread: threading.Thread) -> None:
    own = threading.get_ident()
    for ident, notice in _WATCHING:
        if ident == own:
            notice()
    _START(thread)
