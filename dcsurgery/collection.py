"""Leave the garbage collector out while a model is read, copied or looked through.

Such work makes millions of objects that stay, and hardly any that are garbage: each time their number has grown by a
quarter the collector looks through all of them, and finds nothing.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["uncollected"]


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Switch automatic garbage collection off, and on again if it was on; also usable as a decorator."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
