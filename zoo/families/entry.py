"""What the zoo knows of a model: class, backend, sizes, forces, output blocks, the paper's edits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Any, Literal

from torch import nn

from dcsurgery.zoo import backends

__all__ = ["FORCES", "Entry", "ForceKind", "Size", "frozen", "frozen_counts"]

Size = Literal["small", "paper"]
ForceKind = Literal["exact", "detached-angles", "feature-gradient", "none"]

#: What each kind of force means.
FORCES: Mapping[ForceKind, str] = MappingProxyType(
    {
        "exact": "the gradient of the energy",
        "detached-angles": "the gradient without that of the angles; consistent=True gives all of it",
        "feature-gradient": "its own differentiate features; the zoo's are the gradient of the energy",
        "none": "no potential: a PINN, which maps coordinates to fields",
    }
)


@dataclass(frozen=True)
class Entry:
    """A model that the zoo builds.

    Attributes
    ----------
    name
        What `build` and a checkpoint's ``config`` call it.
    backend
        Library whose layers it is made of, see `dcsurgery.zoo.backends`.
    class_path
        ``module:class``.
    description
        One line.
    sizes
        Constructor values of each size: ``paper`` as published (Lo & Huang, arXiv:2310.01649, or, where the paper does
        not use the model, OCP's S2EF settings), ``small`` trains in seconds on a CPU.
    counts
        Number of parameters of each size, those included that are not trained.
    output_blocks
        Attributes of the model that hold its output blocks.
    force
        What forces the model has, see `FORCES`.
    recipe
        The paper's edits, as keywords of `dcsurgery.transform`; the label scale C comes from the data.
    fairchem_name
        Name in fairchem's own registry; empty for other backends.
    """

    name: str
    backend: str
    class_path: str
    description: str
    sizes: Mapping[str, Mapping[str, Any]] = field(repr=False)
    counts: Mapping[str, int] = field(repr=False, default_factory=dict)
    output_blocks: tuple[str, ...] = ()
    force: ForceKind = "exact"
    recipe: Mapping[str, Any] = field(repr=False, default_factory=dict)
    fairchem_name: str = ""

    @property
    def model_class(self) -> type[nn.Module]:
        """The class; its library is imported here.

        Raises
        ------
        BadInput
            If the library is not installed.
        """
        backends.require(self.backend)
        module, name = self.class_path.split(":")
        return getattr(import_module(module), name)

    @property
    def missing(self) -> str | None:
        """What to install before the model can be built; None if nothing is missing."""
        return backends.missing(self.backend)

    def parameters(self, size: str) -> int:
        """Return the number of parameters, those included that are not trained."""
        return self.counts[size]


def frozen(**sizes: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return a mapping that cannot be changed, nor its values."""
    return MappingProxyType({name: MappingProxyType(dict(values)) for name, values in sizes.items()})


def frozen_counts(**counts: int) -> Mapping[str, int]:
    """Return numbers of parameters by size; a test builds every model and counts."""
    return MappingProxyType(counts)
