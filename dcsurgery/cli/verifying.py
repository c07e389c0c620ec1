"""``dcsurgery verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcsurgery.cli import options
from dcsurgery.cli.documents import verification_document
from dcsurgery.cli.inputs import Source
from dcsurgery.cli.screen import screen_for
from dcsurgery.errors import BadInput

__all__ = ["verify"]

CHECK_FAILED = 1


def verify(
    original: Annotated[
        Path, typer.Argument(metavar="ORIGINAL", help="The model before the edits.", show_default=False)
    ],
    edited: Annotated[Path, typer.Argument(metavar="EDITED", help="The model after them.", show_default=False)],
    inputs: options.Inputs = None,
    order: Annotated[
        int,
        typer.Option("--order", metavar="1|2|3", help="Highest derivative that is compared with finite differences."),
    ] = 2,
    trust: options.Trust = False,
    imports: options.Imports = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Prove that one model is another one edited, and that nothing else about it has changed."""
    with screen_for(quiet=quiet, verbose=verbose, as_json=as_json) as screen:
        if order not in (1, 2, 3):
            raise BadInput(f"--order is {order}", fix="give 1, 2 or 3")
        before = Source(original, inputs, trust, tuple(imports or ()))
        after = Source(edited, inputs, trust, tuple(imports or ()))
        before.check()
        after.check()
        import dcsurgery
        from dcsurgery.cli import tables

        with screen.steps(4) as begin:
            begin("reading the inputs")
            example_inputs = before.read_inputs()
            begin(f"reading {original}")
            first = before.read_model()
            begin(f"reading {edited}")
            second = after.read_model()
            begin("checking")
            report = dcsurgery.verify(first.model, second.model, example_inputs, order)
        for warning in report.warnings:
            screen.warn(warning)
        screen.show(*tables.checks_tables(report))
        for line in (*report.done, *(f"left alone: {site}" for site in report.left_alone)):
            screen.detail(line)
        code = 0 if report.ok else CHECK_FAILED
        if not report.ok:
            failed = report.failures[0]
            screen.fail(f"check {failed.name!r} failed: {failed.reason}")
        files = {"original": before.describe(first.kind), "edited": after.describe(second.kind)}
        screen.document(verification_document(code, report, files))
    return code
