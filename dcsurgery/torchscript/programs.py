"""An archive's code, running: one Python module per archive, with a plain nn.Module class for each scripted one.

A class of such a module cannot be found by an import, so that what is pickled for it is the archive's code itself; it
is held to TorchScript's forms again when it is read.
"""

from __future__ import annotations

import builtins
import collections
import copyreg
import functools
import hashlib
import io
import linecache
import math
import sys
import threading
import types
from collections.abc import Mapping
from typing import Any

import torch

from dcsurgery.activations import irelu
from dcsurgery.calls import apply_activation
from dcsurgery.errors import BadInput
from dcsurgery.torchscript.classes import (
    ImportedEnum,
    ImportedEnumType,
    ImportedModule,
    ImportedObject,
    ImportedType,
    has_type,
    keeps_its_shape,
    torch_class,
)
from dcsurgery.torchscript.declared import Declared
from dcsurgery.torchscript.operators import namespaces
from dcsurgery.torchscript.syntax import parse_code
from dcsurgery.torchscript.translation import Translation, translate

__all__ = ["Program", "imported_class", "is_program", "program_of"]

_PREFIX = "torchscript_"
_ACTIVATIONS = "dcsurgery.activations"
_PROGRAMS: dict[str, Program] = {}
_LOCK = threading.RLock()


class Program:
    """An archive's code in this process.

    Attributes
    ----------
    texts
        Source texts as the archive has them.
    constants
        The archive's constants.
    roots
        Qualified names of the classes that the archive's objects have, the model's own first.
    trusted
        Whether operators of any package may be called.
    declared
        The parsed code.
    translation
        Its Python text.
    module
        The Python module.
    """

    def __init__(
        self,
        texts: tuple[tuple[str, str], ...],
        constants: tuple[Any, ...],
        roots: tuple[str, ...],
        trusted: bool,
        where: str,
    ) -> None:
        self.texts = texts
        self.constants = constants
        self.roots = roots
        self.trusted = trusted
        self.declared = parse_code(dict(texts), where)
        self.translation: Translation = translate(self.declared, roots, where)
        # One object, so that a pickle holds it once for all classes.
        self.payload = (texts, constants, roots)
        digest = hashlib.sha256(self.translation.source.encode())
        digest.update(_bytes_of(constants))
        self.name = f"{_PREFIX}{digest.hexdigest()[:16]}"
        self.module = types.ModuleType(self.name)
        self._where = where

    @property
    def file(self) -> str:
        """What stands for the file name of the Python text."""
        return f"<TorchScript {self.roots[0].rpartition('.')[2]} {self.name.removeprefix(_PREFIX)[:8]}>"

    def run(self) -> None:
        """Make the classes and functions; their code itself does not run."""
        space, ops = namespaces(self.translation.operators, trusted=self.trusted, where=self._where)
        constants = types.SimpleNamespace(**{f"c{index}": value for index, value in enumerate(self.constants)})
        self.module.__file__ = self.file
        names = vars(self.module)
        names.update(
            __builtins__=_BUILTINS,
            torch=space,
            ops=ops,
            CONSTANTS=constants,
            inf=math.inf,
            nan=math.nan,
            infj=complex(0, math.inf),
            nanj=complex(0, math.nan),
            bases=self._bases,
            record=self._record,
            Enum=ImportedEnum,
            has_type=has_type,
        )
        text = self.translation.source
        linecache.cache[self.file] = (len(text), None, text.splitlines(keepends=True), self.file)
        sys.modules[self.name] = self.module
        exec(compile(text, self.file, "exec", dont_inherit=True), names)  # noqa: S102 - held to TorchScript's forms
        for qualified, name in self.translation.names.items():
            entry = self.declared[qualified]
            made = names.get(name)
            if isinstance(made, type):
                self._finish(made, entry)
            elif isinstance(made, types.FunctionType):
                names[name] = self._function(made, entry)

    def _function(self, made: types.FunctionType, entry: Declared) -> Any:
        """Return what stands for a function: an activation that an edit brought is the edit's own again."""
        if entry.source_name == f"{_ACTIVATIONS}.irelu":
            return irelu
        if entry.source_name.startswith(f"{_ACTIVATIONS}."):
            return functools.partial(apply_activation, activation=made)
        made.__torchscript_original__ = _torch_function(entry.source_name)  # type: ignore[attr-defined]
        return made

    def find(self, qualified: str) -> Any:
        """Return the class or function of a qualified name.

        Raises
        ------
        BadInput
            If the archive does not have it.
        """
        name = self.translation.names.get(qualified)
        if name is None:
            raise BadInput(f"its code does not have {qualified}", where=self._where, fix="write it again")
        return vars(self.module)[name]

    def find_or_none(self, qualified: str) -> Any:
        """Return the class or function of a qualified name, None where it has none in the text."""
        return vars(self.module).get(self.translation.names.get(qualified, ""))

    def _bases(self, qualified: str) -> tuple[type, ...]:
        entry = self.declared[qualified]
        if entry.kind != "module":
            return (ImportedObject,)
        known = torch_class(entry)
        return (ImportedModule,) if known is None else (ImportedModule, known)

    def _record(self, name: str, fields: str) -> type:
        plain = collections.namedtuple(name, fields)  # type: ignore[misc] # noqa: PYI024 - its fields are the archive's
        return ImportedType(name, (plain,), {"__slots__": (), "__module__": self.name})

    def _finish(self, cls: Any, entry: Declared) -> None:
        cls._program, cls._declared = self, entry
        cls.__torchscript_class__ = entry.source_name
        if entry.source_name.startswith("dcsurgery."):
            cls.__module__ = entry.source_name.rpartition(".")[0]  # an edit's own, and no site
        elif entry.kind == "module" and keeps_its_shape(entry):
            cls.__torchscript_name__ = entry.source_name


_BUILTINS = {
    name: vars(builtins)[name]
    for name in (
        *("__build_class__", "bool", "float", "getattr", "int", "print", "range", "str", "property"),
        *("False", "True", "None"),
    )
    if name in vars(builtins)
}


def program_of(
    texts: Mapping[str, str],
    constants: tuple[Any, ...],
    roots: tuple[str, ...],
    *,
    trusted: bool = False,
    where: str = "TorchScript",
) -> Program:
    """Return an archive's code, ready to run; equal code is one program.

    Raises
    ------
    BadInput
        If it uses something that does not exist here.
    UnsafeFile
        If it is not what TorchScript writes.
    """
    program = Program(tuple(sorted(texts.items())), constants, roots, trusted, where)
    with _LOCK:
        known = _PROGRAMS.get(program.name)
        if known is None:
            program.run()
            known = _PROGRAMS[program.name] = program
    return known


def imported_class(payload: tuple[Any, ...], name: str) -> Any:
    """Return an imported class: what pickle calls.

    Parameters
    ----------
    payload
        The archive's texts, constants and roots.
    name
        The class's name in the Python text.

    Raises
    ------
    BadInput
        If the payload is none, or has no such class.
    UnsafeFile
        If its code is not what TorchScript writes.
    """
    good = type(payload) is tuple and len(payload) == 3 and all(type(part) is tuple for part in payload)
    pairs = all(type(pair) is tuple and list(map(type, pair)) == [str, str] for pair in payload[0]) if good else False
    if not pairs or not payload[2] or not all(type(root) is str for root in payload[2]):
        raise BadInput("holds a TorchScript class without its code", fix="write the model again")
    made = vars(program_of(dict(payload[0]), payload[1], payload[2]).module).get(name)
    if not isinstance(made, type) or getattr(made, "_program", None) is None:
        raise BadInput(f"its TorchScript code has no class {name!r}", fix="write the model again")
    return made


def is_program(name: str) -> bool:
    """Say whether a module's name is that of an archive's code in this process."""
    return name in _PROGRAMS


def _reduce_class(cls: type) -> Any:
    original: Any = cls.__dict__.get("_dcsurgery_original", cls)
    program = getattr(original, "_program", None)
    if program is None:  # the bases themselves
        return cls.__qualname__
    return imported_class, (program.payload, original.__name__)


copyreg.pickle(ImportedType, _reduce_class)
copyreg.pickle(ImportedEnumType, _reduce_class)


def _torch_function(name: str) -> Any:
    holder, _, last = name.rpartition(".")
    return getattr(torch.nn.functional, last, None) if holder == "torch.nn.functional" else None


def _bytes_of(constants: tuple[Any, ...]) -> bytes:
    if not constants:
        return b""
    buffer = io.BytesIO()
    for value in constants:
        if isinstance(value, torch.Tensor) and value.layout is torch.strided:
            plain = value.detach().cpu().contiguous()
            buffer.write(f"{plain.dtype}{tuple(plain.shape)}".encode())
            buffer.write(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
        else:
            buffer.write(repr(value).encode())
    return buffer.getvalue()
