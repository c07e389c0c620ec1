"""Variants of a model that a training compares: the original, and what surgery makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

import dcsurgery as dcs
from dcsurgery.errors import BadInput
from dcsurgery.zoo.potentials import example_inputs
from dcsurgery.zoo.recipes import recipe

__all__ = ["GRID", "ORIGINAL", "Variant", "operate"]

_PARTS = ("irelu", "denorm", "rescale")


@dataclass(frozen=True)
class Variant:
    """What is done to a model before it is trained.

    Attributes
    ----------
    irelu, denorm, rescale
        Replace activations by IReLU, delete normalizations, rescale labels.
    """

    irelu: bool = False
    denorm: bool = False
    rescale: bool = False

    @property
    def name(self) -> str:
        """``original``, or its parts joined by ``+``: ``irelu``, ``denorm+rescale``, ..."""
        return "+".join(part for part in _PARTS if getattr(self, part)) or "original"

    @classmethod
    def named(cls, name: str) -> Variant:
        """Return the variant of a name.

        Raises
        ------
        BadInput
            If a part of it is unknown.
        """
        parts = [] if name == "original" else name.split("+")
        unknown = [part for part in parts if part not in _PARTS]
        if unknown or len(set(parts)) != len(parts):
            fix = f"write original, or some of {', '.join(_PARTS)} joined by +"
            raise BadInput(f"unknown variant {name!r}", fix=fix)
        return cls(**dict.fromkeys(parts, True))


ORIGINAL = Variant()

#: The four columns of the paper's ablations (Tables 1, 7, 8 and 9 compare two of them each).
GRID = (ORIGINAL, Variant(irelu=True), Variant(denorm=True, rescale=True), Variant(True, True, True))


def operate(model: nn.Module, name: str, variant: Variant, how: str, C: float, batch: Any) -> dcs.Surgery:
    """Transform a model into a variant, with all checks.

    Parameters
    ----------
    model
        The original; it is not changed.
    name
        Its name in the registry.
    variant
        Not the original.
    how
        ``paper`` edits the sites that the paper edits (`dcsurgery.zoo.recipe`), ``all`` every site.
    C
        Label scale, for variants that rescale.
    batch
        Structures to run it on.

    Raises
    ------
    SurgeryError
        If nothing matches or a check fails.
    """
    if how not in ("paper", "all"):
        raise BadInput(f"unknown recipe {how!r}", fix="use 'paper' or 'all'")
    sites = {}
    if how == "paper":
        sites = {key: value for key, value in recipe(name).items() if key in ("scope", "include", "exclude")}
    return dcs.transform(
        model,
        irelu=variant.irelu,
        denorm=variant.denorm,
        rescale=C if variant.rescale else None,
        example_inputs=example_inputs(model, batch),
        **sites,
    )
