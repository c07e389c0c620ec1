"""An archive's code, running: one Python module per archive, with a plain nn.Module class for each scripted one.

A class of such a module cannot be found by an import, so that what is pickled for it is the archive's code itself; it
is held to TorchScript's forms again when it is read.
"""

from __future__ import annotations

import ast
import builtins
import collections
import copyreg
import enum
import hashlib
import io
import linecache
import math
import re
import sys
import threading
import types
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from dcsurgery.errors import BadInput
from dcsurgery.torchscript.declared import Declared
from dcsurgery.torchscript.operators import namespaces
from dcsurgery.torchscript.syntax import parse_code
from dcsurgery.torchscript.translation import Translation, translate

__all__ = ["MODULE_PREFIX", "ImportedModule", "ImportedType", "Program", "imported_class", "program_of"]

#: What the names of the Python modules begin with.
MODULE_PREFIX = "torchscript_"
_ROOTS = "torch.nn.modules."
_PROGRAMS: dict[str, Program] = {}
_LOCK = threading.RLock()


class ImportedType(type):
    """Class of the imported classes: pickled by the code that they come from."""


class ImportedModule(nn.Module, metaclass=ImportedType):
    """Base of the imported modules."""

    _program: ClassVar[Program]
    _declared: ClassVar[Declared]

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Some of torch's classes add attributes here that TorchScript does not have.
        nn.Module.__setstate__(self, state)
        self.settle()

    def settle(self) -> None:
        """Bring what torch's own class derives from its tensors up to date."""
        if isinstance(self, nn.RNNBase):
            self._init_flat_weights()

    def extra_repr(self) -> str:
        """Show the settings that the archive has."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in type(self)._declared.constants)


class ImportedObject(metaclass=ImportedType):
    """Base of the imported classes that are no modules."""

    _program: ClassVar[Program]
    _declared: ClassVar[Declared]


class Program:
    """An archive's code in this process.

    Attributes
    ----------
    texts
        Source texts as the archive has them.
    constants
        The archive's constants.
    root
        Qualified name of what the archive is for.
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
        self, texts: tuple[tuple[str, str], ...], constants: tuple[Any, ...], root: str, trusted: bool, where: str
    ) -> None:
        self.texts = texts
        self.constants = constants
        self.root = root
        self.trusted = trusted
        self.declared = parse_code(dict(texts), where)
        self.translation: Translation = translate(self.declared, root, where)
        # One object, so that a pickle holds it once for all classes.
        self.payload = (texts, constants, root)
        digest = hashlib.sha256(self.translation.source.encode())
        digest.update(_bytes_of(constants))
        self.name = f"{MODULE_PREFIX}{digest.hexdigest()[:16]}"
        self.module = types.ModuleType(self.name)
        self._where = where

    @property
    def file(self) -> str:
        """What stands for the file name of the Python text."""
        return f"<TorchScript {self.root.rpartition('.')[2]} {self.name.removeprefix(MODULE_PREFIX)[:8]}>"

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
            Enum=enum.Enum,
            has_type=_has_type,
        )
        text = self.translation.source
        linecache.cache[self.file] = (len(text), None, text.splitlines(keepends=True), self.file)
        sys.modules[self.name] = self.module
        exec(compile(text, self.file, "exec", dont_inherit=True), names)  # noqa: S102 - held to TorchScript's forms
        for qualified, name in self.translation.names.items():
            entry = self.declared[qualified]
            made = names.get(name)
            if isinstance(made, ImportedType):
                self._finish(made, entry)
            elif isinstance(made, types.FunctionType):
                made.__torchscript_original__ = _torch_function(entry.source_name)  # type: ignore[attr-defined]

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
        known = _torch_class(entry)
        return (ImportedModule,) if known is None else (ImportedModule, known)

    def _record(self, name: str, fields: str) -> type:
        made: type = collections.namedtuple(name, fields, module=self.name)  # noqa: PYI024 - the fields are the archive's
        return made

    def _finish(self, cls: Any, entry: Declared) -> None:
        cls._program, cls._declared = self, entry
        if entry.kind == "module" and _keeps_its_shape(entry):
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
    root: str,
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
    program = Program(tuple(sorted(texts.items())), constants, root, trusted, where)
    with _LOCK:
        known = _PROGRAMS.get(program.name)
        if known is None:
            program.run()
            known = _PROGRAMS[program.name] = program
    return known


def imported_class(payload: tuple[Any, ...], name: str) -> Any:
    """Return an imported class: what pickle calls; ``name`` is that in the Python text."""
    texts, constants, root = payload
    return vars(program_of(dict(texts), constants, root).module)[name]


def _reduce_class(cls: ImportedType) -> Any:
    original: Any = cls.__dict__.get("_dcsurgery_original", cls)
    program = getattr(original, "_program", None)
    if program is None:  # the two bases themselves
        return cls.__qualname__
    return imported_class, (program.payload, original.__name__)


copyreg.pickle(ImportedType, _reduce_class)  # type: ignore[arg-type]


def _torch_class(entry: Declared) -> type[nn.Module] | None:
    """Return torch's own class of that name, so that ``isinstance``, indexing and the passes know the import as one."""
    name = entry.source_name
    if not name.startswith(_ROOTS):
        return None
    holder = sys.modules.get(name.rpartition(".")[0])
    cls = getattr(holder, entry.last, None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)) or cls.__module__ != name.rpartition(".")[0]:
        return None
    # A traced one lacks the settings that torch's own methods of it read.
    if issubclass(cls, nn.RNNBase) and "_flat_weights_names" not in entry.fields:
        return None
    if issubclass(cls, nn.RNNCellBase) and "hidden_size" not in entry.constants:
        return None
    return cls


def _keeps_its_shape(entry: Declared) -> bool:
    """Say whether a class is called like its Python original: one ``forward``, and not what a trace made of several."""
    forward = entry.methods.get("forward")
    several = any(re.fullmatch(r"forward\d+", name) for name in entry.methods)
    return forward is not None and not several


_TYPES: dict[str, Any] = {
    "Tensor": torch.Tensor,
    "int": int,
    "float": float,
    "bool": bool,
    "complex": complex,
    "str": str,
    "number": (int, float, complex),
    "List": list,
    "Dict": dict,
    "Tuple": tuple,
    "NoneType": type(None),
    "None": type(None),
    "Device": torch.device,
    "torch.device": torch.device,
}


def _has_type(value: Any, text: str) -> bool:
    """Say whether a value has one of TorchScript's types; what a container holds is not looked at."""
    node = ast.parse(text, mode="eval").body
    options = node.elts if isinstance(node, ast.Tuple | ast.List) else [node]
    for option in options:
        head = ast.unparse(option.value if isinstance(option, ast.Subscript) else option)
        if head == "Optional" and value is None:
            return True
        kind = _TYPES.get(head)
        declared = getattr(type(value), "_declared", None)
        if (kind is not None and isinstance(value, kind)) or (declared is not None and declared.name == head):
            return True
    return False


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
