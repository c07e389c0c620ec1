"""Names of the activations that surgery can put in, for command lines and plans."""

from __future__ import annotations

import ast
from difflib import get_close_matches
from typing import Any

from torch import nn

from dcsurgery.activations.integrals import INTEGRABLE, Integrated, integrate
from dcsurgery.activations.integrated_relu import IReLU
from dcsurgery.errors import BadInput
from dcsurgery.subclass import original_class

__all__ = ["ACTIVATION_NAMES", "activation_by_name", "name_of"]

_PREFIX = "integrated-"
ACTIVATION_NAMES: tuple[str, ...] = ("irelu", *(_PREFIX + name.replace("_", "-") for name in INTEGRABLE))


def activation_by_name(name: str) -> nn.Module:
    """Return a new activation module.

    Parameters
    ----------
    name
        One of `ACTIVATION_NAMES`, in any case and with ``_`` or ``-``; settings may follow in parentheses, as in
        ``integrated-softplus(beta=2.0)``. ``integrated-relu`` is another name of ``irelu``, and
        ``integrated-relu^2`` of ``integrated-relu2``.

    Raises
    ------
    BadInput
        If there is no such activation or setting; the message has the nearest name.
    """
    if not isinstance(name, str):
        raise BadInput(
            f"an activation's name is text, got {type(name).__name__}", fix=f"use one of {', '.join(ACTIVATION_NAMES)}"
        )
    head, parenthesis, rest = name.strip().partition("(")
    known = head.strip().lower().replace("_", "-")
    known = {_PREFIX + "relu": "irelu", _PREFIX + "relu^2": _PREFIX + "relu2"}.get(known, known)
    if known not in ACTIVATION_NAMES:
        near = get_close_matches(known, ACTIVATION_NAMES, n=1) or get_close_matches(
            _PREFIX + known, ACTIVATION_NAMES, 1
        )
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise BadInput(f"no activation is named {name!r}", fix=f"{hint}known: {', '.join(ACTIVATION_NAMES)}")
    settings = _settings(name, parenthesis + rest) if parenthesis else {}
    return integrate("relu" if known == "irelu" else known.removeprefix(_PREFIX), **settings)


def name_of(module: nn.Module) -> str:
    """Return the name that `activation_by_name` knows, or the class name of any other module."""
    cls = original_class(module)
    if cls is IReLU:
        return "irelu(inplace=True)" if module.inplace else "irelu"
    if cls is Integrated and isinstance(module, Integrated):
        settings = ", ".join(f"{key}={value!r}" for key, value in module.settings.items())
        return _PREFIX + module.activation.replace("_", "-") + (f"({settings})" if settings else "")
    return cls.__name__


def _settings(name: str, text: str) -> dict[str, Any]:
    """Read ``(key=value, …)``."""
    try:
        call = ast.parse("settings" + text, mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
            pairs = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
            if None not in pairs:  # that would be **mapping
                return {str(key): value for key, value in pairs.items()}
    except (SyntaxError, ValueError):
        pass
    raise BadInput(f"cannot read the settings in {name!r}", fix="write them like integrated-softplus(beta=2.0)")
