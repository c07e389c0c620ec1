"""Python frames of a module call in progress: who called it, with what, and which node of a graph is running."""

from __future__ import annotations

import linecache
import re
import sys
import types
from typing import Any

from torch import fx, nn

from dcsurgery.capture.origin import BOUNDARIES

__all__ = ["code_of_graph", "keywords", "outside_call", "running_node"]

_ASSIGNMENT = re.compile(r"\s*(\w+)\s*(?::[^=]*)?=")


def keywords() -> dict[str, Any]:
    """Return the keyword arguments of the module call whose pre-hook runs: a global hook is not given them."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name not in ("_call_impl", "_wrapped_call_impl"):
        frame = frame.f_back
    return dict(frame.f_locals.get("kwargs", {})) if frame is not None else {}


def outside_call(frame: types.FrameType | None) -> types.FrameType | None:
    """Return the frame that called the module whose pre-hook runs now."""
    while frame is not None and frame.f_code.co_name not in ("_call_impl", "_wrapped_call_impl"):
        frame = frame.f_back
    while frame is not None and frame.f_code.co_name in ("_call_impl", "_wrapped_call_impl"):
        frame = frame.f_back
    return frame


def code_of_graph(module: nn.Module, frame: types.FrameType | None) -> types.FrameType | None:
    """Return the frame of a GraphModule's generated code, from which something was called."""
    while frame is not None and frame.f_code not in BOUNDARIES:
        if frame.f_code.co_name == "forward" and frame.f_locals.get("self") is module:
            return frame
        frame = frame.f_back
    return None


def running_node(module: nn.Module, frame: types.FrameType | None) -> str | None:
    """Return the name of the node that a GraphModule's generated code, one line a node, is at."""
    if not isinstance(module, fx.GraphModule) or frame is None:
        return None
    if frame.f_code.co_name != "forward" or frame.f_locals.get("self") is not module:
        return None
    line = _ASSIGNMENT.match(linecache.getline(frame.f_code.co_filename, frame.f_lineno))
    return None if line is None else line[1]
