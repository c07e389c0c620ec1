"""What a row of the catalog is, and what looking something up in it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dcsurgery.sites import Role

__all__ = ["Match", "Operator"]


@dataclass(frozen=True)
class Operator:
    """One row: everything that counts as one activation, gate, basis or normalization.

    Attributes
    ----------
    name
        For instance ``silu`` or ``batch_norm``.
    role
        ``activation``, ``gate``, ``basis`` or ``normalization``.
    modules
        Import paths of classes, ``*`` allowed. They are compared with the names of an object's classes, so that no
        optional package is ever imported.
    functions
        Import paths of callables, as the defining module names them. Those of an optional package are looked up only
        once that package has been imported by someone else.
    methods
        Names of `torch.Tensor` methods, in-place ones included.
    kernels
        Names of the ATen operators it can execute as, without namespace, overload and in-place underscore: what
        remains visible below autograd, and the composites that inference mode and the profiler show.
    parameters
        Names of the settings to report.
    returns
        For a normalization: which positional tensor argument comes out when it is deleted.
    reference
        Evaluates it on a tensor, with its settings as keyword arguments; None where behaviour alone does not name it.
    variants
        Settings with which ``reference`` is another curve, not one with other scales; the default settings first.
    gain
        False where ``reference(g * x)`` shows no g, or none that a grid can resolve (ReLU, hardshrink).
    reason
        For gates and bases: why it is not rewritten by default.
    """

    name: str
    role: Role
    modules: tuple[str, ...] = field(default=(), repr=False)
    functions: tuple[str, ...] = field(default=(), repr=False)
    methods: tuple[str, ...] = field(default=(), repr=False)
    kernels: tuple[str, ...] = field(default=(), repr=False)
    parameters: tuple[str, ...] = field(default=(), repr=False)
    returns: int = field(default=0, repr=False)
    reference: Callable[..., Tensor] | None = field(default=None, repr=False)
    variants: tuple[Mapping[str, Any], ...] = field(default=({},), repr=False)
    gain: bool = field(default=True, repr=False)
    reason: str = field(default="", repr=False)

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True)
class Match:
    """An object found in the catalog.

    Attributes
    ----------
    operator
        The row.
    parameters
        The settings that are known, as plain JSON types; for a match by behaviour also ``scale``, ``shift`` and
        ``gain`` (y = scale * f(gain * x) + shift) where they are not 1, 0 and 1.
    match
        ``listed``, or how its behaviour matches, for instance ``behaves as 1.667 * silu(x)``.
    """

    operator: Operator
    parameters: dict[str, Any] = field(default_factory=dict)
    match: str = "listed"
