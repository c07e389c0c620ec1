"""The live module tree, with the modules and callables that hide in plain attributes.

``named_modules`` shows neither a module in a plain list nor ``self.act = torch.tanh``. A `Tree` lists every *slot*: a
registered child, an item of a container, an attribute of a helper object, a class attribute. Paths are PyTorch's
dotted ones, extended by what Python itself would write: ``layers[0].act``, ``acts['a']``, ``config.act``.
"""

from __future__ import annotations

import ast
import copy
import enum
import functools
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import nn

from dcsurgery.errors import BadInput, Refused

__all__ = ["Slot", "Tree", "get_path", "join", "replace_slot"]

_DEPTH = 4  # containers in containers; deeper nesting was never seen in a model
_LONG = 4096  # a longer list holds data, not layers
# A name, or in brackets what repr() makes of a key.
_TOKEN = re.compile(r"""\.?([^.\[\]]+)|\[('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+)\]""")
# nn.Module's own bookkeeping, never a place for activations.
_INTERNAL = frozenset(nn.Module().__dict__) | {"_parameters", "_buffers", "_modules", "__annotations__"}
_NOT_OPENED = frozenset(
    {"torch", "numpy", "builtins", "collections", "typing", "inspect", "jinja2", "logging", "sympy"}
)


@dataclass(frozen=True)
class Slot:
    """One place that holds a module or a callable.

    ``owner`` is the path of the module it belongs to, ``name`` the child's name or the attribute expression,
    ``path`` both joined; ``registered`` is True for children that ``named_modules`` shows.
    """

    owner: str
    name: str
    value: Any
    registered: bool
    class_level: bool = False

    @property
    def path(self) -> str:
        """Path of the slot from the model."""
        return join(self.owner, self.name)


@dataclass
class Tree:
    """Every module and every slot of a model.

    Attributes
    ----------
    modules
        Canonical path to module, one entry per object, in definition order.
    paths
        ``id(module)`` to all its paths, canonical first.
    slots
        Every slot once, under its owner's canonical path.
    """

    modules: dict[str, nn.Module] = field(default_factory=dict)
    paths: dict[int, list[str]] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)

    @staticmethod
    def of(model: nn.Module) -> Tree:
        """Walk a model."""
        tree = Tree()
        tree._visit(model, "", ())
        return tree

    def _visit(self, module: nn.Module, path: str, above: tuple[int, ...]) -> None:
        if id(module) in above:  # a child that knows its parent
            return
        known = self.paths.setdefault(id(module), [])
        first = not known
        known.append(path)
        if first:
            self.modules[path] = module
        for slot in _slots_of(module, path):
            if first:
                self.slots.append(slot)
            if isinstance(slot.value, nn.Module):
                self._visit(slot.value, slot.path, (*above, id(module)))

    def path_of(self, module: nn.Module) -> str | None:
        """Return the canonical path of a module, None if it is not part of the model."""
        paths = self.paths.get(id(module))
        return paths[0] if paths else None

    def aliases_of(self, slot: Slot) -> tuple[str, ...]:
        """Return the other paths under which the same slot can be reached (its owner has several)."""
        owner = self.modules[slot.owner]
        return tuple(join(path, slot.name) for path in self.paths[id(owner)] if path != slot.owner)


def join(owner: str, name: str) -> str:
    """Join an owner's path and a slot's name."""
    if not owner:
        return name
    return f"{owner}{name}" if name.startswith("[") else f"{owner}.{name}"


def _slots_of(module: nn.Module, path: str) -> Iterator[Slot]:
    for name, child in module._modules.items():
        if child is not None:
            yield Slot(path, name, child, registered=True)
    if isinstance(module, torch.jit.ScriptModule):
        return
    for name, value in vars(module).items():
        if name not in _INTERNAL and not name.endswith("_hooks"):
            for text, found in _callables(value, name, _DEPTH):
                yield Slot(path, text, found, registered=False)
    yield from _class_slots(module, path)


def _class_slots(module: nn.Module, path: str) -> Iterator[Slot]:
    seen = set(vars(module)) | set(module._modules)
    for cls in type(module).__mro__:
        if cls.__module__.split(".")[0] == "torch" or cls is object:
            continue
        for name, value in vars(cls).items():
            raw = value.__func__ if isinstance(value, staticmethod) else value
            # Plain functions are methods; only what would not be bound to self is held *in* the class.
            held = isinstance(raw, nn.Module | types.BuiltinFunctionType | functools.partial) or (
                isinstance(value, staticmethod) and isinstance(raw, types.FunctionType) and raw.__name__ != name
            )
            if name not in seen and not name.startswith("__"):
                seen.add(name)
                if held:
                    yield Slot(path, name, raw, registered=False, class_level=True)


def _callables(value: Any, text: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield ``(expression, object)`` for every module or callable inside a plain value."""
    if isinstance(value, nn.Module) or _is_function(value):
        yield text, value
    elif depth and isinstance(value, list | tuple) and len(value) <= _LONG:
        for index, item in enumerate(value):
            yield from _callables(item, f"{text}[{index}]", depth - 1)
    elif depth and isinstance(value, dict) and len(value) <= _LONG:
        for key, item in value.items():
            if isinstance(key, str | int):
                yield from _callables(item, f"{text}[{key!r}]", depth - 1)
    elif depth and _is_helper_object(value):
        if callable(value):
            yield text, value
        for name, item in vars(value).items():
            yield from _callables(item, f"{text}.{name}", depth - 1)


def _is_function(value: Any) -> bool:
    return isinstance(
        value,
        types.FunctionType
        | types.BuiltinFunctionType
        | types.MethodType
        | types.MethodDescriptorType
        | types.WrapperDescriptorType
        | functools.partial
        | torch._ops.OpOverload
        | torch._ops.OpOverloadPacket
        | torch.jit.ScriptFunction,
    )


def _is_helper_object(value: Any) -> bool:
    cls = type(value)
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, type | types.ModuleType | torch.Tensor | enum.Enum)  # members are one of a kind
        and cls.__module__.split(".")[0] not in _NOT_OPENED
    )


def _tokens(text: str) -> list[str | int]:
    tokens: list[str | int] = []
    position = 0
    while position < len(text):
        token, position = _token(text, position)
        tokens.append(token)
    return tokens


def _token(text: str, position: int) -> tuple[str | int, int]:
    """Return the name or key at a position of a path, and where the next one begins."""
    match = _TOKEN.match(text, position)
    if match is None:
        raise BadInput(f"not a module path: {text!r}", fix="write it as inspect shows it")
    name, key = match.groups()
    return (name if name is not None else _Key(ast.literal_eval(key))), match.end()


class _Key(str):
    """A container key, as opposed to an attribute name; keeps the original key in ``value``."""

    value: str | int

    def __new__(cls, value: str | int) -> Self:
        key = super().__new__(cls, value)
        key.value = value
        return key


def _step(value: Any, token: str | int) -> Any:
    if isinstance(token, _Key):
        return value[token.value]
    if isinstance(value, nn.Module) and token in value._modules:
        return value._modules[str(token)]
    return getattr(value, str(token))


def get_path(model: nn.Module, path: str) -> Any:
    """Return what is at a path.

    Raises
    ------
    BadInput
        If there is nothing; the message names the longest part that exists.
    """
    value: Any = model
    position = 0
    while position < len(path):
        name = _bracketed_child(value, path[position:].removeprefix("."))
        if name is not None:
            position += len(name) + path.startswith(".", position)
            value = value._modules[name]
            continue
        token, end = _token(path, position)
        try:
            value = _step(value, token)
        except (AttributeError, KeyError, IndexError, TypeError):
            there = "the model" if position == 0 else type(value).__name__
            raise BadInput(
                f"no module {path!r}: {there} has no {token!r}", fix="dcsurgery inspect lists the paths"
            ) from None
        position = end
    return value


def _bracketed_child(value: Any, path: str) -> str | None:
    """Return the registered child that a path begins with, if its name has brackets and looks like a container's key."""
    # Without brackets in the rest of the path there can be none in a name.
    names = value._modules if isinstance(value, nn.Module) and "[" in path else ()
    odd = [name for name in names if "[" in name and (path == name or path.startswith((f"{name}.", f"{name}[")))]
    return max(odd, key=len, default=None)


def replace_slot(owner: nn.Module, name: str, new: Any) -> Callable[[], None]:
    """Put ``new`` into a slot of ``owner``; return the function that undoes it.

    Containers and helper objects on the way are copied, not changed: another owner may hold the same list.
    """
    if name in owner._modules:
        old = owner._modules[name]
        owner._modules[name] = new
        return lambda: owner._modules.__setitem__(name, old)
    tokens = _tokens(name)
    first = str(tokens[0])
    missing = object()
    old = owner.__dict__.get(first, missing)
    current = getattr(owner, first) if old is missing else old
    # Straight into __dict__: nn.Module.__setattr__ would register a hidden module and change state_dict.
    owner.__dict__[first] = _replaced(current, tokens[1:], new)

    def undo() -> None:
        if old is missing:
            del owner.__dict__[first]
        else:
            owner.__dict__[first] = old

    return undo


def _replaced(value: Any, tokens: list[str | int], new: Any) -> Any:
    if not tokens:
        return new
    token, rest = tokens[0], tokens[1:]
    inner = _replaced(_step(value, token), rest, new)
    if isinstance(value, nn.Module):
        replace_slot(value, str(token), inner)
        return value
    if isinstance(token, _Key):
        if isinstance(value, tuple):
            items = [inner if i == token.value else item for i, item in enumerate(value)]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        changed = copy.copy(value)
        changed[token.value] = inner
        return changed
    changed = copy.copy(value)
    if changed is value:
        raise Refused(
            f"a {type(value).__name__} cannot be copied, and others may hold it, too",
            fix="leave the site out: --exclude",
        )
    object.__setattr__(changed, str(token), inner)  # frozen dataclasses included
    return changed
