"""The functions that a pickle may call while it is read, each with a check of its arguments.

Everything else that a pickle names (classes, activation functions) can be stored and not be called. Where a check is
easier than an argument about what the real function would do, the entry computes the value itself.
"""

from __future__ import annotations

import codecs
import collections
import enum
import functools
import importlib
import inspect
import operator
import pathlib
import re
import types
import typing
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from dcsurgery.files.harmless import TENSOR_METHODS, is_harmless_function

__all__ = ["CALLS", "Forbidden", "Rules", "enum_member"]


class Forbidden(Exception):
    """A pickle names or does what is not known to be safe."""

    def __init__(self, name: str, why: str = "") -> None:
        self.name = name
        self.why = why
        super().__init__(f"{name}: {why}" if why else name)


class Rules(Protocol):
    """What an entry may ask the policy for (see `dcsurgery.files.safe_globals.Policy`)."""

    def call(self, function: Any, args: tuple[Any, ...]) -> Any:
        """Call a listed function."""
        ...

    def new(self, cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make an empty instance of a listed class."""
        ...

    def knows_class(self, cls: Any) -> bool:
        """Return whether a class was found under a name that the policy allows."""
        ...

    def class_at(self, module: str, qualname: str) -> type | None:
        """Return the class of that name if the policy allows it."""
        ...

    def allows_module(self, module: str) -> bool:
        """Return whether classes of a module are allowed at all."""
        ...

    def load_storage(self, data: bytes) -> Any:
        """Read a tensor storage from the bytes that plain pickles hold."""
        ...


Entry = Callable[[Rules, tuple[Any, ...]], Any]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout, torch.Tensor)
_STORAGES = (torch.UntypedStorage, torch.TypedStorage)
_NO_OBJECTS = re.compile(r"[<>|=]?[biufcSUmM?]\d*(\[\w+\])?")


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_plain(item) for item in value)
    if isinstance(value, dict):  # backward hooks are functions: an empty table is all that torch.save writes
        return not value
    return isinstance(value, (*_PLAIN, *_STORAGES))


def _with_plain_arguments(name: str) -> Entry:
    module, __, attribute = name.rpartition(".")

    def call(_: Rules, args: tuple[Any, ...]) -> Any:
        if not _plain(args):
            raise Forbidden(name, "called with something other than tensor data")
        return getattr(importlib.import_module(module), attribute)(*args)

    return call


def _container(name: str, make: Callable[..., Any], *accepted: type) -> Entry:
    def call(_: Rules, args: tuple[Any, ...]) -> Any:
        if len(args) > 1 or not all(type(arg) in accepted for arg in args):
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
        literal = form is typing.Literal and _plain(items)
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


def _dtype(_: Rules, args: tuple[Any, ...]) -> Any:
    if args and type(args[0]) is str and _NO_OBJECTS.fullmatch(args[0]):
        # A copy: the pickle goes on to set its state, which must not reach NumPy's own object.
        return np.dtype(args[0], False, True)  # type: ignore[call-overload]
    raise Forbidden("numpy.dtype", "made for Python objects")


def _array(_: Rules, args: tuple[Any, ...]) -> Any:
    if len(args) == 3 and args[0] is np.ndarray:
        return np.empty((0,), dtype="b")
    raise Forbidden("numpy._core.multiarray._reconstruct", "called for something other than an array")


def _array_scalar(_: Rules, args: tuple[Any, ...]) -> Any:
    if len(args) == 2 and isinstance(args[0], np.dtype) and not args[0].hasobject and isinstance(args[1], bytes):
        return np.frombuffer(args[1], dtype=args[0])[0]
    raise Forbidden("numpy._core.multiarray.scalar", "called for something other than a number")


def _array_from_buffer(_: Rules, args: tuple[Any, ...]) -> Any:
    if len(args) == 4 and isinstance(args[1], np.dtype) and not args[1].hasobject:
        return np.frombuffer(bytes(args[0]), dtype=args[1]).reshape(args[2], order=args[3]).copy()
    raise Forbidden("numpy._core.numeric._frombuffer", "called for something other than an array")


def _tensor_with_attributes(rules: Rules, args: tuple[Any, ...]) -> Any:
    if len(args) == 4 and isinstance(args[2], tuple) and isinstance(args[3], dict) and args[1] in _TENSOR_TYPES:
        tensor = rules.call(args[0], args[2])
        if isinstance(tensor, torch.Tensor):
            tensor.__dict__.update({key: value for key, value in args[3].items() if type(key) is str})
            return tensor
    raise Forbidden("torch._tensor._rebuild_from_type_v2", "called for a tensor class that is not torch's own")


def _parameter_with_state(_: Rules, args: tuple[Any, ...]) -> Any:
    if len(args) == 4 and _plain(args[:3]) and isinstance(args[3], dict):
        parameter = torch._utils._rebuild_parameter(*args[:3])
        parameter.__dict__.update({key: value for key, value in args[3].items() if type(key) is str})
        return parameter
    raise Forbidden("torch._utils._rebuild_parameter_with_state", "called with something other than tensor data")


_TENSOR_TYPES = (torch.Tensor, nn.Parameter, nn.Buffer)


def _storage_from_bytes(rules: Rules, args: tuple[Any, ...]) -> Any:
    if len(args) == 1 and isinstance(args[0], bytes):
        return rules.load_storage(args[0])
    raise Forbidden("torch.storage._load_from_bytes", "called with something other than tensor data")


def _amended(rules: Rules, args: tuple[Any, ...]) -> Any:
    from dcsurgery.subclass import Amendment, rebuild

    if len(args) == 2 and isinstance(args[1], tuple) and rules.knows_class(args[0]) and issubclass(args[0], nn.Module):
        for amendment in args[1]:
            cls = type(amendment)
            if not (
                isinstance(amendment, Amendment) and rules.knows_class(cls) and cls.__module__[:10] == "dcsurgery."
            ):
                raise Forbidden("dcsurgery.subclass.rebuild", f"given {cls.__qualname__}, which is not an edit")
            _check_code_names(rules, amendment)
        return rebuild(*args)
    raise Forbidden("dcsurgery.subclass.rebuild", "called for something other than an edited module")


def _check_code_names(rules: Rules, value: Any) -> None:
    """Refuse edits that point to code in modules which the file could not name itself: they would be imported."""
    if isinstance(value, str):
        module, colon, name = value.partition(":")
        if colon and name and not name[0].isspace() and not rules.allows_module(module):
            raise Forbidden(value, "an edit of code that is not installed")
    elif isinstance(value, dict):
        _check_code_names(rules, [*value.keys(), *value.values()])
    elif isinstance(value, tuple | list | set | frozenset):
        for item in value:
            _check_code_names(rules, item)
    elif type(value).__module__.startswith("dcsurgery.") and not isinstance(value, nn.Module):
        _check_code_names(rules, vars(value))


def _graph_module(rules: Rules, args: tuple[Any, ...]) -> Any:
    from dcsurgery.files.graph_code import check_graph_code

    if len(args) == 2 and type(args[0]) is dict and type(args[1]) is str:
        check_graph_code(args[0], args[1], rules.allows_module)
        from torch.fx.graph_module import reduce_graph_module

        return reduce_graph_module(*args)
    raise Forbidden("torch.fx.graph_module.reduce_graph_module", "called for something other than a GraphModule")


def enum_member(cls: type[enum.Enum], args: tuple[Any, ...]) -> enum.Enum:
    """Return the member with a value, without running the class's own look-up."""
    for member in cls if len(args) == 1 else ():
        if type(member.value) is type(args[0]) and member.value == args[0]:
            return member
    raise Forbidden(f"{cls.__module__}.{cls.__qualname__}", "called for something other than one of its members")


CALLS: dict[str, Entry] = {
    **{
        f"torch._utils.{name}": _with_plain_arguments(f"torch._utils.{name}")
        for name in (
            "_rebuild_tensor",
            "_rebuild_tensor_v2",
            "_rebuild_tensor_v3",
            "_rebuild_parameter",
            "_rebuild_sparse_tensor",
            "_rebuild_nested_tensor",
            "_rebuild_qtensor",
            "_rebuild_meta_tensor_no_storage",
        )
    },
    "torch._utils._rebuild_parameter_with_state": _parameter_with_state,
    "torch._tensor._rebuild_from_type_v2": _tensor_with_attributes,
    "torch.storage._load_from_bytes": _storage_from_bytes,
    "torch.serialization._get_layout": _with_plain_arguments("torch.serialization._get_layout"),
    "torch.Size": _container("torch.Size", torch.Size, tuple, list),
    "torch.device": _scalars("torch.device", torch.device, str, int),
    "torch.fx.graph_module.reduce_graph_module": _graph_module,
    "dcsurgery.subclass.rebuild": _amended,
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
    "numpy.dtype": _dtype,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy._core.multiarray.scalar": _array_scalar,
    "numpy._core.numeric._frombuffer": _array_from_buffer,
}
