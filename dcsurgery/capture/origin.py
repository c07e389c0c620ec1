"""Where an operator was called from: the module, the chain of calls down to it, file and line.

Everything is read off Python's frames; the exact call expression comes from the instruction's position (PEP 657).
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcsurgery.capture.applied import applied_class
from dcsurgery.instance_functions import instance_owner
from dcsurgery.methods import function_in, methods_of
from dcsurgery.sites import CallStep
from dcsurgery.source import CodeKey, code_key, instruction_end, running_call
from dcsurgery.subclass import original_class

__all__ = [
    "BOUNDARIES",
    "Origin",
    "chain_of",
    "is_below_transform",
    "is_library_file",
    "method_codes",
    "origin_of",
    "short_file",
    "user_frame",
]

_TORCH = str(Path(torch.__file__).parent) + os.sep
_CORE = str(Path(__file__).parent.parent) + os.sep
_ZOO = f"{_CORE}zoo{os.sep}"  # the zoo's models are models like any other
_FUNCTORCH = f"{_TORCH}_functorch{os.sep}"
BOUNDARIES = {
    nn.Module._call_impl.__code__,
    nn.Module._wrapped_call_impl.__code__,
    inspect.unwrap(torch.fx.Tracer.trace).__code__,  # dynamo wraps it in code that all it disables share
}


@dataclass(frozen=True)
class Origin:
    """Where a call came from.

    Attributes
    ----------
    owner
        The module whose method runs, None if no frame tells.
    steps
        The chain of calls from the owner's method down to the operator's own call; empty inside torch's own code.
    frames
        The user's frames, innermost first.
    library_module
        A module of torch whose ``forward`` was called directly on the way, None otherwise.
    in_autograd_function
        The user's ``autograd.Function`` class around the call, None otherwise.
    file, line
        The innermost user line (or torch's, where no user code is on the way).
    """

    owner: nn.Module | None
    steps: tuple[CallStep, ...]
    frames: tuple[types.FrameType, ...]
    library_module: nn.Module | None
    in_autograd_function: type | None
    file: str | None
    line: int | None


def short_file(filename: str) -> str:
    """Return a file name without the part that differs between machines."""
    for marker in ("site-packages" + os.sep, "dist-packages" + os.sep):
        if marker in filename:
            return filename.rpartition(marker)[2]
    here = f"{Path.cwd()}{os.sep}"
    return filename.removeprefix(here)


@functools.lru_cache(maxsize=4096)
def is_library_file(filename: str) -> bool:
    """Say whether a file is torch's or dcsurgery's own."""
    return filename.startswith(_TORCH) or (filename.startswith(_CORE) and not filename.startswith(_ZOO))


def method_codes(cls: type[nn.Module]) -> dict[CodeKey, str]:
    """Map the code of every method that attribute lookup on ``cls`` finds, decorators looked through, to its name."""
    key: Any = cls  # a class hashes, though nn.Module's stubs hide it
    return _method_codes(key)


@functools.lru_cache(maxsize=2048)
def _method_codes(cls: type) -> dict[CodeKey, str]:
    found: dict[CodeKey, str] = {}
    for name, raw in methods_of(cls).items():
        for code in _codes_of(function_in(raw), set()):
            found.setdefault(code_key(code), name)
    return found


def user_frame(frame: types.FrameType | None) -> types.FrameType | None:
    """Return the nearest frame of user code, without the work of a full origin."""
    while frame is not None and is_library_file(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def is_below_transform(frame: types.FrameType | None) -> bool:
    """Say whether a frame runs inside vmap, grad or another transform of `torch.func` that its module's forward calls."""
    if frame is None or not torch._C._are_functorch_transforms_active():
        return False
    outer = frame.f_back
    while outer is not None and outer.f_code not in BOUNDARIES:
        if outer.f_code.co_filename.startswith(_FUNCTORCH):
            return True
        outer = outer.f_back
    return False


def _codes_of(function: Any, seen: set[int]) -> list[types.CodeType]:
    if not isinstance(function, types.FunctionType) or id(function) in seen:
        return []
    seen.add(id(function))
    codes = [function.__code__]
    for cell in function.__closure__ or ():
        try:
            codes += _codes_of(cell.cell_contents, seen)
        except ValueError:
            continue
    return codes


def origin_of(frame: types.FrameType | None) -> Origin:
    """Walk outwards from a frame to the module call it happens in."""
    users: list[types.FrameType] = []
    library_module: nn.Module | None = None
    function_class: type | None = None
    inner: types.FrameType | None = None
    while frame is not None and frame.f_code not in BOUNDARIES:
        code = frame.f_code
        if not is_library_file(code.co_filename):
            users.append(frame)
            if function_class is None:
                function_class = applied_class(frame)
        elif code.co_filename.startswith(_TORCH):
            if inner is None and f"nn{os.sep}modules" in code.co_filename:
                inner = frame
            if code.co_name == "forward" and library_module is None and code.co_varnames[:1] == ("self",):
                candidate = frame.f_locals.get("self")
                library_module = candidate if isinstance(candidate, nn.Module) else None
        frame = frame.f_back
    owner, steps = chain_of(users)
    if owner is None and users and frame is not None and instance_owner(frame.f_locals.get("self"), users[-1].f_code):
        owner = frame.f_locals["self"]
    place = users[0] if users else inner
    return Origin(
        owner,
        steps,
        tuple(users),
        library_module,
        function_class,
        short_file(place.f_code.co_filename) if place else None,
        place.f_lineno if place else None,
    )


def chain_of(frames: Sequence[types.FrameType]) -> tuple[nn.Module | None, tuple[CallStep, ...]]:
    """Return the module that owns the outermost method and the chain of calls down to ``frames[0]``'s current one."""
    steps: list[CallStep] = []
    found: tuple[nn.Module | None, tuple[CallStep, ...]] = None, ()
    inside: tuple[str, tuple[int, int]] | None = None  # a nested function whose enclosing one is further out
    for position, frame in enumerate(frames):
        code = frame.f_code
        key = code_key(code)
        end = instruction_end(code, frame.f_lasti)
        if end is None:
            return None, ()
        if inside is not None and code.co_qualname == inside[0]:
            end = inside[1]
            inside = None
        elif inside is not None:
            continue
        enclosing = code.co_qualname.rpartition(".<locals>.")[0]
        if enclosing and any(f.f_code.co_qualname == enclosing for f in frames[position + 1 :]):
            inside = (enclosing, end)
            continue
        steps.insert(0, CallStep(key.function, key.first_line, end))
        owner = _method_owner(frame, key)
        if owner is not None:
            found = owner, tuple(steps)
            if not _named_by_class(frames[position + 1 : position + 2], owner):
                return found
    return found if found[0] is not None else (None, tuple(steps))


def _named_by_class(callers: Sequence[types.FrameType], owner: nn.Module) -> bool:
    """Say whether a method was called as ``super().f(x)`` or ``Class.f(self, x)``: not looked up on the module."""
    for caller in callers:
        names = caller.f_code.co_varnames[: caller.f_code.co_argcount]
        if not names or caller.f_locals.get(names[0]) is not owner:
            return False
        call = running_call(caller)
        base = call.func.value if call is not None and isinstance(call.func, ast.Attribute) else None
        if isinstance(base, ast.Call):
            return isinstance(base.func, ast.Name) and base.func.id == "super"
        if isinstance(base, ast.Name):
            named = caller.f_locals.get(base.id, caller.f_globals.get(base.id))
            return isinstance(named, type)
    return False


def _method_owner(frame: types.FrameType, key: CodeKey) -> nn.Module | None:
    names = frame.f_code.co_varnames
    if not names or not frame.f_code.co_argcount:
        return None
    candidate = frame.f_locals.get(names[0])
    if not isinstance(candidate, nn.Module):
        return None
    return candidate if key in method_codes(original_class(candidate)) else None
