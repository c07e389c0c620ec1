"""Surgery: a plan applied to a model, with its report, key map and the way back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.export import ExportedProgram

from dcsurgery.collection import uncollected
from dcsurgery.copying import copied
from dcsurgery.errors import BadInput, CheckFailed, PlanMismatch
from dcsurgery.exported import ProgramModule, program_of
from dcsurgery.identity import fingerprint_of, structure_of
from dcsurgery.key_map import KeyMap
from dcsurgery.memory import telling_memory
from dcsurgery.models import as_module
from dcsurgery.plans import Edit, Plan
from dcsurgery.record import note
from dcsurgery.report import Report
from dcsurgery.sites import FusedPlace
from dcsurgery.subclass import original_class
from dcsurgery.surgeon import Surgeon
from dcsurgery.torchscript.fragments import has_fragments, import_fragments
from dcsurgery.wrappers import refuse_wrapped

if TYPE_CHECKING:
    from dcsurgery.census import Census
    from dcsurgery.diffing import Diff
    from dcsurgery.passes.pipeline import Pipeline

__all__ = ["Done", "KeyMap", "Surgery", "apply_plan", "examine", "operate"]

# How edits are realised that have no place of their own, or take their place's layer with them.
_WITHOUT_PLACE = {"rescale": "outputs multiplied", "fold": "folded into the layer before"}


@dataclass(frozen=True)
class Done:
    """One entry of a surgery's log.

    Attributes
    ----------
    edit
        What was to be done.
    how
        How it was realised, for instance ``module swapped``, ``call rewritten``, ``kernel opened``.
    """

    edit: Edit
    how: str

    def to_dict(self) -> dict[str, str]:
        """Return the entry as plain JSON types."""
        return {"site": self.edit.site, "do": self.edit.action, "edit": str(self.edit), "how": self.how}

    def __str__(self) -> str:
        return f"{self.edit} ({self.how})"


@dataclass
class Surgery:
    """What `apply` and `transform` return.

    Attributes
    ----------
    model
        The edited model.
    plan
        What was planned.
    report
        What was done, what was left alone, and every check.
    key_map
        State_dict keys before and after.
    log
        Every edit in the order in which it was made, and how it was realised.
    """

    model: nn.Module
    plan: Plan
    report: Report
    key_map: KeyMap
    log: tuple[Done, ...]
    _surgeon: Surgeon
    _original: nn.Module | None = None

    @property
    def program(self) -> ExportedProgram:
        """The edited ExportedProgram, where the model was one; it shares its tensors with ``model``.

        Raises
        ------
        BadInput
            If the model was no ExportedProgram.
        """
        if not isinstance(self.model, ProgramModule):
            raise BadInput(
                f"{original_class(self.model).__name__} was no ExportedProgram", fix="export the edited model"
            )
        return program_of(self.model)

    def undo(self) -> nn.Module:
        """Take the edits back and return the original.

        Out of place that is the model that was handed in, untouched, whatever the edited one has learned since. In
        place it is the same object, its edits undone in reverse order: deleted norms have the tensors that they had,
        what an edit changed (a layer that a norm was folded into) is as it was, and what was trained since and never
        edited keeps what it learned. For the old values of those, too, load an old state_dict: the keys are the old ones.
        """
        if self._original is not None:
            return self._original
        self._surgeon.undo()
        return self._surgeon.model

    def diff(self, example_inputs: Any = None) -> Diff:
        """Return what changed, as graphs (see `dcs.diff`), with the report's figures of single sites.

        Raises
        ------
        BadInput
            If the surgery was made in place: the original is gone.
        """
        from dcsurgery.diffing import compare

        if self._original is None:
            raise BadInput("edited in place, so there is no original to compare with", fix="leave inplace out")
        return replace(compare(self._original, self.model, example_inputs), figures=self.report.figures)

    def to_record(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the surgery, as plain types: plan (YAML), key map and log.

        Raises
        ------
        BadInput
            If the plan holds something that no text can hold.
        """
        log = [done.to_dict() for done in self.log]
        return {"plan": self.plan.to_yaml(), "key_map": self.key_map.to_dict(), "log": log}

    @property
    def is_inplace(self) -> bool:
        """Whether the model that was handed in is the one that was edited."""
        return self._original is None

    def stands_for(self, other: Surgery) -> None:
        """Give back on `undo` what another surgery of the same model would."""
        self._original = other._original

    def __str__(self) -> str:
        return f"{self.plan}\n{self.report}"

    def _repr_html_(self) -> str:
        from dcsurgery.diffing.notebook import surgery_html

        return surgery_html(self)

    def _repr_svg_(self) -> str | None:
        from dcsurgery.diffing.layout import has_dot

        return self.diff().to_svg() if has_dot() and self._original is not None else None


@uncollected()
def apply_plan(model: nn.Module, plan: Plan, *, inplace: bool = False) -> Surgery:
    """Apply a plan.

    Parameters
    ----------
    model
        The model that the plan was made for, or another instance of the same structure (other weights, another dtype).
    plan
        The edits.
    inplace
        Edit ``model`` itself instead of a copy.

    Raises
    ------
    PlanMismatch
        If the plan was made for another structure.
    Refused
        If an edit cannot be made; then nothing is changed.
    """
    from dcsurgery.passes.base import pass_for

    given = model
    model = as_module(model, inplace=inplace)
    _check_fits(as_module(model), plan)
    if plan.edits:
        refuse_wrapped(model)
    before = dict.fromkeys(model.state_dict())
    intercepted = {edit.place for edit in plan.edits if edit.place is not None and edit.settings.get("intercept")}
    surgeon = Surgeon(model if inplace else copied(model), frozenset(intercepted), is_copy=not inplace)
    try:
        if inplace and plan.edits and has_fragments(model):
            for slot, imported in list(import_fragments(model)):
                surgeon.put(slot.owner, slot.name, imported)
        for edit in plan.edits:
            owner = pass_for(edit.action)
            if owner is None:
                raise BadInput(
                    f"no pass makes the edit {edit.action!r}", where=edit.site or plan.model, fix="plan again"
                )
            owner.realise(surgeon, edit)
        surgeon.finish()
        if plan.edits:
            surgeon.remember(note(surgeon.model, plan))
    except Exception:  # whatever a user's class or a third party's pass may raise
        surgeon.undo()
        raise
    log = tuple(Done(edit, _how(edit, surgeon)) for edit in plan.edits)
    report = Report(done=tuple(map(str, log)), warnings=plan.notes)
    keys = KeyMap.between(before, surgeon.model.state_dict(), tuple(surgeon.folds))
    return Surgery(surgeon.model, plan, report, keys, log, surgeon, None if inplace else given)


def operate(model: nn.Module, pipeline: Pipeline, example_inputs: Any = None, *, inplace: bool = False) -> Surgery:
    """Plan, apply and check: what `Pipeline` and `transform` do.

    Raises
    ------
    CheckFailed
        If a check fails; with ``inplace`` the edits are undone first.
    """
    from dcsurgery.census import take_census
    from dcsurgery.retrying import examined

    given = model
    model = as_module(model, inplace=inplace)
    census = take_census(model, example_inputs)
    plan = pipeline.plan(model, census=census)
    original = as_module(copied(model)) if inplace else model
    surgery = apply_plan(model, plan, inplace=inplace)
    if given is not model:  # what undo gives back
        surgery._original = given
    surgery = examined(original, surgery, census, example_inputs)
    if not surgery.report.ok:
        failed = surgery.report.failures[0]
        if inplace:
            surgery.undo()
        raise CheckFailed(
            f"check {failed.name!r} failed: {failed.reason}", surgery.report, where=census.model, fix="see the report"
        )
    return surgery


def examine(
    original: nn.Module, surgery: Surgery, census: Census, example_inputs: Any = None, *, verify: bool = True
) -> Report:
    """Check a surgery as far as the inputs allow; its report gets the checks and the sites that were left alone.

    Parameters
    ----------
    original
        The model before the edits.
    surgery
        The applied plan; its ``report`` is replaced.
    census
        The original's census.
    example_inputs
        See `take_census`; None skips what needs a run.
    verify
        False runs no check, and the report warns of that.

    Raises
    ------
    BadInput
        If there is not enough memory for a check.

    Returns
    -------
    Report
        The new report; it may hold failed checks.
    """
    from dcsurgery.checks import check_surgery

    selected = {edit.site for edit in surgery.plan.edits}
    alone = tuple(f"{s.name}: {s.operator} {s.reason or '(not selected)'}" for s in census if s.name not in selected)
    if verify:
        with telling_memory("checking"):
            checks, warnings = check_surgery(original, surgery, census, example_inputs)
    else:
        checks, warnings = [], ["nothing was checked, as asked"]
    report = surgery.report
    surgery.report = Report(tuple(checks), report.done, alone, (*report.warnings, *warnings))
    return surgery.report


def _check_fits(model: nn.Module, plan: Plan) -> None:
    if not plan.fingerprint or plan.fingerprint == fingerprint_of(model):
        return
    name = original_class(model).__name__
    if plan.model and plan.model != name:
        detail = f"it was made for a {plan.model}, this is a {name}"
    else:
        detail = f"this {name} has other modules or tensors ({len(structure_of(model))} lines of structure)"
    raise PlanMismatch(f"the plan does not fit the model: {detail}", fix="make a plan for this model: dcsurgery plan")


def _how(edit: Edit, surgeon: Surgeon) -> str:
    if isinstance(edit.place, FusedPlace):
        return "kernel opened"
    known = surgeon.how.get(edit.place) if edit.place is not None else None
    return known or _WITHOUT_PLACE.get(edit.action, edit.action)
