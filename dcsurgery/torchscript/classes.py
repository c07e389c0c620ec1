"""The classes that imported modules, objects and enumerations are instances of, and what their code asks Python for."""

from __future__ import annotations

import ast
import enum
import re
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from dcsurgery.torchscript.declared import Declared

if TYPE_CHECKING:
    from dcsurgery.torchscript.programs import Program

__all__ = [
    "ImportedEnum",
    "ImportedEnumType",
    "ImportedModule",
    "ImportedObject",
    "ImportedType",
    "has_type",
    "keeps_its_shape",
    "torch_class",
]

_ROOTS = "torch.nn.modules."


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


class ImportedEnumType(enum.EnumMeta):
    """As `ImportedType`, for enumerations."""


class ImportedEnum(enum.Enum, metaclass=ImportedEnumType):
    """Base of the imported enumerations."""


class ImportedObject(metaclass=ImportedType):
    """Base of the imported classes that are no modules."""

    _program: ClassVar[Program]
    _declared: ClassVar[Declared]


def torch_class(entry: Declared) -> type[nn.Module] | None:
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


def keeps_its_shape(entry: Declared) -> bool:
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


def has_type(value: Any, text: str) -> bool:
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
