"""Read example inputs: what ``--inputs FILE`` names."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dcsurgery.errors import BadInput
from dcsurgery.files.kinds import READABLE, Kind, kind_of, open_model_file, refusal
from dcsurgery.files.reading import load_value

__all__ = ["read_inputs"]

_FIX = "save a tuple of arguments, a dict of keyword arguments, a tensor or a PyG Data with torch.save"


def read_inputs(path: str | Path, trust: bool = False, imports: Sequence[str | Path] = ()) -> Any:
    """Read example inputs from a file.

    Parameters
    ----------
    path
        What torch.save wrote: a tuple (arguments), a dict (keyword arguments), or the one argument: a tensor, a PyG
        ``Data`` or ``Batch``. Or a NumPy ``.npz`` archive, whose arrays become keyword arguments under their names.
    trust, imports
        As in `dcsurgery.files.read`.

    Returns
    -------
    Any
        Example inputs, on the CPU.

    Raises
    ------
    UnsafeFile
        If the file names anything that is not known to be safe.
    BadInput
        If the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    with open_model_file(path) as file:
        kind = kind_of(file)
    if kind is Kind.NPZ:
        return _arrays(path)
    if kind not in READABLE:
        refused = refusal(path, kind)
        fix = refused.fix if kind in (Kind.EMPTY, Kind.TRUNCATED_ZIP) else _FIX
        raise BadInput(refused.message.replace("not a model", "not example inputs"), where=str(path), fix=fix)
    value = load_value(path, trust=trust, imports=imports)
    if isinstance(value, dict):
        if value and all(isinstance(key, str) and key.isidentifier() for key in value):
            return value
        raise BadInput("a dict of example inputs needs argument names as keys", where=str(path), fix=_FIX)
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, tuple | torch.Tensor) or (hasattr(value, "to_dict") and hasattr(value, "num_nodes")):
        return value
    raise BadInput(f"holds a {type(value).__name__}, not example inputs", where=str(path), fix=_FIX)


def _arrays(path: Path) -> dict[str, torch.Tensor] | torch.Tensor:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}
    except (ValueError, TypeError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"its arrays cannot be read: {line}", where=str(path), fix="save plain numeric arrays with numpy.savez"
        ) from None
