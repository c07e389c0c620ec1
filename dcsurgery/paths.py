"""Sets of module paths that know what lies below them: one look-up instead of a search through all of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

__all__ = ["PathSet", "lineage"]

_BOUNDARY = re.compile(r"[.\[]")


def lineage(path: str) -> Iterator[str]:
    """Yield a path and every path above it, outermost first; the model itself (``""``) is left out.

    What stands before a dot inside a key (``acts['a.b']``) is yielded too: no module has such a path.
    """
    for boundary in _BOUNDARY.finditer(path):
        if boundary.start():
            yield path[: boundary.start()]
    if path:
        yield path


class PathSet:
    """Paths of modules, asked which of them another path is or lies below.

    Parameters
    ----------
    paths
        The paths; the model itself (``""``) is above nothing but itself.
    """

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self._paths = set(paths)

    def __bool__(self) -> bool:
        return bool(self._paths)

    def add(self, path: str) -> None:
        """Add a path."""
        self._paths.add(path)

    def covers(self, path: str) -> bool:
        """Return whether a path is one of these, or lies below one."""
        return self.above(path) is not None

    def is_above(self, path: str) -> bool:
        """Return whether a path lies below one of these; being one is not enough."""
        return any(part in self._paths for part in lineage(path) if part != path)

    def above(self, path: str) -> str | None:
        """Return the outermost of these that a path is or lies below."""
        if path in self._paths and not path:
            return path
        return next((part for part in lineage(path) if part in self._paths), None)
