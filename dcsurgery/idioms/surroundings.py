"""What the names in a function stand for before it runs: globals, its closure, and plain attributes of its module."""

from __future__ import annotations

import builtins
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

__all__ = ["UNKNOWN", "Surroundings", "told"]

UNKNOWN: Any = object()


@dataclass
class Surroundings:
    """Names of one function on one module.

    Attributes
    ----------
    namespace
        The function's globals.
    closure
        Its free variables that are filled.
    module
        What its first argument is, if that is a module.
    self_name
        The name of that argument.
    asked
        What was looked up on the module and in the closure, and what it was. Where this is the same, the function
        has the same idioms.
    """

    namespace: Mapping[str, Any]
    closure: Mapping[str, Any]
    module: nn.Module | None = None
    self_name: str = ""
    asked: dict[tuple[str, str], Any] = field(default_factory=dict)

    @staticmethod
    def of_function(function: types.FunctionType, module: nn.Module | None) -> Surroundings:
        """Return the surroundings of a live function; ``module`` is its first argument, or None."""
        closure = {}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                closure[name] = cell.cell_contents
            except ValueError:  # not filled yet
                continue
        names = function.__code__.co_varnames[:1]
        return Surroundings(function.__globals__, closure, module, names[0] if names and module is not None else "")

    @staticmethod
    def of_frame(frame: types.FrameType) -> Surroundings:
        """Return the surroundings of a function that runs."""
        code, values = frame.f_code, frame.f_locals
        closure = {name: values[name] for name in code.co_freevars if name in values}
        first = code.co_varnames[0] if code.co_argcount else ""
        module = values.get(first)
        found = module if isinstance(module, nn.Module) else None
        return Surroundings(frame.f_globals, closure, found, first if found is not None else "")

    def named(self, name: str) -> Any:
        """Return what a name that is not local stands for, `UNKNOWN` where that is open."""
        if name == self.self_name and self.module is not None:
            return self.module
        if name in self.closure:
            return self._note("closure", name, self.closure[name])
        return self.namespace.get(name, getattr(builtins, name, UNKNOWN))

    def attribute(self, name: str) -> Any:
        """Return an attribute of the module that is there before it runs: a setting, a child, a callable, a tensor."""
        module = self.module
        if module is None:
            return UNKNOWN
        for table in (module._modules, module._parameters, module._buffers):
            if table.get(name) is not None:
                return self._note("attribute", name, table[name])
        held = vars(module).get(name, getattr(type(module), name, UNKNOWN))
        is_set_before = isinstance(held, int | float) or callable(held)  # a tensor is what a run left there
        return self._note("attribute", name, held if is_set_before else UNKNOWN)

    def is_same(self, asked: Mapping[tuple[str, str], Any]) -> bool:
        """Say whether another function's questions have the same answers here."""
        lookup = {"closure": lambda name: self.closure.get(name, UNKNOWN), "attribute": self.attribute}
        return all(told(lookup[kind](name)) == before for (kind, name), before in asked.items())

    def _note(self, kind: str, name: str, value: Any) -> Any:
        self.asked[kind, name] = told(value)
        return value


def told(value: Any) -> Any:
    """Return what is kept of a value, to compare another one with: settings by value, the rest by kind or identity."""
    if isinstance(value, nn.Module):
        settings = tuple(sorted((k, v) for k, v in vars(value).items() if isinstance(v, int | float | str)))
        return (type(value), settings)
    if isinstance(value, Tensor):
        return type(value)
    return value if isinstance(value, int | float | str) else id(value)
