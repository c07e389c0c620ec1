"""The public functions: inspect, plan, apply, transform, verify, diff, load, save."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from dcsurgery.census import Census, take_census
from dcsurgery.checks import verify
from dcsurgery.errors import BadInput
from dcsurgery.files.writing import Format
from dcsurgery.labels import rescale_constant
from dcsurgery.passes.base import Pass
from dcsurgery.passes.denormalize import Denormalize
from dcsurgery.passes.pipeline import Pipeline
from dcsurgery.passes.replace_activations import ReplaceActivations
from dcsurgery.passes.rescale_labels import RescaleLabels
from dcsurgery.plans import Plan
from dcsurgery.selectors import Selection
from dcsurgery.surgery import Surgery, apply_plan, operate

if TYPE_CHECKING:
    from dcsurgery.diffing import Diff
    from dcsurgery.files.writing import Format

__all__ = ["apply", "diff", "inspect", "load", "plan", "rescale_constant", "save", "transform", "verify"]


def inspect(model: nn.Module, example_inputs: Any = None) -> Census:
    """Find every activation and normalization site of a model.

    Parameters
    ----------
    model
        Any module, TorchScript or ExportedProgram; it is not changed.
    example_inputs
        A tuple (arguments), a dict (keyword arguments) or any object (the one argument). Without it everything is
        static and unproven.

    Raises
    ------
    BadInput
        If ``model`` is no module or does not accept the inputs.
    """
    return take_census(model, example_inputs)


def plan(
    model: nn.Module,
    irelu: bool = True,
    denorm: bool = True,
    rescale: float | None = None,
    scope: str = "all",
    include: Any = None,
    exclude: Any = None,
    example_inputs: Any = None,
    *,
    activation: str | nn.Module = "irelu",
    gates: bool = False,
    outputs: Any = None,
    allow_empty: bool = False,
) -> Plan:
    """Plan the paper's three edits; changes nothing.

    Parameters
    ----------
    model
        The model.
    irelu
        Replace activations.
    denorm
        Delete normalizations.
    rescale
        Label scale C in units of the labels (`rescale_constant`), None for no rescale.
    scope
        ``all`` or ``output-blocks``.
    include, exclude
        Selectors, see `Selection`.
    example_inputs
        See `inspect`.
    activation
        What replaces activations: a name (`ACTIVATION_NAMES`) or a module.
    gates
        Replace gates, too.
    outputs
        Which outputs are labels, see `rescale_labels`.
    allow_empty
        A plan without edits although some were asked for is no error.

    Raises
    ------
    NothingMatched
        If edits were asked for and none is possible, or a selector matches no site.
    """
    pipeline = _pipeline(irelu, denorm, rescale, scope, include, exclude, activation, gates, outputs, allow_empty)
    return pipeline.plan(model, example_inputs)


def apply(model: nn.Module, plan: Plan, *, inplace: bool = False) -> Surgery:
    """Apply a plan to the model that it was made for, or to another instance of the same structure.

    Parameters
    ----------
    model
        The model; untouched unless ``inplace``.
    plan
        From `plan`, or ``Plan.from_yaml``.
    inplace
        Edit ``model`` itself.

    Raises
    ------
    PlanMismatch
        If the plan was made for another structure.
    Refused
        If an edit cannot be made; nothing is changed then.
    """
    return apply_plan(model, plan, inplace=inplace)


def transform(
    model: nn.Module,
    irelu: bool = True,
    denorm: bool = True,
    rescale: float | None = None,
    scope: str = "all",
    include: Any = None,
    exclude: Any = None,
    example_inputs: Any = None,
    *,
    activation: str | nn.Module = "irelu",
    gates: bool = False,
    outputs: Any = None,
    allow_empty: bool = False,
    inplace: bool = False,
) -> Surgery:
    """Plan, apply and check in one go; parameters as in `plan`.

    Raises
    ------
    CheckFailed
        If a check of the edited model fails; ``error.report`` has every figure.
    NothingMatched
        See `plan`.
    """
    pipeline = _pipeline(irelu, denorm, rescale, scope, include, exclude, activation, gates, outputs, allow_empty)
    return operate(model, pipeline, example_inputs, inplace=inplace)


def diff(before: nn.Module, after: nn.Module, example_inputs: Any = None) -> Diff:
    """Compare two models, an original and its edited form or any others; changes nothing.

    Parameters
    ----------
    before, after
        The models.
    example_inputs
        See `inspect`; both models are run on them. Without them, bodies that cannot be traced are not compared.

    Returns
    -------
    Diff
        The changes; prints as text, and draws itself as SVG and HTML.

    Raises
    ------
    BadInput
        If one of them is no model or does not accept the inputs.
    """
    from dcsurgery.diffing import compare

    return compare(before, after, example_inputs)


def load(path: str | os.PathLike[str], trust: bool = False, imports: Sequence[Path] = ()) -> nn.Module:
    """Read a model from a file, see `dcsurgery.files.load`."""
    from dcsurgery import files

    return files.load(Path(path), trust=trust, imports=imports)


def save(
    model: nn.Module | Surgery, path: str | os.PathLike[str], format: Format = "auto", *, force: bool = False
) -> Path:
    """Write a model, see `dcsurgery.files.write`."""
    from dcsurgery import files

    return files.save(model, Path(path), format=format, force=force)


def _pipeline(
    irelu: bool,
    denorm: bool,
    rescale: float | None,
    scope: str,
    include: Any,
    exclude: Any,
    activation: str | nn.Module,
    gates: bool,
    outputs: Any,
    allow_empty: bool,
) -> Pipeline:
    if not isinstance(irelu, bool) or not isinstance(denorm, bool):
        raise BadInput("irelu and denorm are True or False", fix="name another activation with activation=…")
    selection = Selection.of(scope, include, exclude)
    passes: list[Pass] = []
    if irelu:
        passes.append(ReplaceActivations(activation, gates=gates))
    if denorm:
        passes.append(Denormalize())
    for entry in passes:
        entry.selection = selection
    if rescale is not None:
        passes.append(RescaleLabels(rescale, outputs))
    return Pipeline(passes, allow_empty=allow_empty)
