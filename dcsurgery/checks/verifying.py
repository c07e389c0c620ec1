"""Compare any two models, one of which is the other one edited."""

from __future__ import annotations

import contextlib
from typing import Any

from torch import nn

from dcsurgery.census import take_census
from dcsurgery.checks.comparison import plan_between
from dcsurgery.checks.reload import check_reload_elsewhere, reader_for
from dcsurgery.checks.surgical import NOTHING_RUN, Comparison, EditedFails
from dcsurgery.errors import BadInput
from dcsurgery.fresh_process import FreshProcess
from dcsurgery.memory import telling_memory
from dcsurgery.models import as_module
from dcsurgery.report import Check, Report

__all__ = ["verify"]


def verify(original: nn.Module, edited: nn.Module, example_inputs: Any, order: int = 2) -> Report:
    """Prove that one model is another one edited, and that nothing else about it has changed.

    What was edited is read from the record that an edited model carries; where there is none, the sites of the original
    are looked up in the edited model.

    Parameters
    ----------
    original, edited
        The models.
    example_inputs
        See `take_census`; None leaves only what can be seen without a run.
    order
        Highest derivative that is checked against finite differences, 1 to 3, in float64.

    Returns
    -------
    Report
        Every check; ``done`` has the edits.

    Raises
    ------
    BadInput
        If the original does not accept the inputs, or the order is not 1, 2 or 3.
    """
    if isinstance(order, bool) or order not in (1, 2, 3):
        raise BadInput(f"no derivative order {order!r}", fix="use 1, 2 or 3")
    original, edited = as_module(original), as_module(edited)
    with contextlib.ExitStack() as stack:
        process = reader_for(edited)  # it imports while this one checks
        if process is not None:
            stack.enter_context(process)
        stack.enter_context(telling_memory("checking"))
        return _report(original, edited, example_inputs, order, process)


def _report(
    original: nn.Module, edited: nn.Module, example_inputs: Any, order: int, process: FreshProcess | None
) -> Report:
    census = take_census(original, example_inputs, graphs=False)
    plan, source = plan_between(original, edited, census)
    comparison = Comparison(original, edited, plan, census, example_inputs)
    checks = comparison.static()
    done = tuple(str(edit) for edit in plan.edits)
    warnings = (f"{len(done)} edits, told by {source}" if done else "no edit was found: the models should be equal",)
    if example_inputs is None:
        return Report((*checks, *comparison.without_inputs()), done, warnings=(*warnings, NOTHING_RUN))
    try:
        before, after, _ = comparison.run()
    except EditedFails as error:
        return Report((*checks, Check("runs", "fail", reason=str(error))), done, warnings=warnings)
    checks += comparison.of_runs(before, after)
    refused = comparison.refused(before, after)
    if refused:
        return Report((*checks, *refused), done, warnings=warnings)
    checks += comparison.of_values(before, order)
    checks += [check() for name, check in comparison.repeated(before) if name != "undo"]
    checks.append(check_reload_elsewhere(edited, example_inputs, process))
    edited_sites = {edit.site for edit in plan}
    alone = tuple(f"{s.name}: {s.operator} {s.reason}".rstrip() for s in census if s.name not in edited_sites)
    return Report(tuple(checks), done, alone, warnings)
