"""Unpickle without running anything that is not known to be safe.

Two passes. The first is a rehearsal: the same machine runs the file's instructions with symbols in the place of
objects, so that every name is known, in whatever way the file spells or computes it, and nothing has run. The second
loads, and asks the policy at every single instruction that names, calls, makes or fills something.

Python's own pure-Python unpickler is the machine, because the C one would call and fill objects without asking.
"""

from __future__ import annotations

import io
import pickle
import types
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar

import torch

from dcsurgery.errors import BadInput
from dcsurgery.files.safe_globals import Policy
from dcsurgery.files.safe_rules import Forbidden

__all__ = ["Named", "objections", "rehearse", "safe_load", "safe_load_bytes", "safe_unpickle"]

_MACHINE: Any = pickle._Unpickler
# Where Python and NumPy keep what they also show under another name.
_SPELLED = {"_operator": "operator", "_functools": "functools", "_collections": "collections", "_io": "io"}
_SYSTEM = {"posix": "os", "nt": "os"}
_LEGACY_PICKLES = 5  # magic number, protocol, system, object, storage keys


def _canonical(module: str, name: str, protocol: int) -> tuple[str, str]:
    if protocol < 3:  # written for Python 2 as well: __builtin__ and the like
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    module = _SYSTEM.get(module, _SPELLED.get(module, module))
    if module.startswith("numpy.core."):
        module = "numpy._core." + module.removeprefix("numpy.core.")
    return module, name


class Named:
    """A symbol of the rehearsal: something the file named, or would have made of what it named."""

    def __init__(self, module: str = "", name: str = "") -> None:
        self.module = module
        self.name = name
        self.called = False

    @property
    def full(self) -> str:
        """``module.name``."""
        return f"{self.module}.{self.name}"

    def ignore(self, *_: Any) -> None:
        """Stand for the methods of containers."""

    append = extend = add = update = __setitem__ = ignore


class _Rehearsal(_MACHINE):
    """Runs a pickle's instructions on symbols."""

    dispatch: ClassVar[dict[int, Any]] = dict(_MACHINE.dispatch)

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")
        self.named: dict[str, Named] = {}

    def find_class(self, module: str, name: str) -> Named:
        symbol = Named(*_canonical(module, name, self.proto))
        return self.named.setdefault(symbol.full, symbol)

    def persistent_load(self, _pid: Any) -> Named:
        return Named()

    def _call(self, function: Any) -> None:
        if isinstance(function, Named):
            function.called = True
        self.append(Named())

    def _instantiate(self, klass: Any, _args: Any) -> None:
        self._call(klass)

    def load_reduce(self) -> None:
        self.stack.pop()
        self._call(self.stack.pop())

    def load_newobj(self) -> None:
        del self.stack[-2:]
        self.append(Named())

    def load_newobj_ex(self) -> None:
        del self.stack[-3:]
        self.append(Named())

    def load_build(self) -> None:
        self.stack.pop()

    def load_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        computed = not (type(name) is str and type(module) is str)
        self.append(self.find_class("", "a name computed by the file") if computed else self.find_class(module, name))

    def get_extension(self, code: int) -> None:
        self.append(self.find_class("", f"copyreg extension {code}"))

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.STACK_GLOBAL[0]] = load_stack_global


class SafeUnpickler(_MACHINE):
    """Loads a pickle and asks ``policy`` before it names, calls, makes or fills anything."""

    dispatch: ClassVar[dict[int, Any]] = dict(_MACHINE.dispatch)
    policy: Policy

    @property
    def persistent_load(self) -> Callable[[Any], Any]:
        """What resolves references to tensor data; torch.load sets it."""
        return self._persistent_load

    @persistent_load.setter
    def persistent_load(self, load: Callable[[Any], Any]) -> None:
        def checked(pid: Any) -> Any:
            # Old files hold the source of every class; torch compares it and may write a patch file. We do not.
            return pid[1] if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module" else load(pid)

        self._persistent_load = checked

    def find_class(self, module: str, name: str) -> Any:
        return self.policy.find(*_canonical(module, name, self.proto))

    def get_extension(self, code: int) -> None:
        raise Forbidden("copyreg", f"extension {code}")

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self.policy.call(klass, tuple(args)))

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self.policy.call(self.stack[-1], args)

    def load_newobj(self) -> None:
        args, cls = self.stack.pop(), self.stack.pop()
        self.append(self.policy.new(cls, args, {}))

    def load_newobj_ex(self) -> None:
        kwargs, args, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.append(self.policy.new(cls, args, kwargs))

    def load_build(self) -> None:
        state = self.stack.pop()
        self.policy.build(self.stack[-1], state)

    def _container(self, *kinds: type) -> None:
        if not isinstance(self.stack[-1], kinds):
            raise Forbidden(type(self.stack[-1]).__qualname__, "filled like a container")

    def load_append(self) -> None:
        value = self.stack.pop()
        self._container(list, deque)
        self.stack[-1].append(value)

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._container(list, deque)
        self.stack[-1].extend(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._container(dict)
        self.stack[-1][key] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._container(dict)
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def load_additems(self) -> None:
        items = self.pop_mark()
        self._container(set)
        self.stack[-1].update(items)

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.APPEND[0]] = load_append
    dispatch[pickle.APPENDS[0]] = load_appends
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.ADDITEMS[0]] = load_additems


def rehearse(file: IO[bytes], *, legacy: bool = False) -> list[Named]:
    """Return everything that a pickle names, without loading it.

    Parameters
    ----------
    file
        Opened at the pickle's start.
    legacy
        True for the format torch wrote before zip archives: five pickles in a row.

    Raises
    ------
    Exception
        Whatever a broken pickle makes the machine raise.
    """
    named: dict[str, Named] = {}
    for _ in range(_LEGACY_PICKLES if legacy else 1):
        machine = _Rehearsal(file)
        machine.load()
        for full, symbol in machine.named.items():
            named.setdefault(full, symbol).called |= symbol.called
    return list(named.values())


def objections(named: list[Named], policy: Policy) -> list[Named]:
    """Return what a file names and must not, all of it; imports nothing if that can be told without importing."""
    certain = [symbol for symbol in named if not policy.may_import(symbol.module)]
    found = list(certain)
    for symbol in named:
        if symbol in certain or (certain and symbol.module.partition(".")[0] not in ("torch", "builtins", "operator")):
            continue
        try:
            value = policy.find(symbol.module, symbol.name)
        except Forbidden:
            found.append(symbol)
        else:
            if symbol.called and not policy.may_call(value):
                found.append(symbol)
    return [symbol for symbol in named if symbol in found]


def safe_unpickle(file: IO[bytes], policy: Policy) -> Any:
    """Load a plain pickle under a policy."""
    machine = _machine(policy)(file, encoding="utf-8")
    machine.persistent_load = _no_persistent
    return machine.load()


def safe_load(file: IO[bytes] | Path, policy: Policy) -> Any:
    """Load what torch.save wrote, zip or older format, on the CPU, under a policy.

    The tensors of a zip archive that is given by its path stay in the file until they are used.
    """
    module = types.SimpleNamespace(
        __name__="dcsurgery.files.safe_pickle",
        Unpickler=_machine(policy),
        load=lambda stream, **_: safe_unpickle(stream, policy),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(
            file, map_location="cpu", pickle_module=module, weights_only=False, mmap=isinstance(file, Path)
        )


def safe_load_bytes(data: bytes, policy: Policy) -> Any:
    """Load what torch.save wrote into bytes."""
    return safe_load(io.BytesIO(data), policy)


def _machine(policy: Policy) -> type[SafeUnpickler]:
    return type("BoundUnpickler", (SafeUnpickler,), {"policy": policy})


def _no_persistent(_pid: Any) -> Any:
    raise BadInput("refers to data outside the file", fix="save the model with torch.save(model, path)")
