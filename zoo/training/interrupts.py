"""Ctrl-C that waits for the end of a step, so that the checkpoint written then is exact."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Interrupt", "held_back"]


class Interrupt:
    """Whether an interrupt was asked for.

    Attributes
    ----------
    asked
        True after the first Ctrl-C.
    """

    def __init__(self) -> None:
        self.asked = False

    def _ask(self, _number: int, _frame: Any) -> None:
        if self.asked:  # the second one does not wait
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def held_back() -> Iterator[Interrupt]:
    """Yield an `Interrupt` that notes the first Ctrl-C; the second one, and any outside the main thread, acts at once."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = signal.signal(signal.SIGINT, interrupt._ask)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
