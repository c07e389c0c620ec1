"""TorchScript inside eager models: scripted children are imported, scripted functions opened where a run is recorded."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from dcsurgery.copying import copied
from dcsurgery.errors import SurgeryError
from dcsurgery.methods import methods_of
from dcsurgery.recognition import is_library_code
from dcsurgery.subclass import original_class
from dcsurgery.torchscript.functions import function_or_none
from dcsurgery.torchscript.importing import import_module
from dcsurgery.tree import Slot, Tree, get_path, replace_slot

__all__ = ["fragments_of", "functions_open", "has_fragments", "import_fragments", "with_fragments_imported"]

_SCRIPT = (torch.jit.ScriptModule, torch.jit.ScriptFunction)
_DEPTH = 3  # helpers of helpers of methods


def has_fragments(model: nn.Module) -> bool:
    """Say whether a module that is not TorchScript itself holds any."""
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            return True
        for value in vars(module).values():
            if isinstance(value, _SCRIPT):
                return True
            if type(value) in (list, tuple, dict) and any(isinstance(item, _SCRIPT) for item in _items(value)):
                return True
    return False


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def fragments_of(model: nn.Module) -> list[Slot]:
    """Return the slots that hold TorchScript which can be imported."""
    found = []
    tree = Tree.of(model)
    for slot in tree.slots:
        if isinstance(tree.modules[slot.owner], torch.jit.ScriptModule):
            continue  # part of one
        scripted = isinstance(slot.value, torch.jit.ScriptModule)
        function = isinstance(slot.value, torch.jit.ScriptFunction) and function_or_none(slot.value) is not None
        if scripted or function:
            found.append(slot)
    return found


def import_fragments(model: nn.Module) -> Iterator[tuple[Slot, nn.Module]]:
    """Yield each slot that holds TorchScript, with what is to be put there; one object becomes one module.

    What cannot be imported stays, and the census lists it as not editable.
    """
    made: dict[int, nn.Module | None] = {}
    for slot in fragments_of(model):
        if id(slot.value) not in made:
            try:
                made[id(slot.value)] = import_module(slot.value)
            except SurgeryError:
                made[id(slot.value)] = None
        imported = made[id(slot.value)]
        if imported is not None:
            yield slot, imported


def with_fragments_imported(model: nn.Module) -> nn.Module:
    """Return a copy of a model with plain modules where it holds TorchScript."""
    duplicate = copied(model)
    for slot, imported in list(import_fragments(duplicate)):
        replace_slot(get_path(duplicate, slot.owner), slot.name, imported)
    return duplicate


@contextlib.contextmanager
def functions_open(model: nn.Module) -> Iterator[None]:
    """Let a model's methods call the imports of scripted functions that they name, so that a run shows their inside."""
    swapped: list[tuple[dict[str, Any], str, Any]] = []
    seen: set[types.CodeType] = set()
    try:
        for cls in {original_class(module) for module in model.modules()}:
            for raw in methods_of(cls).values():
                function = raw.fget if isinstance(raw, property) else getattr(raw, "__func__", raw)
                if isinstance(function, types.FunctionType):
                    _open(function, swapped, seen, _DEPTH)
        yield
    finally:
        for names, name, value in reversed(swapped):
            names[name] = value


def _open(
    function: types.FunctionType, swapped: list[tuple[dict[str, Any], str, Any]], seen: set[types.CodeType], depth: int
) -> None:
    if function.__code__ in seen or is_library_code(function.__module__):
        return
    seen.add(function.__code__)
    names = function.__globals__
    for name in function.__code__.co_names:
        value = names.get(name)
        if isinstance(value, torch.jit.ScriptFunction):
            imported = function_or_none(value)
            if imported is not None:
                swapped.append((names, name, value))
                names[name] = imported
        elif isinstance(value, types.FunctionType) and depth:
            _open(value, swapped, seen, depth - 1)
