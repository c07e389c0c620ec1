"""Read a TorchScript archive without running it: its source texts, its constants and its tree of objects.

torch's own reader opens the zip, so that what is looked at is what torch would load. The two pickles inside are read
by an unpickler that knows the handful of names TorchScript writes and makes nothing but plain data of them.
"""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from dcsurgery.errors import BadInput, UnsafeFile

__all__ = ["Contents", "Stored", "read_contents"]

_CODE = "code/"
_EXTRA = "extra/"
_BUILDERS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")


@dataclass(eq=False)
class Stored:
    """An object of the archive: its class's qualified name and its state, as yet no live object.

    Attributes
    ----------
    name
        ``__torch__.torch.nn.modules.linear.Linear``.
    arguments
        What it is made with (the fields of a NamedTuple, the value of an Enum).
    state
        Its attributes; None where it has none.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None


@dataclass
class Contents:
    """What an archive holds.

    Attributes
    ----------
    code
        Source texts by their name below ``code/``.
    constants
        The values that the texts call ``CONSTANTS.c0``, ``CONSTANTS.c1``, …
    root
        The model.
    version
        Version of the operators it was written with.
    extra_files
        What the archive keeps beside the model, by name.
    """

    code: dict[str, str] = field(default_factory=dict)
    constants: tuple[Any, ...] = ()
    root: Stored = field(default_factory=lambda: Stored(""))
    version: int = 0
    extra_files: dict[str, bytes] = field(default_factory=dict)


def read_contents(data: bytes | str | os.PathLike[str], where: str = "TorchScript archive") -> Contents:
    """Read an archive.

    Parameters
    ----------
    data
        The archive's bytes, or its path.
    where
        What error messages call it.

    Raises
    ------
    UnsafeFile
        If a pickle inside names what TorchScript does not write.
    BadInput
        If it is no TorchScript archive, damaged, or newer than this torch.
    """
    if not isinstance(data, bytes):
        where = str(data)
        try:
            data = Path(data).read_bytes()
        except OSError as error:
            raise BadInput(f"cannot be read: {error.strerror or error}", where=where, fix="check the path") from None
    try:
        reader: Any = torch._C.PyTorchFileReader(io.BytesIO(data))
        names = set(reader.get_all_records())
    except RuntimeError as error:
        raise _unreadable(error, where) from None
    code = {n.removeprefix(_CODE): _text(reader, n) for n in names if n.startswith(_CODE) and n.endswith(".py")}
    if "constants.pkl" not in names or "data.pkl" not in names:
        raise BadInput("is no TorchScript archive", where=where, fix="write one with torch.jit.save")
    if not code:
        raise BadInput("holds no code", where=where, fix="write it again with torch.jit.save")
    constants = _Pickled(reader, "constants", where).load()
    root = _Pickled(reader, "data", where).load()
    if not isinstance(root, Stored):
        raise BadInput("holds no module", where=where, fix="write one with torch.jit.save")
    constants = tuple(constants) if isinstance(constants, tuple | list) else (constants,)
    extra = {n.removeprefix(_EXTRA): bytes(reader.get_record(n)) for n in sorted(names) if n.startswith(_EXTRA)}
    return Contents(dict(sorted(code.items())), constants, root, _version(reader, names), extra)


def _text(reader: Any, name: str) -> str:
    text: str = reader.get_record(name).decode("utf-8")
    return text


def _version(reader: Any, names: set[str]) -> int:
    record = next((n for n in (".data/version", "version") if n in names), None)
    return int(reader.get_record(record)) if record else int(reader.version()) if hasattr(reader, "version") else 0


def _unreadable(error: RuntimeError, where: str) -> BadInput:
    text = (str(error).splitlines() or [""])[0]
    if "version" in text and "maximum" in str(error):
        return BadInput(f"was written by a newer PyTorch: {text[:120]}", where=where, fix="install that PyTorch")
    return BadInput(
        f"is a truncated or damaged archive: {text[:120]}",
        where=where,
        fix="copy it again, or write it with torch.jit.save",
    )


_MACHINE: Any = pickle._Unpickler


class _Pickled(_MACHINE):
    """Reads ``data.pkl`` or ``constants.pkl``."""

    dispatch: ClassVar[dict[int, Any]] = dict(_MACHINE.dispatch)

    def __init__(self, reader: Any, name: str, where: str) -> None:
        super().__init__(io.BytesIO(reader.get_record(f"{name}.pkl")), encoding="utf-8")
        self._reader = reader
        self._folder = name
        self._where = where
        self._storages: dict[str, torch.UntypedStorage] = {}
        self._tensors: dict[Any, torch.Tensor] = {}
        self._classes: dict[str, type] = {}

    def load(self) -> Any:
        """Return the value, made of plain data, tensors and `Stored` objects."""
        try:
            return _plain(super().load(), {})
        except (UnsafeFile, BadInput):
            raise
        except Exception as error:  # noqa: BLE001 - a damaged pickle can make the machine raise anything
            raise BadInput(
                f"its {self._folder}.pkl is damaged: {type(error).__name__}: {error}",
                where=self._where,
                fix="copy it again, or write it with torch.jit.save",
            ) from None

    def load_reduce(self) -> None:
        """Make an Enum's member, too, whose one argument TorchScript writes without a tuple around it."""
        arguments = self.stack.pop()
        self.stack[-1] = self.stack[-1](*(arguments if isinstance(arguments, tuple) else (arguments,)))

    dispatch[pickle.REDUCE[0]] = load_reduce

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a class of the archive, or for a helper of TorchScript's."""
        full = f"{module}.{name}"
        if full.startswith("__torch__."):
            return self._classes.setdefault(full, type("Made", (_Made,), {"stored_name": full}))
        functions: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch.jit._pickle.restore_type_tag": lambda value, _: value,
            "torch.jit._pickle.build_tensor_from_id": _refused,
            "collections.OrderedDict": OrderedDict,
            "torch.device": torch.device,
            **{f"torch.jit._pickle.{builder}": lambda items: items for builder in _BUILDERS},
        }
        if full in functions:
            return functions[full]
        dtypes = torch.storage._storage_type_to_dtype_map()
        if module == "torch" and name in dtypes:
            return type("Storage", (), {"dtype": dtypes[name], "__slots__": ()})
        if full.startswith("torch._utils._rebuild_"):
            raise BadInput(
                f"holds a tensor of a kind that is not imported ({name.removeprefix('_rebuild_')})",
                where=f"{self._where}, {self._folder}.pkl",
                fix="convert quantized and sparse tensors to dense ones",
            )
        raise UnsafeFile(
            f"names {full}, which TorchScript does not write; nothing was loaded",
            where=f"{self._where}, {self._folder}.pkl",
            fix="write it again with torch.jit.save",
        )

    def persistent_load(self, pid: Any) -> Any:
        """Return the type and the key of a tensor's data, which is read."""
        _, kind, key, _, count = pid
        if key not in self._storages:
            raw = self._reader.get_record(f"{self._folder}/{key}")
            wanted = int(count) * torch.empty(0, dtype=kind.dtype).element_size()
            if len(raw) < wanted:
                raise BadInput(f"its tensor data {key} is too short", where=self._where, fix="copy it again")
            buffer = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
            self._storages[key] = buffer.untyped_storage()
        return kind.dtype, key

    def _tensor(self, storage: Any, offset: int, size: Any, stride: Any, requires_grad: bool, *_: Any) -> torch.Tensor:
        dtype, key = storage
        # One tensor that two attributes hold is written twice, over one storage.
        known = (key, dtype, offset, tuple(size), tuple(stride), requires_grad)
        if known not in self._tensors:
            data = self._storages[key]
            reach = 1 + offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if 0 not in size else 0
            if offset < 0 or reach * torch.empty(0, dtype=dtype).element_size() > data.nbytes():
                raise BadInput(f"a tensor reaches beyond its data {key}", where=self._where, fix="copy it again")
            tensor = torch.empty(0, dtype=dtype).set_(data, offset, tuple(size), tuple(stride))
            self._tensors[known] = tensor.requires_grad_() if requires_grad else tensor
        return self._tensors[known]


class _Made:
    """What the unpickler makes for an object of the archive; `_plain` turns it into a `Stored`."""

    stored_name = ""
    made_with: tuple[Any, ...]
    made_state: Any

    def __new__(cls, *args: Any) -> Self:
        self = super().__new__(cls)
        self.made_with, self.made_state = args, None
        return self

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.made_state = state


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """Replace every `_Made` in a value; one object stays one object."""
    if isinstance(value, _Made):
        if id(value) not in seen:
            stored = seen[id(value)] = Stored(value.stored_name)
            stored.arguments = tuple(_plain(item, seen) for item in value.made_with)
            stored.state = _plain(value.made_state, seen)
        return seen[id(value)]
    if isinstance(value, list | dict):
        if id(value) not in seen:
            made: Any = type(value)()
            seen[id(value)] = made
            if isinstance(value, list):
                made.extend(_plain(item, seen) for item in value)
            else:
                made.update({_plain(k, seen): _plain(v, seen) for k, v in value.items()})
        return seen[id(value)]
    if isinstance(value, tuple):
        return tuple(_plain(item, seen) for item in value)
    return value


def _refused(*_: Any) -> Any:
    raise BadInput("refers to data outside the archive", fix="write it with torch.jit.save")
