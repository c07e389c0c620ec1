"""Recognise any live object: listed in the catalog, or behaving like something that is."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import sysconfig
import threading
import types
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcsurgery.catalog import Match, match_function, match_module
from dcsurgery.example_inputs import eagerly
from dcsurgery.fingerprint import identify
from dcsurgery.subclass import amendments_of

__all__ = ["PROBING", "identified", "is_library_code", "is_probing", "may_be_activation_module", "recognise"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict, torch.fx.GraphModule)
_NOT_PROBED = frozenset({"torch", "numpy", "scipy"})
_STAND_INS = frozenset({"dcsurgery.calls", "dcsurgery.standins"})  # they are what they hold
_PLAIN = frozenset(vars(nn.Module()))
_PROBING = threading.local()
#: What a profiler sees around it.
PROBING = "dcsurgery probing"
_MODULES: dict[tuple[type[nn.Module], tuple[tuple[str, Any], ...]], Match | None] = {}
_FUNCTIONS: weakref.WeakKeyDictionary[Any, Match | None] = weakref.WeakKeyDictionary()


def is_library_code(module_name: str | None) -> bool:
    """Say whether code of this module is never probed or opened: torch, numpy, the standard library."""
    name = module_name or "builtins"
    ours = name.startswith("dcsurgery.") and not name.startswith("dcsurgery.zoo.")  # the zoo's models are user code
    top = name.split(".")[0]
    return ours or top in _NOT_PROBED or _is_standard(top)


@functools.cache
def _is_standard(top: str) -> bool:
    """Say whether a module is Python's own: a probe would log, warn, or remove a file."""
    if top not in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(top), "__file__", None)
    # A user's program may be called profile.py.
    return file is None or Path(file).is_relative_to(sysconfig.get_path("stdlib"))


def recognise(value: Any) -> Match | None:
    """Return what an object is in the catalog's terms, None if it is neither activation, gate, basis nor norm.

    Listed objects are told by identity; user-written ones are probed on a grid of numbers (`identify`).
    """
    if type(value).__module__ in _STAND_INS:
        return recognise(getattr(value, "activation", None))
    if isinstance(value, nn.Module):
        listed = match_module(value)
        if listed is None and may_be_activation_module(value):
            return _probed_module(value)
        return listed
    try:
        listed = match_function(value)
    except TypeError:  # unhashable
        return None
    if listed is not None:
        return listed
    if isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
        return _bound_forward(value) or _probe(value)
    return _probe(value)


def may_be_activation_module(module: nn.Module) -> bool:
    """Say whether a user-written module could be an activation: it holds no tensors and is no container."""
    if amendments_of(module):  # opened before: what is left of it behaves like what it still contains
        return False
    if isinstance(module, (*_CONTAINERS, torch.jit.ScriptModule)):
        return False
    if is_library_code(type(module).__module__) or type(module).forward is nn.Module.forward:
        return False
    tensors = next(iter(module.parameters()), None) is not None or next(iter(module.buffers()), None) is not None
    return not tensors and sum(1 for _ in module.modules()) <= 4 and _takes_one(type(module).forward, bound=1)


def is_probing() -> bool:
    """Say whether a user's callable is being tried out in this thread, so that what runs is no run of the model."""
    return getattr(_PROBING, "depth", 0) > 0


def identified(value: Any) -> Match | None:
    """Return what a callable behaves like (see `identify`); what runs meanwhile is no run of the model."""
    _PROBING.depth = getattr(_PROBING, "depth", 0) + 1
    try:
        with eagerly(), torch.autograd.profiler.record_function(PROBING):
            return identify(value)
    finally:
        _PROBING.depth -= 1


def _probed_module(module: nn.Module) -> Match | None:
    own = {name: value for name, value in vars(module).items() if name not in _PLAIN}
    simple = not module._modules and all(isinstance(v, bool | int | float | str | None) for v in own.values())
    # One that is made anew in every call would be probed in every call.
    key = (type(module), tuple(sorted(own.items()))) if simple else None
    if key is not None and key in _MODULES:
        return _MODULES[key]
    try:
        match = identified(copy.deepcopy(module).eval())
    except Exception:  # noqa: BLE001 - user code runs in deepcopy
        return None
    if key is not None:
        _MODULES[key] = match
    return match


def _bound_forward(method: types.MethodType) -> Match | None:
    """Recognise ``super().forward`` of a listed class, and ``self.act.forward``."""
    if method.__func__ in (nn.Module.__call__, nn.Module._call_impl):
        return recognise(method.__self__)
    if method.__name__ not in {"forward", "__call__"}:
        return None
    for cls in type(method.__self__).__mro__:
        if vars(cls).get(method.__name__) is method.__func__ and issubclass(cls, nn.Module):
            probe = cls.__new__(cls)  # only its class is looked at
            probe.__dict__.update(method.__self__.__dict__)
            return match_module(probe)
    return None


def _probe(value: Any) -> Match | None:
    if isinstance(value, type) or not callable(value) or isinstance(value, torch._ops.OpOverload):
        return None
    function = value.func if isinstance(value, functools.partial) else value
    own = getattr(function, "__self__", None)
    if isinstance(own, type) and issubclass(own, torch.autograd.Function):
        return _of_autograd_function(own)
    module = getattr(function, "__module__", None) or type(function).__module__
    scripted = isinstance(value, torch.jit.ScriptFunction)
    if not scripted and (is_library_code(module) or not _takes_one(value)):
        return None
    try:
        if value in _FUNCTIONS:
            return _FUNCTIONS[value]
        _FUNCTIONS[value] = None
    except TypeError:
        return identified(value)
    match = identified(value)
    _FUNCTIONS[value] = match
    return match


@functools.lru_cache(maxsize=256)
def _of_autograd_function(cls: type[torch.autograd.Function]) -> Match | None:
    """Recognise ``Function.apply``: what a user's class does decides, not the name that they all share."""
    return None if is_library_code(cls.__module__) else identified(cls.apply)


def _takes_one(value: Any, bound: int = 0) -> bool:
    """Say whether a callable can be called with exactly one positional argument."""
    try:
        parameters = list(inspect.signature(value).parameters.values())
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    keyword_only = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if keyword_only or len(required) > 1 + bound:
        return False
    return len(positional) > bound or several
