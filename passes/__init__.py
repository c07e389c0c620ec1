"""Edits, one per file. A module put into this folder is found by itself."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

from dcsurgery.passes.base import Pass, PassPlan, pass_for

if TYPE_CHECKING:  # the loop below finds them, and what others put beside them; type checkers cannot follow it
    from dcsurgery.passes.denormalize import Denormalize as Denormalize
    from dcsurgery.passes.fold_batch_norm import FoldBatchNorm as FoldBatchNorm
    from dcsurgery.passes.pipeline import Pipeline as Pipeline
    from dcsurgery.passes.replace_activations import ReplaceActivations as ReplaceActivations
    from dcsurgery.passes.rescale_labels import RescaleLabels as RescaleLabels

__all__ = ["Pass", "PassPlan", "pass_for"]

for _info in pkgutil.iter_modules(__path__):
    _module = import_module(f"{__name__}.{_info.name}")
    for _name in getattr(_module, "__all__", ()):
        _found = getattr(_module, _name)
        if isinstance(_found, type) and _found.__module__ == _module.__name__:
            globals()[_name] = _found
            if _name not in __all__:
                __all__ += [_name]
