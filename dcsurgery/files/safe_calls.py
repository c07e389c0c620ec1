"""The functions that a pickle may call while it is read, each with a check of its arguments.

Everything else that a pickle names (classes, activation functions) can be stored and not be called. Where a check is
easier than an argument about what the real function would do, the entry computes the value itself.
"""

from __future__ import annotations

import codecs
import collections
import enum
import functools
import inspect
import operator
import pathlib
import types
import typing
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dcsurgery.files.harmless import TENSOR_METHODS, is_harmless_function
from dcsurgery.files.safe_rules import Entry, Forbidden, Rules, is_plain
from dcsurgery.files.safe_tensors import TENSOR_CALLS

__all__ = ["CALLS", "enum_member"]


def _container(name: str, make: Callable[..., Any], *accepted: type) -> Entry:
    def call(_: Rules, args: tuple[Any, ...]) -> Any:
        if args and (len(args) > 1 or type(args[0]) not in accepted):
            raise Forbidden(name, "called with something other than its items")
        return make(*args)

    return call


def _scalars(name: str, make: Callable[..., Any], *types_: type) -> Entry:
    def call(_: Rules, args: tuple[Any, ...]) -> Any:
        if not all(type(arg) in types_ for arg in args):
            raise Forbidden(name, "called with something other than plain values")
        return make(*args)

    return call


def _defaultdict(_: Rules, args: tuple[Any, ...]) -> Any:
    if not args or any(args[0] is kind for kind in (None, list, dict, set, int, float, str, tuple)):
        return collections.defaultdict(*args[:1])
    raise Forbidden("collections.defaultdict", "made with a factory that is not a plain container")


def _encode(_: Rules, args: tuple[Any, ...]) -> bytes:
    if len(args) == 2 and type(args[0]) is str and args[1] in ("latin1", "latin-1"):
        return codecs.encode(args[0], "latin1")
    raise Forbidden("_codecs.encode", "called for another encoding than latin1")


def _type_of(_: Rules, args: tuple[Any, ...]) -> type:
    if len(args) == 1 and args[0] in (None, Ellipsis, NotImplemented):
        return type(args[0])
    raise Forbidden("builtins.type", "called to make a class")


def _getattr(rules: Rules, args: tuple[Any, ...]) -> Any:
    """Do what pickle writes as getattr: torch's builtins, methods of tensors and modules, nested classes, enums."""
    if len(args) == 2 and type(args[1]) is str:
        owner, name = args
        if owner is torch._C._VariableFunctionsClass:  # type: ignore[attr-defined]
            function = getattr(torch._C._VariableFunctions, name, None)
            if is_harmless_function(function):
                return function
        elif owner in (torch.Tensor, torch._C.TensorBase):
            if name in TENSOR_METHODS:
                return getattr(owner, name)
        elif isinstance(owner, nn.Module):
            method = inspect.getattr_static(type(owner), name, None)
            # Methods that nn.Module itself has run callables or move whole models; no layer keeps one as an attribute.
            if isinstance(method, types.FunctionType) and not name.startswith("__") and not hasattr(nn.Module, name):
                return types.MethodType(method, owner)
        elif isinstance(owner, type) and rules.knows_class(owner):
            if issubclass(owner, enum.Enum) and name in owner.__members__:
                return owner.__members__[name]
            nested = rules.class_at(owner.__module__, f"{owner.__qualname__}.{name}")
            if nested is not None:
                return nested
        raise Forbidden(f"builtins.getattr({_name(owner)}, {name!r})", "reaches what is not known to be safe")
    raise Forbidden("builtins.getattr", "called for something other than a named attribute")


def _name(value: Any) -> str:
    return getattr(value, "__qualname__", type(value).__qualname__)


def _is_type(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_type(item) for item in value)
    return (
        value is None or value is Ellipsis or isinstance(value, type) or type(value).__module__ in ("typing", "types")
    )


def _getitem(_: Rules, args: tuple[Any, ...]) -> Any:
    if len(args) == 2:
        form, items = args
        literal = form is typing.Literal and is_plain(items)
        generic = type(form).__module__ == "typing" or form in (list, dict, set, frozenset, tuple, type)
        if literal or (generic and _is_type(items)):
            return form[items]
    raise Forbidden("operator.getitem", "called for something other than a type annotation")


def _union(_: Rules, args: tuple[Any, ...]) -> Any:
    if len(args) == 2 and args[0] is operator.or_ and _is_type(args[1]):
        return functools.reduce(operator.or_, args[1])
    raise Forbidden("functools.reduce", "called for something other than a union of types")


def _alias(_: Rules, args: tuple[Any, ...]) -> Any:
    if len(args) == 2 and isinstance(args[0], type) and _is_type(args[1]):
        return types.GenericAlias(*args)
    raise Forbidden("types.GenericAlias", "called for something other than types")


def _partial(_: Rules, args: tuple[Any, ...]) -> Any:
    # Nothing calls it while the file is read: calls go through this table, and a partial is not in it.
    if len(args) == 1 and callable(args[0]):
        return functools.partial(args[0])
    raise Forbidden("functools.partial", "called for something other than a function")


def _reconstructor(rules: Rules, args: tuple[Any, ...]) -> Any:
    if len(args) == 3 and args[1] is object and args[2] is None:
        return rules.new(args[0], (), {})
    raise Forbidden("copyreg._reconstructor", "called for something other than a plain object")


def _newobj(rules: Rules, args: tuple[Any, ...]) -> Any:
    if args:
        return rules.new(args[0], args[1:], {})
    raise Forbidden("copyreg.__newobj__", "called without a class")


def enum_member(cls: type[enum.Enum], args: tuple[Any, ...]) -> enum.Enum:
    """Return the member with a value, without running the class's own look-up."""
    for member in cls if len(args) == 1 else ():
        if type(member.value) is type(args[0]) and member.value == args[0]:
            return member
    raise Forbidden(f"{cls.__module__}.{cls.__qualname__}", "called for something other than one of its members")


CALLS: dict[str, Entry] = {
    **TENSOR_CALLS,
    "torch.Size": _container("torch.Size", torch.Size, tuple, list),
    "torch.device": _scalars("torch.device", torch.device, str, int),
    "collections.OrderedDict": _container("collections.OrderedDict", collections.OrderedDict, list, dict),
    "collections.Counter": _container("collections.Counter", collections.Counter, dict),
    "collections.deque": _scalars("collections.deque", collections.deque, tuple, list, int),
    "collections.defaultdict": _defaultdict,
    "builtins.set": _container("builtins.set", set, list, tuple),
    "builtins.frozenset": _container("builtins.frozenset", frozenset, list, tuple),
    "builtins.complex": _scalars("builtins.complex", complex, int, float),
    "builtins.slice": _scalars("builtins.slice", slice, int, type(None)),
    "builtins.range": _scalars("builtins.range", range, int),
    "builtins.bytes": _container("builtins.bytes", bytes, list),
    "builtins.bytearray": _container("builtins.bytearray", bytearray, bytes, list),
    "builtins.type": _type_of,
    "builtins.getattr": _getattr,
    "operator.getitem": _getitem,
    "functools.partial": _partial,
    "functools.reduce": _union,
    "types.GenericAlias": _alias,
    "types.SimpleNamespace": _container("types.SimpleNamespace", types.SimpleNamespace),
    "copyreg._reconstructor": _reconstructor,
    "copyreg.__newobj__": _newobj,
    "_codecs.encode": _encode,
    "pathlib.PosixPath": _scalars("pathlib.PosixPath", pathlib.Path, str),
    "pathlib.PurePosixPath": _scalars("pathlib.PurePosixPath", pathlib.PurePosixPath, str),
}
