"""Files: read models safely, write them provably."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcsurgery.files.destination import check_output as check_output
    from dcsurgery.files.inputs import read_inputs as read_inputs
    from dcsurgery.files.reading import ModelFile as ModelFile
    from dcsurgery.files.reading import load as load
    from dcsurgery.files.reading import read as read
    from dcsurgery.files.writing import FORMATS as FORMATS
    from dcsurgery.files.writing import save as save
    from dcsurgery.files.writing import write as write

# Imported on first use: whether a file is there and may be written is told without torch.
_HOMES = {
    "FORMATS": "writing",
    "ModelFile": "reading",
    "check_output": "destination",
    "load": "reading",
    "read": "reading",
    "read_inputs": "inputs",
    "save": "writing",
    "write": "writing",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"dcsurgery.files.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'dcsurgery.files' has no attribute {name!r}")
