"""Functions that a pickle may call to rebuild tensors, arrays, GraphModules and edited modules; see `safe_calls`."""

from __future__ import annotations

import importlib
import re
from typing import Any

import numpy as np
import torch
from torch import nn

from dcsurgery.files.graph_building import built
from dcsurgery.files.graph_code import check_graph_code
from dcsurgery.files.safe_rules import Entry, Forbidden, Rules, is_plain
from dcsurgery.subclass import Amendment, rebuild
from dcsurgery.torchscript.programs import imported_class, is_program

__all__ = ["TENSOR_CALLS"]

_NO_OBJECTS = re.compile(r"[<>|=]?[biufcSUmM?]\d*(\[\w+\])?")
_TENSOR_TYPES = (torch.Tensor, nn.Parameter, nn.Buffer)


def _with_plain_arguments(name: str) -> Entry:
    module, __, attribute = name.rpartition(".")

    def call(_: Rules, args: tuple[Any, ...]) -> Any:
        if not is_plain(args):
            raise Forbidden(name, "called with something other than tensor data")
        return getattr(importlib.import_module(module), attribute)(*args)

    return call


def _dtype(_: Rules, args: tuple[Any, ...]) -> Any:
    if args and type(args[0]) is str and _NO_OBJECTS.fullmatch(args[0]):
        # A copy: the pickle goes on to set its state, which must not reach NumPy's own object.
        return np.dtype(args[0], False, True)
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
    if len(args) == 4 and is_plain(args[:3]) and isinstance(args[3], dict):
        parameter = torch._utils._rebuild_parameter(*args[:3])
        parameter.__dict__.update({key: value for key, value in args[3].items() if type(key) is str})
        return parameter
    raise Forbidden("torch._utils._rebuild_parameter_with_state", "called with something other than tensor data")


def _storage_from_bytes(rules: Rules, args: tuple[Any, ...]) -> Any:
    if len(args) == 1 and isinstance(args[0], bytes):
        return rules.load_storage(args[0])
    raise Forbidden("torch.storage._load_from_bytes", "called with something other than tensor data")


def _amended(rules: Rules, args: tuple[Any, ...]) -> Any:
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
        known = rules.allows_module(module) or is_program(module)
        if colon and name and not name[0].isspace() and not known:
            raise Forbidden(value, "an edit of code that is not installed")
    elif isinstance(value, dict):
        _check_code_names(rules, [*value.keys(), *value.values()])
    elif isinstance(value, tuple | list | set | frozenset):
        for item in value:
            _check_code_names(rules, item)
    elif type(value).__module__.startswith("dcsurgery.") and not isinstance(value, nn.Module):
        _check_code_names(rules, vars(value))


def _graph_module(rules: Rules, args: tuple[Any, ...]) -> Any:
    if len(args) == 2 and type(args[0]) is dict and type(args[1]) is str:
        module = built(args[0], args[1], rules.allows_module)
        if module is not None:
            return module
        check_graph_code(args[0], args[1], rules.allows_module)
        return torch.fx.graph_module.reduce_graph_module(*args)
    raise Forbidden("torch.fx.graph_module.reduce_graph_module", "called for something other than a GraphModule")


def _scripted_class(rules: Rules, args: tuple[Any, ...]) -> Any:
    if len(args) == 2 and type(args[1]) is str:
        return rules.allow_class(imported_class(*args))  # holds the code to TorchScript's forms
    raise Forbidden("dcsurgery.torchscript.programs.imported_class", "called for something other than a class's code")


TENSOR_CALLS: dict[str, Entry] = {
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
    "torch.fx.graph_module.reduce_graph_module": _graph_module,
    "dcsurgery.subclass.rebuild": _amended,
    "dcsurgery.torchscript.programs.imported_class": _scripted_class,
    "numpy.dtype": _dtype,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy._core.multiarray.scalar": _array_scalar,
    "numpy._core.numeric._frombuffer": _array_from_buffer,
}
