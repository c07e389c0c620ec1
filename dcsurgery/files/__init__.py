"""Files: read models safely, write them provably."""

from __future__ import annotations

from dcsurgery.files.destination import check_output
from dcsurgery.files.inputs import read_inputs
from dcsurgery.files.reading import ModelFile, load, read
from dcsurgery.files.writing import FORMATS, save, write

__all__ = ["FORMATS", "ModelFile", "check_output", "load", "read", "read_inputs", "save", "write"]
