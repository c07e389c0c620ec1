"""Read and write torch.export archives (``.pt2``).

`torch.export.load` unpickles weights and example inputs without restraint, and executes and evaluates text from the
file. So an archive is looked through first, with torch's own reader: what it says must be what torch writes, and what is
pickled in it must be plain tensors and containers.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any

import torch
from torch.export import ExportedProgram
from torch.export.pt2_archive import constants as archive

from dcsurgery.errors import BadInput, UnsafeFile
from dcsurgery.files.program_rules import missing_operators, offences

__all__ = ["read_program", "write_program"]

_TRUST = "pass --trust (trust=True) only if you trust whoever wrote it"
_AGAIN = "export the model again with the torch that is installed here"
_SHOWN = 3
_OBJECTS = tuple(
    f"{archive.CONSTANTS_DIR}{prefix}"
    for prefix in (archive.CUSTOM_OBJ_FILENAME_PREFIX, archive.OPAQUE_OBJ_FILENAME_PREFIX)
)


def read_program(file: IO[bytes], *, trust: bool = False) -> ExportedProgram:
    """Return the program in an open archive.

    Parameters
    ----------
    file
        What `torch.export.save` wrote.
    trust
        Do not look through it first.

    Raises
    ------
    UnsafeFile
        If it says or pickles something that torch.export does not write; nothing of it has run.
    BadInput
        If it is damaged, of another version, holds compiled code or operators that nobody has registered.
    """
    records = _Records(file)
    _check_kind(records)
    for name in records.programs:
        program = _json(records, name)
        _check_versions(program)
        if not trust:
            _check_text(program)
        missing = missing_operators(program)
        if missing:
            raise BadInput(
                f"calls operators that are not registered: {_some(missing)}",
                fix="import the package that registers them, or give the file that does with --import",
            )
    if not trust:
        _check_pickles(records)
    file.seek(0)
    return _load(file, records)


def write_program(program: ExportedProgram, file: IO[bytes]) -> None:
    """Write a program to an open file."""
    with _quietly():
        torch.export.save(program, file)


class _Records:
    """The entries of an archive, in today's layout or in that of torch 2.7 and before."""

    def __init__(self, file: IO[bytes]) -> None:
        file.seek(0)
        with zipfile.ZipFile(file) as archive_:
            names = archive_.namelist()
        self.old = "serialized_exported_program.json" in names
        if self.old:
            if len(set(names)) != len(names):
                raise BadInput("is damaged: it has two entries of one name", fix="copy or save it again")
            file.seek(0)
            with zipfile.ZipFile(file) as archive_:
                contents = {name: archive_.read(name) for name in names}
            self.names: tuple[str, ...] = tuple(names)
            self.read: Callable[[str], bytes] = contents.__getitem__
        else:
            file.seek(0)
            # torch's own reader: an archive may hold two entries of one name, and zipfile could find the other.
            reader = torch._C.PyTorchFileReader(file)
            self.names = tuple(reader.get_all_records())
            self.read = reader.get_record

    @property
    def programs(self) -> list[str]:
        """Names of the entries that describe programs."""
        if self.old:
            return ["serialized_exported_program.json"]
        return [name for name in self.names if name.startswith(archive.MODELS_DIR) and name.endswith(".json")]

    @property
    def pickles(self) -> Iterator[str]:
        """Names of the entries that are unpickled."""
        for name in self.names:
            inside = name.startswith((archive.SAMPLE_INPUTS_DIR, archive.WEIGHTS_DIR, archive.CONSTANTS_DIR))
            if name.endswith(".pt") and (self.old or inside):
                yield name
        for folder in (archive.WEIGHTS_DIR, archive.CONSTANTS_DIR):
            for name in self.names:
                if name.startswith(folder) and name.endswith("_config.json"):
                    for entry in _json(self, name).get("config", {}).values():
                        if entry.get("use_pickle"):
                            yield f"{folder}{entry['path_name']}"


def _check_kind(records: _Records) -> None:
    if any(name.startswith(archive.AOTINDUCTOR_DIR) for name in records.names):
        raise BadInput(
            "is an AOTInductor package: compiled code, which cannot be edited",
            fix="give the program that it was compiled from, saved with torch.export.save",
        )
    if len(records.programs) != 1:
        names = _some(records.programs) or "none"
        raise BadInput(f"holds {len(records.programs)} programs ({names})", fix="save one program to a file")
    if not records.old:
        version = records.read(archive.ARCHIVE_VERSION_PATH).decode(errors="replace").strip()
        if version != archive.ARCHIVE_VERSION_VALUE:
            raise BadInput(
                f"is an archive of version {version!r}, this torch reads {archive.ARCHIVE_VERSION_VALUE}", fix=_AGAIN
            )


def _check_versions(program: dict[str, Any]) -> None:
    from torch._export.serde.schema import SCHEMA_VERSION

    written = program.get("torch_version") or "an unknown torch"
    major = (program.get("schema_version") or {}).get("major")
    if major != SCHEMA_VERSION[0]:
        raise BadInput(
            f"is of schema version {major} (torch {written}); torch {torch.__version__} reads {SCHEMA_VERSION[0]}",
            fix=_AGAIN,
        )
    newest = torch._C._get_max_operator_version()
    opset = (program.get("opset_version") or {}).get("aten")
    if not isinstance(opset, int) or opset > newest:
        raise BadInput(
            f"is of operator set {opset} (torch {written}); torch {torch.__version__} reads up to {newest}", fix=_AGAIN
        )


def _check_text(program: dict[str, Any]) -> None:
    found = offences(program)
    if found:
        raise UnsafeFile(
            f"says something that torch.export does not write: {_some(found)}; nothing was loaded", fix=_TRUST
        )


def _check_pickles(records: _Records) -> None:
    for name in records.pickles:
        if name.startswith(_OBJECTS):
            raise UnsafeFile(f"holds a custom object ({name}); nothing was loaded", fix=_TRUST)
        content = records.read(name)
        if not content:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 - damaged and hostile pickles raise anything
            what = "its example inputs hold" if "input" in name else f"{name} holds"
            line = " ".join(str(error).split())[:160]
            raise UnsafeFile(
                f"{what} more than tensors and plain containers ({line}); nothing was loaded", fix=_TRUST
            ) from None


def _load(file: IO[bytes], records: _Records) -> ExportedProgram:
    with _quietly():
        if records.old:
            return torch.export.load(file)
        from torch.export.pt2_archive._package import load_pt2

        # torch.export.load logs the traceback of what goes wrong here, and then says something else.
        (program,) = load_pt2(file).exported_programs.values()
        return program


def _json(records: _Records, name: str) -> Any:
    try:
        return json.loads(records.read(name))
    except (ValueError, UnicodeDecodeError):
        raise BadInput(f"is damaged: {name} is not JSON", fix="copy or save it again") from None


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep torch from warning and logging on the terminal; what matters is raised."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
