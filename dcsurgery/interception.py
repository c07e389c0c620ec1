"""The last resort: replace calls by watching them, where no source can be rewritten."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from dcsurgery.calls import apply_edit
from dcsurgery.catalog import match_function
from dcsurgery.rewriting import CallEdit
from dcsurgery.source import CodeKey, code_key, instruction_end

__all__ = ["InterceptCalls"]

_BOUNDARIES = {nn.Module._call_impl.__code__, nn.Module._wrapped_call_impl.__code__}


@dataclass(frozen=True)
class InterceptCalls:
    """Amendment: ``forward`` runs under a mode that replaces the chosen calls, and only those.

    Costs about a microsecond per torch call inside the module, so it is used only for code without source.
    """

    edits: tuple[CallEdit, ...]

    def members(self, cls: type[nn.Module]) -> dict[str, Any]:
        """Return the watched ``forward``."""
        places = {
            (CodeKey(chain[-1].function, chain[-1].first_line), chain[-1].end): edit
            for edit in self.edits
            for chain in edit.chains
        }

        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            with _Interception(module, places):
                return cls.forward(module, *args, **kwargs)

        return {"forward": forward}


class _Interception(TorchFunctionMode):
    def __init__(self, owner: nn.Module, places: dict[tuple[CodeKey, tuple[int, int]], CallEdit]) -> None:
        super().__init__()
        self._owner = owner
        self._places = places

    def __torch_function__(
        self, func: Any, types_: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        match = match_function(func)
        edit = None if match is None else self._edit(sys._getframe(1))
        if edit is None or match is None or edit.operator != match.operator.name:
            return func(*args, **(kwargs or {}))
        return apply_edit(edit.operator, edit.replacement, func, args, kwargs or {}, copied=edit.copied)

    def _edit(self, frame: types.FrameType | None) -> CallEdit | None:
        found = None
        while frame is not None and frame.f_code not in _BOUNDARIES:
            if found is None:
                end = instruction_end(frame.f_code, frame.f_lasti)
                found = None if end is None else self._places.get((code_key(frame.f_code), end))
            frame = frame.f_back
        # The same code may run in a child: only this module's own calls were chosen.
        return found if frame is not None and frame.f_locals.get("self") is self._owner else None
