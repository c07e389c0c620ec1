"""Which file a diff is written as, by the file's suffix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from dcsurgery.diffing.diff import Diff
from dcsurgery.diffing.layout import Rankdir, require_dot
from dcsurgery.errors import BadInput

__all__ = ["FORMATS", "Shown", "check_format", "render"]


@dataclass(frozen=True)
class Shown:
    """What a picture shows, see `dcsurgery.diffing.display.display`."""

    depth: int | None = None
    only_changes: bool = False
    full: bool = False
    rankdir: Rankdir = "TB"


def _svg(diff: Diff, shown: Shown) -> str:
    return diff.to_svg(depth=shown.depth, only_changes=shown.only_changes, full=shown.full, rankdir=shown.rankdir)


def _dot(diff: Diff, shown: Shown) -> str:
    return diff.to_dot(depth=shown.depth, only_changes=shown.only_changes, full=shown.full)


#: Suffix to what writes it.
FORMATS: Mapping[str, Callable[[Diff, Shown], str]] = MappingProxyType(
    {
        ".svg": _svg,
        ".html": lambda diff, _: diff.to_html(),
        ".json": lambda diff, _: diff.to_json() + "\n",
        ".txt": lambda diff, shown: diff.to_text(full=shown.full) + "\n",
        ".dot": _dot,
        ".graphml": lambda diff, _: diff.to_graphml() + "\n",
    }
)


def check_format(path: Path) -> None:
    """Raise BadInput if a diff cannot be written to a file of this name; nothing has to be compared to know that."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        known = ", ".join(FORMATS)
        raise BadInput(
            f"no diff is written as {suffix or 'a file without suffix'}", where=str(path), fix=f"use {known}"
        )
    if suffix == ".svg":
        require_dot()


def render(diff: Diff, path: Path, shown: Shown) -> str:
    """Return a diff as the text of a file of this name.

    Raises
    ------
    BadInput
        If the suffix is not known, or graphviz is missing for an SVG.
    """
    check_format(path)
    return FORMATS[path.suffix.lower()](diff, shown)
