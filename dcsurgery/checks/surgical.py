"""Every check of one edited model against its original, in the order in which they are reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from dcsurgery.capture.graphs import Key
from dcsurgery.census import Census, site_key
from dcsurgery.checks.derivatives import check_edit_derivatives
from dcsurgery.checks.forces import check_forces
from dcsurgery.checks.graphs import check_graphs, leaves_of
from dcsurgery.checks.identity import check_identity, check_undo
from dcsurgery.checks.jets import check_jets
from dcsurgery.checks.modes import check_modes
from dcsurgery.checks.outputs import check_finite, without_numbers
from dcsurgery.checks.reload import check_reload
from dcsurgery.checks.residual import check_known, check_others, check_profiler, check_reached, check_residual
from dcsurgery.checks.running import watched, watched_with_new_values
from dcsurgery.checks.structure import check_keys, check_structure
from dcsurgery.checks.values import check_sizes, check_values
from dcsurgery.errors import BadInput
from dcsurgery.oracle import Watched
from dcsurgery.plans import Plan
from dcsurgery.report import Check
from dcsurgery.surgery import Surgery

__all__ = ["NOTHING_RUN", "Comparison", "EditedFails", "check_surgery"]

NOTHING_RUN = "nothing was run: give example inputs (--inputs FILE) to prove the edit"
_PDE_ORDER = 3
_REPEATED = ("other mode", "other size", "identity", "undo")
_SLOW = 2.0  # seconds of one watched run: beyond it, a transform leaves what runs a model often to `verify`
_RUNS = ("residual", "known sites", "other sites", "graph equals plan", "finite", "value witness", "gradcheck")


@dataclass(frozen=True)
class Comparison:
    """An original, an edited model, what was edited, and inputs to run both on."""

    original: nn.Module
    edited: nn.Module
    plan: Plan
    census: Census
    example_inputs: Any

    @property
    def edited_sites(self) -> set[Key]:
        """The places of all edits."""
        return {site_key(edit.place) for edit in self.plan.edits if edit.place is not None}

    @property
    def selected(self) -> set[Key]:
        """The places whose operator must not run any more."""
        edits = [edit for edit in self.plan.edits if edit.place is not None and leaves_of(edit) != "operator"]
        return {site_key(edit.place) for edit in edits if edit.place is not None}

    def static(self) -> list[Check]:
        """Check what can be seen without a run."""
        return [
            check_keys(self.original, self.edited, self.plan.edits),
            check_structure(self.original, self.edited),
        ]

    def without_inputs(self) -> list[Check]:
        """Return the checks that need a run: skipped, but for sites that are known to be there still."""
        checks = [Check(name, "skip", reason="no example inputs") for name in _RUNS]
        if self.plan.unedited:
            left = "; ".join(f"{name} (not edited)" for name in self.plan.unedited)
            checks[0] = Check("residual", "fail", len(self.plan.unedited), 0, left)
        return checks

    def run(self) -> tuple[Watched, Watched, float]:
        """Run both models, and tell how many seconds the faster one took.

        Raises
        ------
        BadInput
            If the original does not accept the inputs.
        EditedFails
            If the edited one does not.
        """
        begun = time.perf_counter()
        before = watched(self.original, self.example_inputs)
        between = time.perf_counter()
        try:
            after = watched(self.edited, self.example_inputs, before.recording.calls)
        except BadInput as error:
            raise EditedFails(error.message, where=error.where, fix=error.fix) from error
        # The first run of all loads what torch loads lazily.
        return before, after, min(between - begun, time.perf_counter() - between)

    def of_runs(self, before: Watched, after: Watched) -> list[Check]:
        """Check what the runs executed and what came out."""
        original, edited, plan, inputs = self.original, self.edited, self.plan, self.example_inputs
        others, graphs = _unchanged(original, before, after, plan, self.edited_sites, inputs)
        return [
            check_residual(before, after, self.selected, plan, edited, inputs),
            check_known(before, after, self.census),
            check_reached(self.census, plan),
            others,
            check_profiler(before, original, after, edited, plan, inputs),
            graphs,
            check_finite(after.output),
        ]

    def of_values(self, before: Watched, order: int, witness_order: int = 3) -> list[Check]:
        """Check values and derivatives."""
        original, edited, plan, inputs = self.original, self.edited, self.plan, self.example_inputs
        values = check_values(original, edited, plan.edits, before.recording, inputs, witness_order)
        jets = check_jets(edited, inputs, original)
        if jets.status == "fail" and values.status == "pass" and witness_order >= _PDE_ORDER:
            # Then the fault is in what was not edited: torch's own third derivative of layer_norm is wrong, for instance.
            jets = replace(jets, status="skip", reason=f"{jets.reason}; the value witness has the same derivatives")
        return [
            values,
            *check_edit_derivatives(original, edited, inputs, order),
            check_forces(edited, inputs, original),
            jets,
        ]

    @staticmethod
    def refused(before: Watched, after: Watched) -> list[Check]:
        """Return the skipped checks of values where an output holds none; empty where both have numbers."""
        unreal = without_numbers(before.output) or without_numbers(after.output)
        names = ("value witness", "gradcheck", "forces", "PDE order", *_REPEATED, "reload")
        return [Check(name, "skip", reason=unreal) for name in names] if unreal else []

    def repeated(self, before: Watched) -> Iterator[tuple[str, Callable[[], Check]]]:
        """Yield the checks that run the models several times more, by name."""
        original, edited, plan, inputs = self.original, self.edited, self.plan, self.example_inputs
        checks: tuple[Callable[[], Check], ...] = (
            lambda: check_modes(original, edited, plan, self.selected, self.edited_sites, inputs),
            lambda: check_sizes(original, edited, plan.edits, before.recording, inputs),
            lambda: check_identity(original, inputs),
            lambda: check_undo(original, plan, inputs),
        )
        yield from zip(_REPEATED, checks, strict=True)


class EditedFails(BadInput):
    """The edited model does not run where the original does."""


def check_surgery(
    original: nn.Module, surgery: Surgery, census: Census, example_inputs: Any
) -> tuple[list[Check], list[str]]:
    """Run every check that the inputs allow.

    Parameters
    ----------
    original
        The model before the edits.
    surgery
        The applied plan.
    census
        The original's census.
    example_inputs
        See `take_census`; None skips what needs a run.

    Returns
    -------
    checks, warnings
    """
    plan = surgery.plan
    comparison = Comparison(original, surgery.model, plan, census, example_inputs)
    checks = comparison.static()
    if example_inputs is None:
        return [*checks, *comparison.without_inputs()], [NOTHING_RUN]
    try:
        before, after, seconds = comparison.run()
    except EditedFails as error:
        return [*checks, Check("runs", "fail", reason=str(error))], []
    checks += comparison.of_runs(before, after)
    refused = comparison.refused(before, after)
    if refused:
        return [*checks, *refused], []
    checks += comparison.of_values(before, order=1, witness_order=3 if seconds < _SLOW else 1)
    for name, check in comparison.repeated(before):
        slow = f"one run takes {seconds:.1f} s; dcsurgery verify makes this check"
        checks.append(check() if seconds < _SLOW else Check(name, "skip", reason=slow))
    checks.append(check_reload(surgery.model, example_inputs))
    return checks, []


def _unchanged(
    original: nn.Module, before: Watched, after: Watched, plan: Plan, edited_sites: set[Key], example_inputs: Any
) -> list[Check]:
    """Check what was not selected, and the graphs; where they differ, against the original with the edited values.

    Other values may take other branches, or the same ones more often. Then the measure is what the original does when
    the value witness gives it the values that the edits give.
    """
    checks = [check_others(before, after, edited_sites), check_graphs(before, after, plan)]
    if all(check.status != "fail" for check in checks):
        return checks
    moved = watched_with_new_values(original, plan.edits, before.recording, example_inputs)
    if moved is None:
        return checks
    again = [check_others(moved, after, edited_sites), check_graphs(moved, after, plan)]
    told = "; the values lead another way, as they do in the witness"
    return [
        replace(new, reason=new.reason + told) if old.status == "fail" and new.status == "pass" else new
        for old, new in zip(checks, again, strict=True)
    ]
