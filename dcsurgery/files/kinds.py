"""What kind of file something is, told from its first bytes and, for archives, from its table of contents."""

from __future__ import annotations

import os
import pickletools
import struct
import zipfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO

from dcsurgery.errors import BadInput

__all__ = ["Kind", "kind_of", "open_model_file", "refusal"]

_HEAD = 4096
# torch.save's old format begins with this number, pickled.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Fields of ONNX's ModelProto; the graph is number 7.
_ONNX_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_ONNX_GRAPH = 7
_SAVE_MODULE = "save the nn.Module itself with torch.save(model, path)"


class Kind(Enum):
    """What a file is."""

    TORCH_ZIP = "torch.save archive"
    TORCH_LEGACY = "torch.save file in the format before torch 1.6"
    PICKLE = "pickle"
    MISSING = "missing"
    DIRECTORY = "directory"
    SPECIAL = "not a regular file"
    UNREADABLE = "unreadable"
    EMPTY = "empty"
    TRUNCATED_ZIP = "truncated archive"
    TORCHSCRIPT = "TorchScript archive"
    PT2 = "torch.export archive"
    PACKAGE = "torch.package archive"
    NPZ = "NumPy archive"
    ZIP = "zip archive"
    ONNX = "ONNX model"
    SAFETENSORS = "safetensors file"
    HDF5 = "HDF5 file"
    TEXT = "text"
    UNKNOWN = "unknown"


READABLE = frozenset({Kind.TORCH_ZIP, Kind.TORCH_LEGACY, Kind.PICKLE})


@dataclass(frozen=True)
class _Refusal:
    message: str
    fix: str


_REFUSALS = {
    Kind.MISSING: _Refusal("no such file", "check the path"),
    Kind.DIRECTORY: _Refusal("is a directory, not a model file", "give the file inside it"),
    Kind.SPECIAL: _Refusal("is not a regular file", "give a file that torch.save wrote"),
    Kind.UNREADABLE: _Refusal("cannot be opened: permission denied", "make it readable"),
    Kind.EMPTY: _Refusal("is empty", "copy or save it again"),
    Kind.TRUNCATED_ZIP: _Refusal("is a truncated or damaged archive: its end is missing", "copy or save it again"),
    Kind.TORCHSCRIPT: _Refusal(
        "is a TorchScript archive, which holds a model and nothing else", "give it as the model"
    ),
    Kind.PT2: _Refusal(
        "is a torch.export archive (.pt2), which holds a model and nothing else", "give it as the model"
    ),
    Kind.PACKAGE: _Refusal("is a torch.package archive, which brings its own code", _SAVE_MODULE),
    Kind.NPZ: _Refusal("is a NumPy archive, not a model", "NumPy archives are read as --inputs only"),
    Kind.ZIP: _Refusal("is a zip archive that torch.save did not write", _SAVE_MODULE),
    Kind.ONNX: _Refusal("is an ONNX model, which has no PyTorch modules to edit", _SAVE_MODULE),
    Kind.SAFETENSORS: _Refusal("holds only weights (safetensors)", f"give the model: {_SAVE_MODULE}"),
    Kind.HDF5: _Refusal("is an HDF5 file, not a PyTorch model", _SAVE_MODULE),
    Kind.TEXT: _Refusal("is a text file, not a model", "give a file that torch.save wrote"),
    Kind.UNKNOWN: _Refusal("is in no format that holds a PyTorch model", "give a file that torch.save wrote"),
}


def refusal(path: Path, kind: Kind) -> BadInput:
    """Return the error for a file that holds no model."""
    entry = _REFUSALS[kind]
    return BadInput(entry.message, where=str(path), fix=entry.fix)


def open_model_file(path: Path) -> IO[bytes]:
    """Open a regular file for reading.

    Raises
    ------
    BadInput
        If it is missing, a directory, not a regular file, or unreadable.
    """
    if path.is_dir():
        raise refusal(path, Kind.DIRECTORY)
    if not os.path.lexists(path) or not path.exists():
        raise refusal(path, Kind.MISSING)
    if not path.is_file():  # opening a named pipe would wait for a writer
        raise refusal(path, Kind.SPECIAL)
    try:
        return path.open("rb")
    except PermissionError:
        raise refusal(path, Kind.UNREADABLE) from None
    except OSError as error:
        raise BadInput(f"cannot be opened: {error.strerror or error}", where=str(path), fix="check the file") from None


def kind_of(file: IO[bytes]) -> Kind:
    """Return the kind of an open file and leave it at its start; nothing in it is executed."""
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    try:
        if not head:
            return Kind.EMPTY
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return _kind_of_zip(file)
        return _kind_of_bytes(file, head)
    finally:
        file.seek(0)


def _kind_of_zip(file: IO[bytes]) -> Kind:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, UnicodeDecodeError, NotImplementedError):
        return Kind.TRUNCATED_ZIP
    inside = {name.partition("/")[2] for name in names}
    if "archive_format" in inside or any(name.endswith("serialized_exported_program.json") for name in names):
        return Kind.PT2
    if any(name.endswith((".data/extern_modules", ".data/version")) for name in names) and "data.pkl" not in inside:
        return Kind.PACKAGE
    if "constants.pkl" in inside:
        return Kind.TORCHSCRIPT
    if "data.pkl" in inside:
        return Kind.TORCH_ZIP
    return Kind.NPZ if names and all(name.endswith(".npy") for name in names) else Kind.ZIP


def _kind_of_bytes(file: IO[bytes], head: bytes) -> Kind:
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return Kind.HDF5
    if head.startswith(b"\x93NUMPY"):
        return Kind.NPZ
    if head[8:10] == b'{"' and struct.unpack("<Q", head[:8])[0] <= 100 * 2**20:
        return Kind.SAFETENSORS
    if head[0] == 0x80 and head[1:2] <= b"\x05":
        return Kind.TORCH_LEGACY if _first_value(file) == _LEGACY_MAGIC else Kind.PICKLE
    if _is_onnx(file):
        return Kind.ONNX
    if _is_old_pickle(file):
        return Kind.PICKLE
    return Kind.TEXT if _is_text(head) else Kind.UNKNOWN


def _first_value(file: IO[bytes]) -> object:
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name not in ("PROTO", "FRAME"):
                return argument
    except (ValueError, UnicodeDecodeError, struct.error, OverflowError):
        return None
    finally:
        file.seek(0)
    return None


def _is_old_pickle(file: IO[bytes]) -> bool:
    """Return whether a file is a pickle of protocol 0 or 1, which have no header: it must parse to its last byte."""
    from dcsurgery.files.safe_pickle import rehearse

    try:
        rehearse(file)
        return not file.read(1)
    except Exception:  # noqa: BLE001 - any bytes may be in it; whatever fails is not a pickle
        return False
    finally:
        file.seek(0)


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # a character may be cut at the end of the head
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\t\n\r\f\x1b" for character in text)


def _is_onnx(file: IO[bytes]) -> bool:
    """Return whether a file is a protocol buffer with the fields of ONNX's ModelProto, its graph among them."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    seen: set[int] = set()
    try:
        while file.tell() < size:
            tag = _varint(file)
            field, wire = tag >> 3, tag & 7
            if field not in _ONNX_FIELDS or wire not in (0, 2):
                return False
            value = _varint(file)
            if wire == 2 and file.seek(value, os.SEEK_CUR) > size:
                return False
            seen.add(field)
    except (EOFError, OverflowError, OSError):
        return False
    finally:
        file.seek(0)
    return {1, _ONNX_GRAPH} <= seen


def _varint(file: IO[bytes]) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise EOFError
        value |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return value
