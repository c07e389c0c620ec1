"""activation f → ∫₀ˣ f(t) dt as a module: continuous, 0 at 0, and with f itself as derivative.

Except for ReLU's, TorchScript can trace but not script these modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from dcsurgery.activations.functional import (
    integrated_elu,
    integrated_gelu,
    integrated_leaky_relu,
    integrated_relu2,
    integrated_sigmoid,
    integrated_silu,
    integrated_softplus,
    integrated_tanh,
)
from dcsurgery.activations.integrated_relu import IReLU
from dcsurgery.errors import BadInput

__all__ = ["INTEGRABLE", "Integrated", "integrate"]

# Each integrable activation but ReLU: the function and the settings that it takes, with torch's defaults.
INTEGRABLE: Mapping[str, tuple[Callable[..., Tensor], Mapping[str, float | str]]] = {
    "leaky_relu": (integrated_leaky_relu, {"negative_slope": 0.01}),
    "relu2": (integrated_relu2, {}),
    "elu": (integrated_elu, {"alpha": 1.0}),
    "silu": (integrated_silu, {}),
    "gelu": (integrated_gelu, {"approximate": "none"}),
    "softplus": (integrated_softplus, {"beta": 1.0, "threshold": 20.0}),
    "tanh": (integrated_tanh, {}),
    "sigmoid": (integrated_sigmoid, {}),
}
_KEYS = {name.replace("_", ""): name for name in ("relu", *INTEGRABLE)} | {"swish": "silu", "relu^2": "relu2"}


class Integrated(nn.Module):
    """Antiderivative of an activation, 0 at 0; made by `integrate`. No parameters and no buffers.

    Parameters
    ----------
    activation
        torch.nn.functional's name: ``leaky_relu``, ``elu``, ``silu``, ``gelu``, ``softplus``, ``tanh`` or ``sigmoid``; or
        ``relu2`` for the square of ReLU.
    **settings
        The activation's own settings, see `integrate`.

    Raises
    ------
    BadInput
        If there is no such activation, or it has no such setting.
    """

    def __init__(self, activation: str, **settings: float | str) -> None:
        super().__init__()
        if activation not in INTEGRABLE:
            raise BadInput(
                f"no antiderivative of {activation!r} is kept here", fix="make the module with dcsurgery's integrate()"
            )
        self.activation = activation
        self.settings = _checked(activation, settings)

    def forward(self, x: Tensor) -> Tensor:
        """Return the integral of the activation from 0 to each element of ``x``."""
        function, _ = INTEGRABLE[self.activation]
        return function(x, **self.settings)

    def extra_repr(self) -> str:
        """Show the activation and its settings."""
        return ", ".join([self.activation, *(f"{key}={value!r}" for key, value in self.settings.items())])


Integrated.__module__ = "dcsurgery.activations"


def integrate(name: str, **parameters: Any) -> nn.Module:
    """Return the antiderivative of an activation that is continuous and 0 at 0, as a module.

    Parameters
    ----------
    name
        ``relu``, ``leaky_relu``, ``relu^2`` (or ``relu2``), ``elu``, ``silu``, ``gelu``, ``softplus``, ``tanh`` or
        ``sigmoid``; class names (``SiLU``, ``nn.LeakyReLU``) do as well, and case does not matter.
    **parameters
        The activation's own: ``negative_slope`` (leaky_relu, 0.01), ``alpha`` (elu, 1), ``approximate`` (gelu,
        ``"none"`` or ``"tanh"``), ``beta`` (softplus, 1), ``inplace`` (relu, False). Softplus is integrated exactly;
        torch's ``threshold``, above which it returns its argument, is accepted from 20 up, where the two differ by
        less than 3e-9 / beta, and refused below.

    Returns
    -------
    nn.Module
        `IReLU` for ``relu``, else `Integrated`.

    Raises
    ------
    BadInput
        If the name is unknown (the message lists the names), or a parameter is unknown or out of range.

    Examples
    --------
    >>> integrate("SiLU")
    Integrated(silu)
    """
    known = ", ".join(("relu", *INTEGRABLE))
    if not isinstance(name, str):
        raise BadInput(f"an activation's name is text, got {type(name).__name__}", fix=f"use one of {known}")
    key = name.strip().lower().rsplit(".", 1)[-1].replace("_", "").replace("-", "")
    if key not in _KEYS:
        near = get_close_matches(key, _KEYS, n=1)
        hint = f"did you mean {_KEYS[near[0]]!r}? " if near else ""
        raise BadInput(f"no antiderivative is known for {name!r}", fix=f"{hint}known: {known}")
    activation = _KEYS[key]
    if activation != "relu":
        return Integrated(activation, **parameters)
    inplace = parameters.pop("inplace", False)
    if parameters or not isinstance(inplace, bool):
        raise BadInput("relu has one setting, inplace=True or False", where="integrate", fix="drop the others")
    return IReLU(inplace=inplace)


def _checked(activation: str, settings: Mapping[str, Any]) -> dict[str, float | str]:
    """Return the settings that the function is called with: those that differ from its defaults."""
    _, defaults = INTEGRABLE[activation]
    kept: dict[str, float | str] = {}
    for key, value in settings.items():
        if key not in defaults:
            takes = ", ".join(defaults) or "none"
            raise BadInput(f"{activation} has no setting {key!r}", where="integrate", fix=f"its settings: {takes}")
        if key == "approximate":
            good = value in ("none", "tanh")
        else:
            good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or (key == "beta" and value == 0):
            wants = "'none' or 'tanh'" if key == "approximate" else "a finite number" + ", not 0" * (key == "beta")
            raise BadInput(f"{key} of {activation} is {value!r}", where="integrate", fix=f"give {wants}")
        if key == "threshold" and value < 20:
            raise BadInput(
                f"softplus is integrated exactly, but with threshold={value!r} torch's is another function",
                where="integrate",
                fix="leave threshold out, or give 20 or more",
            )
        if key != "threshold" and value != defaults[key]:
            kept[key] = value if isinstance(value, str) else float(value)
    return kept
