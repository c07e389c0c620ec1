"""The last resort: replace calls by watching them, where no source can be rewritten."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from dcsurgery.calls import apply_edit, operator_of
from dcsurgery.capture.origin import origin_of
from dcsurgery.catalog import match_function
from dcsurgery.rewriting import CallEdit
from dcsurgery.sites import CallStep

__all__ = ["InterceptCalls"]


@dataclass(frozen=True)
class InterceptCalls:
    """Amendment: ``forward`` runs under a mode that replaces the chosen calls, and only those.

    Costs about a microsecond per torch call inside the module, so it is used only for code without source.
    """

    edits: tuple[CallEdit, ...]

    def members(self, cls: type[nn.Module]) -> dict[str, Any]:
        """Return the watched ``forward``."""
        places = {chain[-1]: edit for edit in self.edits for chain in edit.chains}

        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            with _Interception(module, places):
                return cls.forward(module, *args, **kwargs)

        return {"forward": forward}


class _Interception(TorchFunctionMode):
    def __init__(self, owner: nn.Module, places: dict[CallStep, CallEdit]) -> None:
        super().__init__()
        self._owner = owner
        self._places = places

    def __torch_function__(
        self, func: Any, types_: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        edit = None if match_function(func) is None else self._edit(sys._getframe(1))
        operator = None if edit is None else operator_of(func, edit.operator)
        if edit is None or operator is None:
            return func(*args, **(kwargs or {}))
        return apply_edit(operator, edit.replacement, func, args, kwargs or {}, copied=edit.copied)

    def _edit(self, frame: types.FrameType | None) -> CallEdit | None:
        origin = origin_of(frame)
        # The same code may run in a child: only this module's own calls were chosen.
        return self._places.get(origin.steps[-1]) if origin.steps and origin.owner is self._owner else None
