"""``dcsurgery apply`` and ``dcsurgery transform``: read, plan, edit, check, write."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcsurgery.cli import options
from dcsurgery.cli.diffing import TERMINAL, show_diff
from dcsurgery.cli.documents import plan_document, surgery_document, to_json
from dcsurgery.cli.inputs import Source, read_plan
from dcsurgery.cli.outputs import Destination, default_output, write_text
from dcsurgery.cli.request import Request
from dcsurgery.cli.screen import Screen, screen_for
from dcsurgery.collection import uncollected
from dcsurgery.errors import BadInput

if TYPE_CHECKING:
    from torch import nn

    from dcsurgery.census import Census
    from dcsurgery.files import ModelFile
    from dcsurgery.fresh_process import FreshProcess
    from dcsurgery.plans import Plan
    from dcsurgery.surgery import Surgery

__all__ = ["apply", "transform"]

CHECK_FAILED = 1


def apply(
    model: options.Model,
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="What dcsurgery plan wrote.", show_default=False)],
    output: options.Output = None,
    report: options.ReportFile = None,
    diff: options.DiffFile = None,
    force: options.Force = False,
    no_verify: options.NoVerify = False,
    keep_failed: options.KeepFailed = False,
    inputs: options.Inputs = None,
    trust: options.Trust = False,
    imports: options.Imports = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Apply a plan to the model that it was made for, check the result, and write it."""
    with _collected(inputs), screen_for(quiet=quiet, verbose=verbose, as_json=as_json) as screen:
        source = Source(model, inputs, trust, tuple(imports or ()))
        to = Destination(output or default_output(model), report, force, not no_verify, keep_failed, diff)
        source.check()
        to.check((*source.files, plan))
        with source.fresh_process().start() as process:
            planned = read_plan(plan)
            return _operate("apply", screen, source, to, lambda _model, _census: planned, process)


def transform(
    model: options.Model,
    irelu: options.Irelu = False,
    denorm: options.Denorm = False,
    rescale: options.Rescale = None,
    recipe: options.Recipe = None,
    activation: options.Activation = None,
    gates: options.Gates = False,
    outputs: options.Outputs = None,
    scope: options.Scope = "all",
    include: options.Include = None,
    exclude: options.Exclude = None,
    allow_empty: options.AllowEmpty = False,
    output: options.Output = None,
    report: options.ReportFile = None,
    diff: options.DiffFile = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    no_verify: options.NoVerify = False,
    keep_failed: options.KeepFailed = False,
    inputs: options.Inputs = None,
    trust: options.Trust = False,
    imports: options.Imports = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Edit a model file: plan, apply, check, write. Without an edit the output is a copy."""
    with _collected(inputs), screen_for(quiet=quiet, verbose=verbose, as_json=as_json) as screen:
        source = Source(model, inputs, trust, tuple(imports or ()))
        request = Request(
            irelu,
            denorm,
            rescale,
            activation,
            gates,
            tuple(outputs or ()),
            scope,
            tuple(include or ()),
            tuple(exclude or ()),
            allow_empty,
            recipe,
        )
        to = Destination(output or default_output(model), report, force, not no_verify, keep_failed, diff)
        source.check()
        if not dry_run:
            to.check((*source.files, *request.files))
        elif diff not in (None, TERMINAL):
            raise BadInput("--dry-run writes nothing", where=str(diff), fix="print the diff with --diff -")
        with source.fresh_process() as process:
            if not dry_run:
                process.start()
            request.check()
            return _operate(
                "transform",
                screen,
                source,
                None if dry_run else to,
                request.plan,
                process,
                show_diff_of_plan=dry_run and diff is not None,
            )


def _collected(inputs: Path | None) -> contextlib.AbstractContextManager[None]:
    """Collect garbage only where models run: nothing else makes enough of it to be worth looking for."""
    return uncollected() if inputs is None else contextlib.nullcontext()


@contextlib.contextmanager
def _threads(inputs: Path | None) -> Iterator[None]:
    """Use one thread where no model runs: threads that wait for each other would take the second process's core."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(before if inputs else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _operate(
    command: str,
    screen: Screen,
    source: Source,
    to: Destination | None,
    plan_for: Callable[[nn.Module, Census], Plan],
    process: FreshProcess,
    *,
    show_diff_of_plan: bool = False,
) -> int:
    """Do it all; without a destination, only show the plan, and with ``show_diff_of_plan`` what it would change.

    ``process`` was started beforehand, and reads what is written. Returns the exit code.
    """
    import dcsurgery
    from dcsurgery.census import take_census
    from dcsurgery.cli import tables
    from dcsurgery.retrying import examined

    with _threads(source.inputs), screen.steps(4 if to is None else 7) as begin:
        begin("reading the inputs")
        example_inputs = source.read_inputs()
        begin(f"reading {source.model}")
        read = source.read_model()
        process.prepare({type(module).__module__ for module in read.model.modules()})
        begin("finding the sites")
        census = take_census(read.model, example_inputs)
        begin("planning")
        plan = plan_for(read.model, census)
        if to is not None:
            begin("editing")
            surgery = dcsurgery.apply(read.model, plan)
            begin("checking" if to.verify else "not checking")
            surgery = examined(read.model, surgery, census, example_inputs, verify=to.verify)
            keep = surgery.report.ok or to.keep_failed
            _tell_training_state(read, surgery)
            begin(f"writing {to.model}, and reading it again" if keep else "not writing")
            if keep:
                _write(read, surgery, to, example_inputs, process)
    about = source.describe(read.kind)
    if to is None:
        for note in plan.notes:
            screen.warn(note)
        screen.result(tables.edits_table(plan), "dry run: nothing was written")
        if show_diff_of_plan:
            show_diff(screen, dcsurgery.apply(read.model, plan).diff(example_inputs), TERMINAL)
        screen.document(plan_document(command, plan, census, {**about, "output": None}))
        return 0
    code = 0 if surgery.report.ok else CHECK_FAILED
    document = {}
    if to.report is not None or screen.as_json:
        document = surgery_document(command, code, surgery, census, {**about, "output": to.model if keep else None})
    if to.report is not None:
        write_text(to.report, to_json(document) + "\n")
    _show(screen, surgery, to, keep)
    if to.diff is not None:
        show_diff(screen, surgery.diff(example_inputs), to.diff)
    screen.document(document)
    return code


def _tell_training_state(read: ModelFile, surgery: Surgery) -> None:
    """Add to the report what a checkpoint's optimizer and moving average lose, and whose scale C stands beside."""
    from dcsurgery.files.training_state import fit_training_state, note_on_normalizers

    if read.kind == "checkpoint":
        _, notes = fit_training_state(read.entries, read.model, surgery.model)
        if any(edit.action == "rescale" for edit in surgery.plan.edits):
            notes = (*notes, *note_on_normalizers(read.entries))
        surgery.report = dataclasses.replace(surgery.report, warnings=(*surgery.report.warnings, *notes))


def _write(read: ModelFile, surgery: Surgery, to: Destination, example_inputs: Any, process: FreshProcess) -> None:
    from dcsurgery import __version__, files

    record = None
    if read.kind == "checkpoint" and surgery.plan.edits:
        record = {**surgery.to_record(), "version": __version__}
    # What failed a check, or was not to be checked, is not run again.
    inputs = example_inputs if to.verify and surgery.report.ok else None
    files.write(
        surgery.model, to.model, like=read, record=record, force=to.force, example_inputs=inputs, process=process
    )


def _show(screen: Screen, surgery: Surgery, to: Destination, kept: bool) -> None:
    from dcsurgery.cli import tables

    report = surgery.report
    for warning in report.warnings:
        screen.warn(warning)
    if screen.shows:
        screen.show(tables.edits_table(surgery.plan), *tables.checks_tables(report))
    for line in (*report.done, *(f"left alone: {site}" for site in report.left_alone)):
        screen.detail(line)
    if not report.ok:
        failed = report.failures[0]
        fate = f"{to.model} was written all the same" if kept else "no model was written; --keep-failed writes it"
        screen.fail(f"check {failed.name!r} failed: {failed.reason} ({fate})")
    if kept:
        screen.show(f"wrote {to.model}")
