"""What the options ask for, as passes."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcsurgery.errors import BadInput
from dcsurgery.selectors import SCOPES, Selection

if TYPE_CHECKING:
    from torch import nn

    from dcsurgery.census import Census
    from dcsurgery.passes.base import Pass
    from dcsurgery.passes.pipeline import Pipeline
    from dcsurgery.plans import Plan

__all__ = ["Request"]

_AUTO = "auto:"


@dataclass(frozen=True)
class Request:
    """The edits that were asked for, as they were written."""

    irelu: bool
    denorm: bool
    rescale: str | None
    activation: str | None
    gates: bool
    outputs: tuple[str, ...]
    scope: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    allow_empty: bool
    recipe: str | None = None

    def check(self) -> None:
        """Raise BadInput for whatever is wrong before the model has been read."""
        if self.recipe is None:
            self.pipeline()
            return
        given = {"--irelu": self.irelu, "--denorm": self.denorm, "--scope": self.scope != SCOPES[0]}
        idle = [name for name, asked in given.items() if asked]
        if idle:
            raise BadInput(f"{idle[0]} and --recipe exclude each other: a recipe says which edits", fix="leave one out")
        recipes = _recipes()
        if self.recipe not in recipes.RECIPES:
            recipes.recipe("", self.recipe)

    def plan(self, model: nn.Module, census: Census) -> Plan:
        """Plan the edits of a model, those of a recipe if one was asked for."""
        if self.recipe is None:
            return self.pipeline().plan(model, census=census)
        values = _recipes().recipe(model, self.recipe)
        completed = replace(self, recipe=None, irelu=values["irelu"], denorm=values["denorm"], scope=values["scope"])
        return completed.pipeline().plan(model, census=census)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the options name: the one of ``--rescale auto:FILE``."""
        text = self.rescale or ""
        return (Path(text.removeprefix(_AUTO)),) if text.startswith(_AUTO) else ()

    def pipeline(self) -> Pipeline:
        """Return the passes; none at all is the identity.

        Raises
        ------
        BadInput
            If a value is wrong, or an option would have no effect.
        """
        from dcsurgery.passes import Denormalize, Pipeline, ReplaceActivations, RescaleLabels
        from dcsurgery.rescale import parse_rescale

        selection = Selection.of(self.scope, self.include, self.exclude)
        self._refuse_idle_options()
        passes: list[Pass] = []
        if self._replaces:
            passes.append(ReplaceActivations(self.activation or "irelu", gates=self.gates))
        if self.denorm:
            passes.append(Denormalize())
        for entry in passes:
            entry.selection = selection
        if self.rescale is not None:
            chosen = [_position_or_name(text) for text in self.outputs] or None
            passes.append(RescaleLabels(parse_rescale(self.rescale), chosen))
        return Pipeline(passes, allow_empty=self.allow_empty)

    @property
    def _replaces(self) -> bool:
        return self.irelu or self.activation is not None

    def _refuse_idle_options(self) -> None:
        """An option without effect is a misunderstanding, and must not pass for a choice."""
        selecting = {"--include": self.include, "--exclude": self.exclude, "--scope": self.scope != SCOPES[0]}
        idle = [name for name, given in selecting.items() if given and not (self._replaces or self.denorm)]
        if idle:
            raise BadInput(
                f"{idle[0]} selects sites, and no edit of sites was asked for", fix="add --irelu or --denorm"
            )
        if self.gates and not self._replaces:
            raise BadInput("--gates is about replacing activations, which was not asked for", fix="add --irelu")
        if self.outputs and self.rescale is None:
            raise BadInput("--outputs is about rescaling labels, which was not asked for", fix="add --rescale C")


def _recipes() -> Any:
    # By name: the zoo can be left out.
    return importlib.import_module("dcsurgery.zoo.recipes")


def _position_or_name(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text
