"""Every check of one applied plan."""

from __future__ import annotations

from typing import Any

from torch import nn

from dcsurgery.census import Census, site_key
from dcsurgery.checks.derivatives import check_edit_derivatives
from dcsurgery.checks.graphs import check_graphs, leaves_of
from dcsurgery.checks.outputs import check_finite
from dcsurgery.checks.reload import check_reload
from dcsurgery.checks.residual import check_known, check_others, check_residual
from dcsurgery.checks.running import watched
from dcsurgery.checks.structure import check_keys
from dcsurgery.checks.values import check_values
from dcsurgery.errors import BadInput
from dcsurgery.report import Check
from dcsurgery.surgery import Surgery

__all__ = ["check_surgery"]


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
    edited, plan = surgery.model, surgery.plan
    checks = [check_keys(original, surgery)]
    if example_inputs is None:
        reason = "no example inputs"
        names = ("residual", "known sites", "other sites", "graph equals plan", "finite", "value witness", "gradcheck")
        checks += [Check(name, "skip", reason=reason) for name in names]
        if plan.unedited:  # known without a run: they are still there
            left = "; ".join(f"{name} (not edited)" for name in plan.unedited)
            checks[1] = Check("residual", "fail", len(plan.unedited), 0, left)
        warnings = ["nothing was run: give example inputs (--inputs FILE) to prove the edit"]
        return checks, warnings
    before = watched(original, example_inputs)
    try:
        after = watched(edited, example_inputs, before.recording.calls)
    except BadInput as error:
        return [*checks, Check("runs", "fail", reason=str(error))], []
    edited_sites = {site_key(e.place) for e in plan.edits if e.place is not None}
    selected = {site_key(e.place) for e in plan.edits if e.place is not None and leaves_of(e) != "operator"}
    checks += [
        check_residual(before, after, selected, plan, edited, example_inputs),
        check_known(before, after, census),
        check_others(before, after, edited_sites),
        check_graphs(before, after, plan),
        check_finite(after.output),
    ]
    checks.append(check_values(original, edited, plan.edits, before.recording, example_inputs))
    checks += check_edit_derivatives(original, edited, example_inputs, order=1)
    checks.append(check_reload(edited, example_inputs))
    return checks, []
