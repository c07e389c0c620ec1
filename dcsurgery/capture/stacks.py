"""Where a graph's nodes come from: the modules on the way, file and line, as tracing and exporting leave it on nodes."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import NamedTuple

from torch import fx

from dcsurgery.capture.origin import is_library_file, short_file
from dcsurgery.source import parse

__all__ = ["Called", "Line", "line_of", "stack_of"]

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')


class Called(NamedTuple):
    """One module on the way to a node: the call it belongs to, the module's path, and its class or the class's path."""

    call: str
    path: str
    cls: type | str


@dataclass(frozen=True)
class Line:
    """A line of the user's code; ``method`` is the innermost method of a class around it, ``forward`` if unknown."""

    file: str
    line: int
    method: str


def stack_of(node: fx.Node) -> tuple[Called, ...]:
    """Return the modules whose calls a node belongs to, outermost first; empty if the graph does not say."""
    stack = node.meta.get("nn_module_stack") or {}
    return tuple(Called(str(call), str(path), cls) for call, (path, cls) in stack.items())


def line_of(node: fx.Node) -> Line | None:
    """Return the user's line that a node comes from, None if the graph does not say."""
    trace = node.meta.get("stack_trace")
    return _line_in(trace) if isinstance(trace, str) else None


@functools.lru_cache(maxsize=4096)
def _line_in(trace: str) -> Line | None:
    frames = [(m["file"], int(m["line"]), m["function"]) for m in _FRAME.finditer(trace)]
    frames = [frame for frame in frames if not frame[0].startswith("<") and not is_library_file(frame[0])]
    if not frames:
        return None
    file, line, _ = frames[-1]
    methods = (_method_at(*frame) for frame in reversed(frames))
    return Line(short_file(file), line, next((name for name in methods if name is not None), "forward"))


@functools.lru_cache(maxsize=4096)
def _method_at(file: str, line: int, function: str) -> str | None:
    """Return the name of the method that a line is in, None if it is in a plain function; the source decides."""
    import ast

    tree = parse(file)
    if tree is None:
        return function if function == "forward" else None
    for cls in ast.walk(tree):
        if isinstance(cls, ast.ClassDef):
            for item in cls.body:
                if isinstance(item, ast.FunctionDef) and item.lineno <= line <= (item.end_lineno or item.lineno):
                    return str(item.name)
    return None
