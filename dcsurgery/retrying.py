"""Where a rewritten call still runs its old operator, catch it while it runs: the last step before a surgery fails.

An iterator of the user's own, for instance, calls ``F.silu`` in a ``__next__`` that Python calls, so that no call in the
method leads to it. The plan of the second try says so (``intercept: true``), and can be replayed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from dcsurgery.census import Census, site_key
from dcsurgery.checks.graphs import leaves_of
from dcsurgery.checks.residual import left_running
from dcsurgery.checks.running import watched
from dcsurgery.errors import Refused
from dcsurgery.plans import Plan
from dcsurgery.report import Report
from dcsurgery.sites import CallPlace
from dcsurgery.surgery import Surgery, apply_plan, examine

__all__ = ["examined"]


def examined(
    original: nn.Module, surgery: Surgery, census: Census, example_inputs: Any = None, *, verify: bool = True
) -> Surgery:
    """Check a surgery; where a selected operator is left over, make it again with those calls intercepted.

    Parameters
    ----------
    original, surgery, census, example_inputs, verify
        See `examine`.

    Returns
    -------
    Surgery
        The first surgery, or the second where that leaves nothing over; its report may hold failed checks.
    """
    report = examine(original, surgery, census, example_inputs, verify=verify)
    plan = None if not _has_residual(report) else _intercepting(original, surgery, example_inputs)
    if plan is None:
        return surgery
    inplace = surgery.is_inplace
    model = surgery.undo() if inplace else original
    try:
        second = apply_plan(model, plan, inplace=inplace)
    except Refused:
        second = None
    if second is not None:
        if not inplace:
            second.stands_for(surgery)
        examine(original, second, census, example_inputs)
        if inplace or not _has_residual(second.report):
            return second
    if inplace:  # as it was, for the report of what failed
        again = apply_plan(model, surgery.plan, inplace=True)
        again.report = report
        return again
    return surgery


def _has_residual(report: Report) -> bool:
    return any(check.name == "residual" and check.status == "fail" for check in report)


def _intercepting(original: nn.Module, surgery: Surgery, example_inputs: Any) -> Plan | None:
    """Return the plan with every rewritten call intercepted that still runs its operator; None where there is none."""
    plan = surgery.plan
    if plan.unedited or example_inputs is None:
        return None
    selected = {site_key(e.place) for e in plan.edits if e.place is not None and leaves_of(e) != "operator"}
    before = watched(original, example_inputs)
    left = left_running(watched(surgery.model, example_inputs, before.recording.calls), selected, plan)
    edits = [
        replace(edit, settings={**edit.settings, "intercept": True})
        if isinstance(edit.place, CallPlace)
        and site_key(edit.place) in left
        and not edit.place.chains[0][-1].written
        and not edit.settings.get("intercept")
        else edit
        for edit in plan.edits
    ]
    return None if tuple(edits) == plan.edits else replace(plan, edits=tuple(edits))
