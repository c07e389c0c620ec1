"""The paper's edits of each model, by name: what ``--recipe paper`` does."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

import dcsurgery as dcs
from dcsurgery.errors import BadInput
from dcsurgery.zoo import registry

__all__ = ["RECIPES", "recipe"]

RECIPES = ("paper",)


def recipe(model: str | nn.Module, name: str = "paper", *, labels: Any = None) -> dict[str, Any]:
    """Return keywords of `dcsurgery.transform` and `dcsurgery.plan`.

    ``paper`` is what Lo & Huang (arXiv:2310.01649, section 5.1.1) do: IReLU everywhere in SchNet, CGCNN and ForceNet, in
    the output blocks of DimeNet++ and GemNet; no normalization where there is one. The third edit, label rescaling,
    depends on the data.

    Parameters
    ----------
    model
        Name in the registry, or a model that the zoo built or loaded.
    name
        Name of the recipe.
    labels
        All labels, energies and forces, as a sequence of arrays; their scale C (Eq. 4) is among the keywords then.

    Raises
    ------
    BadInput
        If there is no such recipe, or the zoo does not know the model.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        raise BadInput(
            f"unknown recipe {name!r}", fix=f"did you mean {near[0]}?" if near else f"there is: {', '.join(RECIPES)}"
        )
    known = model if isinstance(model, str) else registry.name_of(model)
    if known is None:
        raise BadInput(
            f"there is no recipe for {type(model).__name__}, which is not a model of the zoo",
            fix="say which edits: irelu, denorm, scope",
        )
    found = dict(registry.entry_of(known).recipe)
    if labels is not None:
        found["rescale"] = dcs.rescale_constant(*labels)
    return found
