"""TorchScript → plain nn.Module: the same tensors under the same keys, the archive's own code as Python.

What comes out is a module tree like any other: its sites are found, its calls rewritten, its children swapped, it
trains, differs and is drawn like any model. The classes are made of the archive's code alone; no source is needed.
"""

from __future__ import annotations

import ast
import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dcsurgery.errors import BadInput
from dcsurgery.torchscript.classes import ImportedModule
from dcsurgery.torchscript.contents import Contents, Stored, read_contents
from dcsurgery.torchscript.declared import Declared, entity_in
from dcsurgery.torchscript.programs import Program, program_of

__all__ = ["archive_of", "import_contents", "import_module", "is_imported"]


def import_module(script_module: Any) -> nn.Module:
    """Import a live TorchScript module or function.

    Parameters
    ----------
    script_module
        Made by ``torch.jit.script`` or ``trace``, frozen or not, or loaded; it is not changed. A function becomes a
        module that has it as ``forward``.

    Returns
    -------
    nn.Module
        A copy with the same ``state_dict`` keys, values, mode and devices; it pickles and deep-copies.

    Raises
    ------
    BadInput
        If it uses what is not imported: quantized tensors, asynchronous parts, unknown operators.
    """
    name = str(getattr(script_module, "original_name", None) or script_module.name)
    contents = read_contents(archive_of(script_module), name)
    module = import_contents(contents, trusted=True, where=name)
    live = script_module.state_dict() if isinstance(script_module, nn.Module) else {}
    for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
        place = live[key].device if key in live else tensor.device
        if tensor.device != place:
            tensor.data = tensor.data.to(place)
    return module


def import_contents(contents: Contents, *, trusted: bool = False, where: str = "TorchScript archive") -> nn.Module:
    """Import what an archive holds; errors as in `import_module`."""
    program = program_of(contents.code, contents.constants, _classes_of(contents.root), trusted=trusted, where=where)
    hooks = program.declared[contents.root.name].hooks
    if hooks:  # those of children are called by their parents' code
        raise BadInput(
            f"has a forward hook of its own, {hooks[0]}, which TorchScript runs outside of its code",
            where=where,
            fix="put the model into a module that only calls it, and script that",
        )
    module = _Builder(program, where).module(contents.root)
    if module is None:
        raise BadInput("holds no module", where=where, fix="write one with torch.jit.save")
    return module


def archive_of(script_module: Any) -> bytes:
    """Return what ``torch.jit.save`` writes for a live module or function.

    Raises
    ------
    BadInput
        If TorchScript cannot write it.
    """
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(script_module, buffer)
    except RuntimeError as error:
        line = (str(error).strip().splitlines() or [""])[0]
        raise BadInput(
            f"TorchScript cannot write it: {line}", where=type(script_module).__name__, fix="pass the nn.Module itself"
        ) from None
    return buffer.getvalue()


def is_imported(model: Any) -> bool:
    """Say whether a module is one that came from TorchScript, edited or not."""
    return isinstance(model, ImportedModule)


def _classes_of(root: Stored) -> tuple[str, ...]:
    """Return the classes of an archive's objects, in the order in which they are met."""
    found: dict[str, None] = {}
    waiting: list[Any] = [root]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, Stored) and id(value) not in seen:
            seen.add(id(value))
            found[value.name] = None
            waiting += [*value.arguments, value.state]
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
    return tuple(found)


class _Builder:
    """Makes the objects of one archive."""

    def __init__(self, program: Program, where: str) -> None:
        self._program = program
        self._where = where
        self._made: dict[int, Any] = {}
        self._parameters: dict[int, nn.Parameter] = {}
        self._later: list[Callable[[], None]] = []

    def module(self, stored: Stored) -> nn.Module | None:
        """Return the module tree."""
        made = self._object(stored)
        for action in self._later:
            action()
        for part in made.modules() if isinstance(made, nn.Module) else ():
            if isinstance(part, ImportedModule):
                part.settle()
        return made if isinstance(made, nn.Module) else None

    def _declared(self, stored: Stored) -> Declared:
        found = self._program.declared.get(stored.name)
        if found is None:
            raise BadInput(f"its code does not have {stored.name}", where=self._where, fix="write it again")
        return found

    def _object(self, stored: Stored) -> Any:
        if id(stored) in self._made:
            return self._made[id(stored)]
        entry, cls = self._declared(stored), self._program.find(stored.name)
        if entry.kind == "module":
            made = self._made[id(stored)] = cls.__new__(cls)
            nn.Module.__init__(made)
            self._fill(made, entry, stored.state)
        elif entry.kind == "enum":
            made = self._made[id(stored)] = cls(*stored.arguments)
        elif entry.kind == "record":
            made = self._made[id(stored)] = cls(*(self._value(item, None) for item in stored.arguments))
        else:
            made = self._made[id(stored)] = cls.__new__(cls)
            state = stored.state if isinstance(stored.state, dict) else {}
            for name, value in state.items():
                setattr(made, name, self._value(value, entry.fields.get(name)))
        return made

    def _fill(self, module: nn.Module, entry: Declared, state: Any) -> None:
        if "__setstate__" in entry.methods:
            raise BadInput(
                f"{entry.source_name} packs its state in its own way, as quantized layers do",
                where=self._where,
                fix="edit the floating-point model, then convert the result",
            )
        if not isinstance(state, dict):
            raise BadInput(f"{entry.source_name} has no state", where=self._where, fix="write it again")
        module.training = bool(state.get("training", False))
        for name, annotation in entry.fields.items():
            if name not in state:
                raise BadInput(f"{entry.source_name} lacks {name!r}", where=self._where, fix="write it again")
            if name not in ("training", "_is_full_backward_hook"):
                self._field(module, entry, name, state[name], annotation)

    def _field(self, module: nn.Module, entry: Declared, name: str, value: Any, annotation: ast.expr) -> None:
        if name in entry.parameters and isinstance(value, torch.Tensor):
            module.register_parameter(name, self._parameter(value))
        elif name in entry.buffers and isinstance(value, torch.Tensor | None):
            module.register_buffer(name, value)
        elif isinstance(value, Stored) and self._declared(value).kind == "module":
            module.add_module(name, self._object(value))
        else:
            # Past nn.Module, and when all parameters are known, which lists of tensors may hold, too.
            self._later.append(lambda: vars(module).__setitem__(name, self._value(value, annotation)))

    def _parameter(self, tensor: torch.Tensor) -> nn.Parameter:
        if id(tensor) not in self._parameters:
            self._made[id(tensor)] = tensor  # its id stays its own
            self._parameters[id(tensor)] = nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
        return self._parameters[id(tensor)]

    def _value(self, value: Any, annotation: ast.expr | None) -> Any:
        if isinstance(value, Stored):
            return self._object(value)
        if isinstance(value, torch.Tensor):
            return self._parameters.get(id(value), value)
        if isinstance(value, list):
            return [self._value(item, None) for item in value]
        if isinstance(value, dict):
            return {key: self._value(item, None) for key, item in value.items()}
        if isinstance(value, tuple):
            items = tuple(self._value(item, None) for item in value)
            found = entity_in(annotation, self._program.declared) if annotation is not None else None
            record = found is not None and found[0].kind == "record"
            return self._program.find(found[0].name)(*items) if record and found is not None else items
        return value
