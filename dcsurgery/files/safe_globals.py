"""The policy for pickles: which names a file may use, and what may be done with them.

Three questions are kept apart. What may a file *name*? What may it *call*? What may it *make* and fill with state?
A known activation function may be named and not called; a module class may be made empty and filled, and its
constructor is not run.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import sys
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from dcsurgery.errors import BadInput
from dcsurgery.files import installed
from dcsurgery.files.harmless import is_harmless_function
from dcsurgery.files.safe_calls import CALLS, enum_member
from dcsurgery.files.safe_rules import Forbidden

__all__ = ["Policy"]

# Names that can be stored and not called, made or filled.
_VALUES = {
    "builtins": {"bool", "bytes", "complex", "dict", "float", "int", "list", "object", "str", "tuple"},
    "inspect": {"_empty"},
    "operator": {"or_"},
    "numpy": {"ndarray"},
    "torch": {"Tensor", "Generator"},
    "torch._C": {"TensorBase", "_VariableFunctionsClass"},
    "torch.nn.parameter": {"Buffer", "Parameter"},
    "torch.fx._symbolic_trace": {"Tracer"},
    "typing": {
        *("Any", "Callable", "ClassVar", "DefaultDict", "Deque", "Dict", "Final", "FrozenSet", "Iterable", "Iterator"),
        *("List", "Literal", "Mapping", "NoReturn", "Optional", "OrderedDict", "Sequence", "Set", "Tuple", "Type"),
        "Union",
    },
}
# Enumerations of Python that models keep.
_ENUMS = {"inspect": {"_ParameterKind"}}
# Helper classes that are not modules: made empty, filled with state, and harmless whatever the state is.
_HELPERS = {
    "argparse": {"Namespace"},
    "dcsurgery.record": {"Record"},
    "deepxde.nn.deeponet_strategy": {
        "IndependentStrategy",
        "SingleOutputStrategy",
        "SplitBothStrategy",
        "SplitBranchStrategy",
        "SplitTrunkStrategy",
    },
    "torch.nn.utils.spectral_norm": {
        "SpectralNorm",
        "SpectralNormLoadStateDictPreHook",
        "SpectralNormStateDictHook",
    },
    "torch.nn.utils.weight_norm": {"WeightNorm"},
    "torch_geometric.data.batch": {"Batch", "DynamicInheritanceGetter"},
    "torch_geometric.data.data": {"Data", "DataEdgeAttr", "DataTensorAttr"},
    "torch_geometric.data.feature_store": {"TensorAttr"},
    "torch_geometric.data.graph_store": {"EdgeAttr", "EdgeLayout"},
    "torch_geometric.data.hetero_data": {"HeteroData"},
    "torch_geometric.data.storage": {"BaseStorage", "EdgeStorage", "GlobalStorage", "NodeStorage"},
    "torch_geometric.data.temporal": {"TemporalData"},
    "torch_geometric.inspector": {"Inspector", "Parameter", "Signature", "Type"},
}
# torch.nn.Module subclasses elsewhere in torch compile, trace, load archives or open connections.
_TORCH_MODULES = ("torch.nn.modules.", "torch.nn.parallel.data_parallel", "torch.ao.nn.")
_STORAGE_CLASS = type(torch.FloatStorage)
# What a call gives back and was there before.
_NEVER_MADE = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, enum.Enum)
_MISSING: Any = object()


@dataclasses.dataclass(frozen=True)
class _Token:
    """Stands for a function that is listed and not needed: its entry computes the value itself."""

    name: str


class Policy:
    """What one file may name, call, make and fill.

    Parameters
    ----------
    imports
        The user's own modules, by name; their classes and functions may be named and made.
    """

    def __init__(self, imports: Mapping[str, types.ModuleType] | None = None) -> None:
        self.imports = dict(imports or {})
        self._callable: dict[int, tuple[Any, str]] = {}  # id -> object, its name in CALLS
        self._classes: set[type] = set()  # named
        self._makeable: set[type] = set()  # of these, the ones that can be instantiated
        self._made: dict[int, Any] = {}  # what this file made, kept alive so that ids stay unique

    # -- naming ---------------------------------------------------------------------------------------------------

    def may_import(self, module: str) -> bool:
        """Return whether the policy could allow anything in a module: known without importing it."""
        return (
            module in _VALUES
            or module in _ENUMS
            or module in _HELPERS
            or any(name.rpartition(".")[0] == module for name in CALLS)
            or module in ("math", "operator", "__main__")
            or self.allows_module(module)
        )

    def allows_module(self, module: str) -> bool:
        """Return whether module classes that live in ``module`` are allowed."""
        top = module.partition(".")[0]
        if top in self.imports or (module == "__main__" and self.imports):
            return True
        if top in sys.stdlib_module_names or module.endswith("__main__"):
            return False
        return installed.is_installed(module)

    def find(self, module: str, name: str) -> Any:
        """Return the object a pickle names.

        Raises
        ------
        Forbidden
            If it is not known to be safe.
        BadInput
            If it is allowed and does not exist.
        """
        full = f"{module}.{name}"
        if full in CALLS:
            # NumPy has moved its helpers more than once; their entries need none of them.
            value = _Token(full) if module.startswith("numpy._core.") else _get(importlib.import_module(module), name)
            self._callable[id(value)] = (value, full)
            return self._named(value)
        if name in _VALUES.get(module, ()):
            return self._named(_get(importlib.import_module(module), name))
        if not self.may_import(module):
            raise Forbidden(full)
        value = self._user_value(module, name) if self._is_users(module) else self._installed_value(module, name)
        if value is _MISSING:
            raise Forbidden(full)
        if isinstance(value, type) and not (isinstance(value, _STORAGE_CLASS) or value is torch.UntypedStorage):
            self._makeable.add(value)
        return self._named(value)

    def _is_users(self, module: str) -> bool:
        return module == "__main__" or module.partition(".")[0] in self.imports

    def _user_value(self, module: str, name: str) -> Any:
        holders = list(self.imports.values()) if module == "__main__" else [importlib.import_module(module)]
        for holder in holders:
            value = _walk(holder, name)
            # What the file itself imported from elsewhere is not the user's.
            if isinstance(value, type | types.FunctionType) and value.__module__ == holder.__name__:
                return value
        return _MISSING

    def _installed_value(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "torch" and module not in sys.modules and not module.startswith(_TORCH_MODULES):
            return _MISSING  # nothing in there could be allowed
        try:
            holder = installed.import_module(module)
        except ImportError as error:
            raise BadInput(
                f"needs {module}, which cannot be imported: {error}",
                fix="install the version of the package that the file was saved with",
            ) from None
        value = _walk(holder, name)
        if value is _MISSING and not hasattr(holder, name.partition(".")[0]):
            raise BadInput(
                f"needs {module}.{name}, which the installed version does not have",
                fix=f"install the version of {module.partition('.')[0]} that the file was saved with",
            )
        allowed = _is_allowed_class(module, name, value) if isinstance(value, type) else _is_constant(value)
        return value if allowed or is_harmless_function(value) else _MISSING

    def _named(self, value: Any) -> Any:
        if isinstance(value, type):
            self._classes.add(value)
        return value

    def knows_class(self, cls: Any) -> bool:
        """Return whether the file named a class that was allowed."""
        return isinstance(cls, type) and cls in self._classes

    def allow_class(self, cls: type) -> type:
        """Let the file make and fill instances of a class that was built from checked code."""
        self._classes.add(cls)
        self._makeable.add(cls)
        return cls

    def class_at(self, module: str, qualname: str) -> type | None:
        """Return the class with a qualified name if it is allowed."""
        try:
            value = self.find(module, qualname)
        except (Forbidden, BadInput):
            return None
        return value if isinstance(value, type) else None

    def may_call(self, value: Any) -> bool:
        """Return whether a pickle may call an object that it named."""
        return id(value) in self._callable or (isinstance(value, type) and issubclass(value, enum.Enum))

    # -- calling, making, filling -----------------------------------------------------------------------------------

    def call(self, function: Any, args: Any) -> Any:
        """Call a listed function with checked arguments; everything else is forbidden."""
        if not isinstance(args, tuple):
            raise Forbidden(_describe(function), "called without arguments")
        if id(function) in self._callable:
            name = self._callable[id(function)][1]
            return self._remember_made(CALLS[name](self, args))
        if isinstance(function, type) and issubclass(function, enum.Enum) and self.knows_class(function):
            return enum_member(function, args)
        is_getter = _describe(type(function)) == "torch_geometric.data.batch.DynamicInheritanceGetter"
        if is_getter and id(function) in self._made and len(args) == 2 and all(map(self.knows_class, args)):
            return self._remember_made(function(*args))
        raise Forbidden(_describe(function), "called")

    def new(self, cls: Any, args: Any, kwargs: Any) -> Any:
        """Make an empty instance of an allowed class, without running its constructor."""
        known = isinstance(cls, type) and cls in self._makeable and not issubclass(cls, enum.Enum)
        if not known or not isinstance(args, tuple):
            raise Forbidden(_describe(cls), "made")
        is_record = issubclass(cls, tuple) and hasattr(cls, "_fields")
        if (args or kwargs) and not (is_record or self._is_users(cls.__module__)):
            raise Forbidden(_describe(cls), "made with arguments")
        return self._remember_made(cls.__new__(cls, *args, **kwargs))

    def build(self, instance: Any, state: Any) -> None:
        """Fill an instance that this file made."""
        cls = type(instance)
        if id(instance) not in self._made or isinstance(instance, type):
            raise Forbidden(_describe(instance), "given a state although the file did not make it")
        if isinstance(instance, torch.Tensor) or not _is_safe_array_state(instance, state):
            raise Forbidden(_describe(cls), "given a state that could reach memory outside it")
        # Looked up on the class: the file may have filled the instance with something called __setstate__.
        setter = inspect.getattr_static(cls, "__setstate__", None)
        if setter is not None:
            cls.__setstate__(instance, state)
            return
        slots = None
        if isinstance(state, tuple) and len(state) == 2:
            state, slots = state
        if state is not None:
            if not isinstance(state, dict) or not all(type(key) is str for key in state):
                raise Forbidden(_describe(cls), "given a state that is not a table of attributes")
            vars(instance).update({sys.intern(key): value for key, value in state.items()})
        for key, value in (slots or {}).items():
            if not isinstance(inspect.getattr_static(cls, key, None), types.MemberDescriptorType):
                raise Forbidden(_describe(cls), f"given a slot {key!r} that it does not have")
            object.__setattr__(instance, key, value)

    def _remember_made(self, value: Any) -> Any:
        if not isinstance(value, _NEVER_MADE):
            self._made[id(value)] = value
        return value

    def load_storage(self, data: bytes) -> Any:
        """Read the storage that a plain pickle holds as bytes."""
        from dcsurgery.files.safe_pickle import safe_load_bytes

        storage = safe_load_bytes(data, Policy())
        if not isinstance(storage, torch.UntypedStorage | torch.TypedStorage):
            raise Forbidden("torch.storage._load_from_bytes", "called with something other than tensor data")
        return storage


def _get(holder: Any, name: str) -> Any:
    value = _walk(holder, name)
    if value is _MISSING:
        raise BadInput(
            f"needs {holder.__name__}.{name}, which is not there in this version",
            fix="install the versions that the file was saved with",
        )
    return value


def _walk(holder: types.ModuleType, name: str) -> Any:
    """Return ``name`` in a module; a dotted name may pass only through classes."""
    value: Any = holder
    for position, part in enumerate(name.split(".")):
        if position and not isinstance(value, type):
            return _MISSING
        found = inspect.getattr_static(value, part, _MISSING) if position else getattr(value, part, _MISSING)
        if found is _MISSING or (position and not isinstance(found, type)):
            return _MISSING
        value = found
    return value


def _is_safe_array_state(instance: Any, state: Any) -> bool:
    if isinstance(instance, np.dtype):  # fields at chosen offsets could point anywhere
        return isinstance(state, tuple) and len(state) >= 8 and state[2:5] == (None, None, None)
    if isinstance(instance, np.ndarray):
        is_array = isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], np.dtype)
        return is_array and not state[2].hasobject and isinstance(state[4], bytes)
    return True


def _is_constant(value: Any) -> bool:
    return isinstance(value, torch.dtype | torch.layout | torch.memory_format)


def _is_allowed_class(module: str, name: str, value: type) -> bool:
    top = module.partition(".")[0]
    if name in _HELPERS.get(module, ()) or name in _ENUMS.get(module, ()):
        return True
    if issubclass(value, nn.Module):
        return top != "torch" or value.__module__.startswith(_TORCH_MODULES)
    if isinstance(value, _STORAGE_CLASS) or value is torch.UntypedStorage:
        return True
    if dataclasses.is_dataclass(value) and top != "torch" and top not in sys.stdlib_module_names:
        # A table of attributes, as long as restoring or dropping it runs no code of its own.
        own = [name for name in ("__setstate__", "__del__") if getattr(value, name, None) is not None]
        return top == "dcsurgery" or (not own and value.__new__ is object.__new__)
    return issubclass(value, enum.Enum) and top not in sys.stdlib_module_names


def _describe(value: Any) -> str:
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return f"{module}.{name}" if module and name else type(value).__qualname__
