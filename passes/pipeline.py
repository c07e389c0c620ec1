"""``Pipeline([pass, pass, …])(model, example_inputs)``: plan, apply and check several passes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from dcsurgery.census import Census, take_census
from dcsurgery.errors import BadInput, NothingMatched
from dcsurgery.identity import fingerprint_of
from dcsurgery.models import as_module
from dcsurgery.passes.base import Pass, PassPlan
from dcsurgery.plans import Edit, Plan
from dcsurgery.selectors import NAME_THEM, OUTPUT_BLOCKS, Rule, Selection
from dcsurgery.subclass import original_class

if TYPE_CHECKING:
    from dcsurgery.surgery import Surgery

__all__ = ["Pipeline"]


class Pipeline:
    """Passes that are planned on one census and applied in their order.

    Parameters
    ----------
    passes
        The passes; none at all is the identity.
    allow_empty
        A plan without edits although passes were given is no error.
    """

    def __init__(self, passes: Sequence[Pass], *, allow_empty: bool = False) -> None:
        for entry in passes:
            if not isinstance(entry, Pass):
                raise BadInput(f"not a pass: {entry!r}", fix="give instances of dcsurgery.passes.Pass")
        self.passes = tuple(passes)
        self.allow_empty = allow_empty

    @property
    def preserves(self) -> frozenset[str]:
        """What every pass of the pipeline preserves."""
        kept = frozenset({"values", "derivatives", "keys"})
        for entry in self.passes:
            kept &= entry.preserves
        return kept

    def plan(self, model: nn.Module, example_inputs: Any = None, *, census: Census | None = None) -> Plan:
        """Plan every pass; changes nothing.

        Raises
        ------
        NothingMatched
            If there are passes and none of them has an edit.
        """
        model = as_module(model)
        if census is None:
            census = take_census(model, example_inputs)
        edits: list[Edit] = []
        notes: list[str] = []
        unedited: list[str] = []
        for entry in self.passes:
            part = _tolerantly(entry, model, census) if self.allow_empty else entry.plan(model, census)
            clash = {edit.site for edit in part.edits if edit.site} & {edit.site for edit in edits if edit.site}
            if clash:
                raise BadInput(
                    f"two passes edit the same site: {', '.join(sorted(clash)[:3])}", fix="exclude it from one of them"
                )
            edits += part.edits
            notes += part.notes
            unedited += part.unedited
            if not part.edits:
                notes.append(f"{type(entry).__name__} matched nothing")
        if self.passes and not edits and not unedited and not self.allow_empty:
            raise _nothing(self.passes, census, notes)
        return Plan(
            tuple(edits),
            original_class(model).__name__,
            fingerprint_of(model),
            {"passes": [_describe(entry) for entry in self.passes]},
            tuple(dict.fromkeys(notes)),  # passes often share their selectors
            tuple(unedited),
        )

    def __call__(self, model: nn.Module, example_inputs: Any = None, *, inplace: bool = False) -> Surgery:
        """Plan, apply and check.

        Raises
        ------
        CheckFailed
            If a check of the edited model fails; the error carries the report.
        """
        from dcsurgery.surgery import operate

        return operate(model, self, example_inputs, inplace=inplace)


def _nothing(passes: Sequence[Pass], census: Census, notes: Sequence[str]) -> NothingMatched:
    """Return the error of a plan without edits."""
    scoped = any(entry.selection.scope == OUTPUT_BLOCKS for entry in passes)
    if scoped and len(census) and not any(site.in_output_block for site in census):
        return NothingMatched("no output block was found", where=census.model, fix=NAME_THEM)
    roles = f"{len(census.activations)} activations, {len(census.normalizations)} normalizations"
    return NothingMatched(
        f"no site matched any of the edits ({'; '.join(notes)})",
        where=census.model,
        fix=f"the model has {roles}; see dcsurgery inspect, or allow an empty plan (--allow-empty)",
    )


def _tolerantly(entry: Pass, model: nn.Module, census: Census) -> PassPlan:
    """Plan a pass with the rules that match something; the others become notes."""
    notes: list[str] = []

    def present(kind: str, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        kept = []
        for rule in rules:
            try:
                Selection(**{kind: (rule,)}).select(census.sites)  # type: ignore[arg-type]
                kept.append(rule)
            except NothingMatched as error:
                notes.append(str(error))
        return tuple(kept)

    asked = entry.selection
    selection = replace(asked, include=present("include", asked.include), exclude=present("exclude", asked.exclude))
    if asked.include and not selection.include:  # no rule at all would select everything
        return PassPlan(notes=tuple(notes))
    tolerant = copy.copy(entry)
    tolerant.selection = selection
    part = tolerant.plan(model, census)
    return replace(part, notes=(*part.notes, *notes))


def _describe(entry: Pass) -> dict[str, Any]:
    described = {"pass": type(entry).__name__, **entry.selection.describe()}
    for name in ("name", "gates", "C"):
        if hasattr(entry, name):
            described[{"name": "activation"}.get(name, name)] = getattr(entry, name)
    return described
