"""Read labels from data files, for ``--rescale auto:FILE``."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dcsurgery.errors import BadInput

__all__ = ["LABEL_KEYS", "read_labels"]

#: Names of arrays, columns and entries that are labels, as they are spelt in data sets.
LABEL_KEYS = ("E", "F", "energy", "energies", "force", "forces", "label", "labels", "target", "targets", "u", "y")


def read_labels(path: str | Path) -> list[NDArray[Any]]:
    """Return the labels in a data file, in float64 and in the file's units.

    Parameters
    ----------
    path
        ``.npz`` (arrays named as in `LABEL_KEYS`), ``.npy``, ``.pt`` or ``.pth`` (a tensor, a mapping with such names
        or a sequence of tensors; nothing but tensors and containers is loaded), ``.csv`` (columns with such names, or
        all columns of a file without a header), ``.xyz``, ``.extxyz``, ``.traj`` or ``.db`` (energies and forces,
        through ASE).

    Returns
    -------
    list of numpy.ndarray
        One array for each label found; forces of structures of different size are joined, shape (n_atoms, 3).

    Raises
    ------
    BadInput
        If the file is missing or damaged, its suffix unknown, or no label is in it.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise BadInput(
            f"labels cannot be read from {path.suffix or 'a file without suffix'!r}",
            where=str(path),
            fix=f"use one of {', '.join(sorted(_READERS))}",
        )
    if not path.is_file():
        problem = "is a directory" if path.is_dir() else "no such file"
        raise BadInput(problem, where=str(path), fix="give the file that holds the labels")
    if not path.stat().st_size:
        raise BadInput("the file is empty", where=str(path), fix="give the file that holds the labels")
    labels = reader(path)
    if not sum(array.size for array in labels):
        raise BadInput("the file holds no label values", where=str(path), fix="give a file with labels in it")
    return labels


def _read_npz(path: Path) -> list[NDArray[Any]]:
    try:
        # Object arrays are pickles, which are never loaded.
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            return [_numbers(archive[name], name, path) for name in _chosen(names, path)]
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001 - damaged files raise anything, and the message is passed on
        raise _unreadable(path, ".npz", error) from None


def _read_npy(path: Path) -> list[NDArray[Any]]:
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # noqa: BLE001 - damaged files raise anything, and the message is passed on
        raise _unreadable(path, ".npy", error) from None
    return [_numbers(array, "the array", path)]


def _read_pt(path: Path) -> list[NDArray[Any]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - damaged files raise anything, and the message is passed on
        raise _unreadable(path, ".pt of tensors", error) from None
    if isinstance(content, Mapping):
        return [_tensors(content[name], name, path) for name in _chosen(content, path)]
    if isinstance(content, list | tuple):
        return [_tensors(item, f"entry {number}", path) for number, item in enumerate(content)]
    return [_tensors(content, "the entry", path)]


def _read_csv(path: Path) -> list[NDArray[Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, ".csv", error) from None
    if not rows:
        return []
    header = None if all(map(_is_number, rows[0])) else [cell.strip() for cell in rows.pop(0)]
    width = len(header or rows[0])
    for number, row in enumerate(rows, 2 if header else 1):
        if len(row) != width:
            raise BadInput(
                f"row {number} has {len(row)} columns, expected {width}", where=str(path), fix="correct that row"
            )
    columns = range(width) if header is None else [header.index(name) for name in _chosen(header, path)]
    return [
        _numbers(np.array([row[column].strip() for row in rows]), f"column {column + 1}", path) for column in columns
    ]


def _read_ase(path: Path) -> list[NDArray[Any]]:
    try:
        # Reading molecules needs ASE only for these suffixes; it is no dependency of the core.
        import ase.io
    except ImportError:
        raise BadInput(
            f"{path.suffix} files are read through ASE, which is not installed", where=str(path), fix="pip install ase"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ASE's remarks about formats are of no use here
            frames = ase.io.read(path, index=":")
    except Exception as error:  # noqa: BLE001 - damaged files raise anything, and the message is passed on
        raise _unreadable(path, path.suffix, error) from None
    found: dict[str, list[NDArray[Any]]] = {}
    seen: set[str] = set()
    for frame in frames:
        results = dict(frame.calc.results) if frame.calc is not None else {}
        # ASE keeps energies and forces it recognises in a calculator, other names in info and arrays.
        entries = {**frame.arrays, **frame.info, **results}
        seen.update(map(str, entries))
        for name in LABEL_KEYS:
            if name in entries:
                found.setdefault(name, []).append(_numbers(entries[name], name, path))
    if not found:
        raise _none_found(seen, path)
    return [_joined(values) for values in found.values()]


_READERS: dict[str, Callable[[Path], list[NDArray[Any]]]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".pt": _read_pt,
    ".pth": _read_pt,
    ".csv": _read_csv,
    ".xyz": _read_ase,
    ".extxyz": _read_ase,
    ".traj": _read_ase,
    ".db": _read_ase,
}


def _chosen(names: Iterable[Any], path: Path) -> list[Any]:
    names = list(names)
    chosen = [name for name in names if name in LABEL_KEYS]
    if not chosen:
        raise _none_found(names, path)
    return chosen


def _none_found(names: Iterable[Any], path: Path) -> BadInput:
    there = sorted(map(str, names))
    shown = ", ".join(there[:20]) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
    return BadInput(
        f"no labels among: {shown or 'nothing'}; looked for {', '.join(LABEL_KEYS)}",
        where=str(path),
        fix="rename the label entries, or give C as a number",
    )


def _tensors(value: Any, name: object, path: Path) -> NDArray[Any]:
    """Return a tensor, or a sequence of tensors of different shapes, as one array."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        # numpy knows neither sparse tensors nor bfloat16.
        dense = value.to_dense() if value.layout != torch.strided else value
        value = (dense.to(torch.float64) if dense.is_floating_point() else dense).numpy()
    elif isinstance(value, list | tuple):
        return _joined([_tensors(item, name, path) for item in value])
    return _numbers(value, name, path)


def _numbers(value: Any, name: object, path: Path) -> NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind in "iuf":
        return array.astype(np.float64)
    if array.dtype.kind == "U":
        try:
            return array.astype(np.float64)
        except ValueError as error:
            raise BadInput(f"{name} is not numeric: {error}", where=str(path), fix="give numbers only") from None
    raise BadInput(
        f"{name} holds {type(value).__name__} of dtype {array.dtype}, not real numbers",
        where=str(path),
        fix="save the labels as an array of floats",
    )


def _joined(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    if not arrays:
        return np.empty(0)
    if len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    if len({array.shape[1:] for array in arrays}) == 1 and all(array.ndim for array in arrays):
        return np.concatenate(arrays)
    return np.concatenate([array.ravel() for array in arrays])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _unreadable(path: Path, kind: str, error: Exception) -> BadInput:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return BadInput(f"not a readable {kind} file: {reason[:160]}", where=str(path), fix="give an intact file of labels")
