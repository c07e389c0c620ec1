"""Functions that a file may *name*: pure tensor functions, never anything that reaches files, code or the system.

A name on this list can be stored in a model (``self.act = torch.tanh``) or called in a GraphModule's code. It still
cannot be called while a pickle is read: `dcsurgery.files.safe_calls` lists the few functions that can.
"""

from __future__ import annotations

import math
import operator
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["ACTIVATION_MODULES", "TENSOR_METHODS", "is_harmless_function"]

# Modules of other packages that hold nothing but tensor functions, which models keep as attributes.
ACTIVATION_MODULES = frozenset(
    {
        "deepxde.backend.pytorch.tensor",
        "schnetpack.nn.activations",
        "torch_geometric.nn.models.dimenet_utils",
        "torch_geometric.utils._softmax",
    }
)
# These read a file, or hand out raw memory.
_DENIED_FUNCTIONS = frozenset({"from_file", "frombuffer"})
# These leave the world of tensors (numpy's tofile writes files, a storage can be mapped to one), run callables,
# or change what is not theirs.
_DENIED_METHODS = frozenset(
    {
        "apply_",
        "as_subclass",
        "backward",
        "const_data_ptr",
        "data_ptr",
        "map2_",
        "map_",
        "module_load",
        "numpy",
        "record_stream",
        "register_hook",
        "register_post_accumulate_grad_hook",
        "reinforce",
        "set_",
        "share_memory_",
        "storage",
        "storage_type",
        "untyped_storage",
    }
)
TENSOR_METHODS = frozenset(
    name
    for name in dir(torch.Tensor)
    if not name.startswith("_") and name not in _DENIED_METHODS and callable(getattr(torch.Tensor, name, None))
)
_TORCH_C = frozenset({"torch._C._nn", "torch._C._special", "torch._C._linalg", "torch._C._fft"})
# operator.call, methodcaller, attrgetter and itemgetter make or run callables.
_OPERATORS = frozenset(
    vars(operator)[name]
    for name in operator.__all__
    if name not in {"attrgetter", "call", "itemgetter", "methodcaller", "setitem", "delitem", "length_hint"}
)


def is_harmless_function(function: Any) -> bool:
    """Return whether calling a function with any arguments can do no more than compute."""
    if isinstance(function, torch._ops.OpOverloadPacket | torch._ops.OpOverload):
        packet: Any = getattr(function, "overloadpacket", function)
        namespace, _, name = str(packet._qualified_op_name).partition("::")
        return namespace == "aten" and name not in _DENIED_FUNCTIONS
    if isinstance(function, MethodDescriptorType):
        return issubclass(torch.Tensor, function.__objclass__) and function.__name__ in TENSOR_METHODS
    if isinstance(function, BuiltinFunctionType):
        return _is_harmless_builtin(function)
    return isinstance(function, FunctionType) and _is_harmless_python(function)


def _is_harmless_builtin(function: BuiltinFunctionType) -> bool:
    name, owner = function.__name__, function.__self__
    if name.startswith("_") or name in _DENIED_FUNCTIONS:
        return False
    if owner is None and getattr(torch._C._VariableFunctions, name, None) == function:
        return True
    if owner is math or function in _OPERATORS:
        return True
    module = owner.__name__ if isinstance(owner, ModuleType) else function.__module__
    return module in _TORCH_C


def _is_harmless_python(function: FunctionType) -> bool:
    name, module = function.__name__, function.__module__
    if name.startswith("_"):
        return False
    if module in ("torch.nn.functional", "torch.functional"):
        holder = F if module == "torch.nn.functional" else torch.functional
        return vars(holder).get(name) is function
    return module in ACTIVATION_MODULES or f"{module}.".startswith("dcsurgery.activations.")
