"""Compare any two models, one of which is the other one edited."""

from __future__ import annotations

from typing import Any

from torch import nn

from dcsurgery.checks.derivatives import check_edit_derivatives
from dcsurgery.checks.outputs import check_finite
from dcsurgery.checks.running import run
from dcsurgery.checks.structure import check_shared_tensors
from dcsurgery.errors import BadInput
from dcsurgery.report import Report

__all__ = ["verify"]


def verify(original: nn.Module, edited: nn.Module, example_inputs: Any, order: int = 2) -> Report:
    """Compare an edited model with its original.

    Parameters
    ----------
    original, edited
        The models.
    example_inputs
        See `take_census`.
    order
        Highest derivative that is checked against finite differences, 1 to 3, in float64.

    Returns
    -------
    Report
        Tensors that changed, finite outputs, derivatives.

    Raises
    ------
    BadInput
        If a model does not accept the inputs, or the order is not 1, 2 or 3.
    """
    if order not in (1, 2, 3):
        raise BadInput(f"no derivative order {order!r}", fix="use 1, 2 or 3")
    run(original, example_inputs)
    checks = [check_shared_tensors(original, edited), check_finite(run(edited, example_inputs))]
    checks += check_edit_derivatives(original, edited, example_inputs, order=order)
    return Report(tuple(checks))
