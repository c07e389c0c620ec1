"""Patch torch.nn.Module once for many traces.

torch.fx puts its own ``__getattr__`` and ``__call__`` on torch.nn.Module for each trace and takes them off again. Each
time Python looks through all classes below it, which are thousands once fairchem or transformers is imported: a model
of 300 modules waited longer for this than for its traces.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.fx import _symbolic_trace

__all__ = ["patched_once"]

_NAMES = ("__getattr__", "__call__")


class _Switch:
    """Stands on torch.nn.Module for a method, and calls what the trace that is under way wants called."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.original: Callable[..., Any] = nn.Module.__dict__[name]
        self.current = self.original

    def install(self) -> None:
        @functools.wraps(self.original)
        def switched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return self.current(module, *args, **kwargs)

        setattr(nn.Module, self.name, switched)

    def remove(self) -> None:
        setattr(nn.Module, self.name, self.original)


class _Switched:
    """What torch.fx's patcher keeps of a patch: how to make it, and how to take it back."""

    def __init__(self, switch: _Switch, function: Callable[..., Any]) -> None:
        self._switch = switch
        self._function = function
        self._before = switch.current

    def patch(self) -> None:
        self._before = self._switch.current
        self._switch.current = self._function

    def revert(self) -> None:
        self._switch.current = self._before


@contextlib.contextmanager
def patched_once() -> Iterator[None]:
    """Let all traces within share one patch of torch.nn.Module; with another torch.fx they patch it themselves."""
    tracing: Any = _symbolic_trace
    patcher: Any = getattr(tracing, "_Patcher", None)
    if not hasattr(patcher, "patch_method") or any(name not in nn.Module.__dict__ for name in _NAMES):
        yield
        return
    switches = {name: _Switch(name) for name in _NAMES}

    class Patcher(patcher):
        def patch_method(self, cls: type, name: str, new_fn: Callable[..., Any], deduplicate: bool = True) -> None:
            if cls is nn.Module and name in switches and not deduplicate:
                patch = _Switched(switches[name], new_fn)
                self.patches_made.append(patch)
                patch.patch()
            else:
                super().patch_method(cls, name, new_fn, deduplicate)

    for switch in switches.values():
        switch.install()
    tracing._Patcher = Patcher
    try:
        yield
    finally:
        tracing._Patcher = patcher
        for switch in switches.values():
            switch.remove()
