"""Functions that belong to one module object and not to its class: its forward hooks, and a patched ``forward``.

No subclass can change them, so an edited copy takes the function's place on the module.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from torch import nn

from dcsurgery.rewriting import CallEdit, RewriteCalls
from dcsurgery.sites import CallStep
from dcsurgery.source import CodeKey, code_key

__all__ = [
    "EditedFunction",
    "has_instance_functions",
    "instance_edits",
    "instance_functions",
    "instance_owner",
    "instance_roots",
    "replace_instance_functions",
]

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


class EditedFunction:
    """A hook or a ``forward`` with some calls changed; it is pickled as the original and the changes.

    Parameters
    ----------
    function
        The original: a function, a method, or a partial of one.
    amendment
        The changed calls.
    """

    def __init__(self, function: Callable[..., Any], amendment: RewriteCalls) -> None:
        self.function = function
        self.amendment = amendment
        self._edited = amendment.rewritten(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the edited function."""
        return self._edited(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return EditedFunction, (self.function, self.amendment)


def instance_functions(module: nn.Module) -> Iterator[tuple[MutableMapping[Any, Any], Any, Any]]:
    """Yield table, key and value of every function that stands on the module itself."""
    own: dict[str, Any] = vars(module)
    if _function_of(own.get("forward")) is not None:
        yield own, "forward", own["forward"]
    for name in _HOOKS:
        for key, value in own.get(name, {}).items():
            if _function_of(value) is not None:
                yield own[name], key, value


def instance_owner(module: Any, code: types.CodeType) -> bool:
    """Say whether a code object is a hook or the patched ``forward`` of a module."""
    if not isinstance(module, nn.Module):
        return False
    return any(code is found.__code__ for found in _functions(module))


def has_instance_functions(module: nn.Module) -> bool:
    """Say whether hooks or a patched ``forward`` stand on a module."""
    return next(instance_functions(module), None) is not None


def instance_edits(module: nn.Module) -> list[CallEdit]:
    """Return the calls that have been changed in a module's own functions."""
    held = (value for _, _, value in instance_functions(module))
    return [edit for value in held if isinstance(value, EditedFunction) for edit in value.amendment.edits]


def instance_roots(module: nn.Module) -> list[types.FunctionType]:
    """Return the functions that stand on the module itself, for a scan of their source."""
    return list(_functions(module))


def replace_instance_functions(module: nn.Module, amendment: RewriteCalls) -> Callable[[], None]:
    """Put edited copies of a module's own functions where the amendment changes calls in them; return the undo."""
    wanted = {_key(chain[0]) for edit in amendment.edits for chain in edit.chains}
    changed = []
    for table, key, value in list(instance_functions(module)):
        function = _function_of(value)
        if function is not None and code_key(function.__code__) in wanted:
            changed.append((table, key, value))
            table[key] = EditedFunction(_original(value), _joined(value, amendment))

    def undo() -> None:
        for table, key, value in changed:
            table[key] = value

    return undo


def _joined(value: Any, amendment: RewriteCalls) -> RewriteCalls:
    earlier = value.amendment.edits if isinstance(value, EditedFunction) else ()
    return RewriteCalls.of([*earlier, *amendment.edits])


def _original(value: Any) -> Callable[..., Any]:
    return value.function if isinstance(value, EditedFunction) else value


def _key(step: CallStep) -> CodeKey:
    return CodeKey(step.function, step.first_line)


def _functions(module: nn.Module) -> Iterator[types.FunctionType]:
    for _, _, value in instance_functions(module):
        function = _function_of(value)
        if function is not None:
            yield function


def _function_of(value: Any) -> types.FunctionType | None:
    """Return the Python function behind a hook or a ``forward``: through methods, partials and edited ones."""
    if isinstance(value, EditedFunction):
        value = value.function
    while isinstance(value, functools.partial):
        value = value.func
    value = getattr(value, "__func__", value)
    return value if isinstance(value, types.FunctionType) else None
