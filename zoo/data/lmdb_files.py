"""LMDB files of OC20 and OC22: one pickled PyG graph under each number.

A pickle can run code, so the graphs are not unpickled as the objects they name: of what a graph file needs, tensors and
arrays are made, and everything else that belongs to PyG becomes an empty record that only keeps what was stored. Any
other name is refused. That needs the package lmdb alone, reads what PyG 1 and PyG 2 wrote, and runs nothing.
"""

from __future__ import annotations

import io
import pickle
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dcsurgery.errors import BadInput, UnsafeFile

__all__ = ["read_graphs"]

_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_LEGACY_PICKLES = 5  # magic number, protocol, system, storage, keys


class _Record:
    """What a PyG object was stored with, whichever class it was."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple):  # (state, slots)
            state = {**(state[0] or {}), **(state[1] or {})}
        vars(self).update(state)

    def values(self) -> dict[str, Any]:
        """Return the graph's attributes; PyG 2 keeps them in a store's mapping."""
        found = dict(vars(self))
        store = found.pop("_store", None)
        if isinstance(store, _Record):
            found.update(vars(store).get("_mapping", {}))
        return found


class _Graphs(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Each answer is made anew, so that a file which fills one with state changes nothing outside.
        if module.startswith("torch_geometric.data."):
            return type("Record", (_Record,), {})
        module = module.replace("numpy._core", "numpy.core")
        makers: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch.storage", "_load_from_bytes"): _storage,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: np.empty(0),
            ("numpy.core.multiarray", "scalar"): lambda dtype, data: np.frombuffer(data, dtype)[0],
        }
        if (module, name) in makers:
            make = makers[module, name]

            def made(*arguments: Any) -> Any:
                return make(*arguments)

            return made
        plain = {
            ("collections", "OrderedDict"): OrderedDict,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) in plain:
            return plain[module, name]
        raise UnsafeFile(f"the file names {module}.{name}, which no graph needs", fix="get it from a source you trust")

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafeFile(f"the file refers to {pid!r}, outside of itself", fix="get it from a source you trust")


class _Storage(pickle.Unpickler):
    """Reads the pickles in front of a tensor's data; torch's own safe reader takes a hundred times as long."""

    def find_class(self, module: str, name: str) -> Any:
        dtype = _STORAGES.get(name)
        if module != "torch" or dtype is None:
            raise UnsafeFile(
                f"the file names {module}.{name}, which no tensor needs", fix="get it from a source you trust"
            )
        return dtype

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, _, _, count, view = pid
        if view is not None:
            raise pickle.UnpicklingError("a tensor that shares another one's data")
        return dtype, count


def _storage(data: bytes) -> torch.Tensor:
    stream = io.BytesIO(data)
    _magic, _protocol, _system, (dtype, count), _keys = (_Storage(stream).load() for _ in range(_LEGACY_PICKLES))
    values = stream.read()[8:]  # the count once more, then the values
    return torch.from_numpy(np.frombuffer(values, dtype, int(count)).copy())


def _tensor(flat: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> torch.Tensor:
    return torch.as_strided(flat, size, stride, offset)  # torch checks the bounds


def read_graphs(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the graphs of one LMDB file, in the order of their numbers.

    Parameters
    ----------
    path
        An LMDB file, or a folder with ``data.mdb``.

    Yields
    ------
    str, dict
        Where the graph is, for messages, and its attributes as they were stored.

    Raises
    ------
    BadInput
        If the package lmdb is missing, or the file is damaged or cut off, or has gaps.
    UnsafeFile
        If a graph names anything but tensors, arrays and PyG's own classes.
    """
    try:
        import lmdb
    except ImportError:
        raise BadInput(
            "the package lmdb is not installed", where=str(path), fix='pip install "dcsurgery[zoo]"'
        ) from None
    if path.is_file():
        _whole(path)
    try:
        environment = lmdb.open(
            str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False, meminit=False, max_readers=1
        )
    except lmdb.Error as error:
        raise _damaged(path, error) from None
    with environment, environment.begin() as transaction:
        try:
            entries = environment.stat()["entries"]
            stored = transaction.get(b"length")
            length = entries if stored is None else int(pickle.loads(stored) if stored[:1] == b"\x80" else stored)
        except (lmdb.Error, ValueError, pickle.UnpicklingError, TypeError) as error:
            raise _damaged(path, error) from None
        for number in range(length):
            where = f"{path}, graph {number}"
            try:
                raw = transaction.get(str(number).encode())
            except lmdb.Error as error:
                raise _damaged(path, error) from None
            if raw is None:
                raise BadInput(f"graph {number} of {length} is missing", where=str(path), fix="get the file again")
            yield where, _graph(raw, where)


def _graph(raw: bytes, where: str) -> dict[str, Any]:
    try:
        if raw[:1] == b"\x78":  # zlib, as ASE's LMDB stores
            raw = zlib.decompress(raw)
        record = _Graphs(io.BytesIO(raw)).load()
    except UnsafeFile as error:
        raise UnsafeFile(error.message, where=where, fix=error.fix) from None
    except Exception as error:  # noqa: BLE001 - a damaged pickle can raise anything
        raise BadInput(
            f"not a readable graph ({error or type(error).__name__})", where=where, fix="get the file again"
        ) from None
    if not isinstance(record, _Record):
        raise BadInput(
            f"holds a {type(record).__name__}, not a PyG graph", where=where, fix="give an OC20 or OC22 LMDB"
        )
    return record.values()


def _whole(path: Path) -> None:
    """Refuse a file that is no LMDB or was cut off: reading beyond a mapped file's end kills the process."""
    with path.open("rb") as file:
        head = file.read(8192)
    size = path.stat().st_size
    if len(head) < 8192 or int.from_bytes(head[16:20], "little") != 0xBEEFC0DE:
        raise _damaged(path, "not an LMDB file")
    page = int.from_bytes(head[40:44], "little")  # the size of pages stands where the first tree's padding is
    pages = [_last_page(head)]
    if page >= 4096:
        with path.open("rb") as file:
            file.seek(page)
            pages.append(_last_page(file.read(8192)))
    if size < (max(pages) + 1) * page:
        raise _damaged(path, f"cut off: {size} of {(max(pages) + 1) * page} bytes")


def _last_page(meta: bytes) -> int:
    # Page header 16 bytes, magic 4, version 4, address 8, map size 8, two trees of 48: then the last used page.
    return int.from_bytes(meta[136:144], "little")


def _damaged(path: Path, reason: object) -> BadInput:
    return BadInput(f"not a readable LMDB ({reason})", where=str(path), fix="get the file again")
