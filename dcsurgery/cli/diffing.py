"""``dcsurgery diff``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dcsurgery.cli import options
from dcsurgery.cli.documents import diff_document
from dcsurgery.cli.inputs import Source, read_report
from dcsurgery.cli.outputs import check_picture_options, check_writable, write_text
from dcsurgery.cli.screen import Screen, screen_for
from dcsurgery.errors import BadInput

if TYPE_CHECKING:
    from dcsurgery.diffing import Diff

__all__ = ["TERMINAL", "check_diff_file", "diff", "show_diff"]

TERMINAL = Path("-")  # ``--diff -`` prints


def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="A model file.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Another one.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the diff: .svg, .html, .json, .txt, .dot or .graphml.",
            rich_help_panel="Writing",
            show_default=False,
        ),
    ] = None,
    model_explorer: Annotated[
        Path | None,
        typer.Option(
            "--model-explorer",
            metavar="FOLDER",
            help="Write before.json, after.json and mapping.json for Google's model-explorer.",
            rich_help_panel="Writing",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE.json",
            help="What transform --report wrote: the page shows its figures of single sites.",
            rich_help_panel="Reading",
            show_default=False,
        ),
    ] = None,
    force: options.Force = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Unchanged modules and operators as well, and all of very many changes.",
            rich_help_panel=options.SHOWING,
        ),
    ] = False,
    only_changes: Annotated[
        bool,
        typer.Option(
            "--only-changes", help="In pictures: changes and their neighbours.", rich_help_panel=options.SHOWING
        ),
    ] = False,
    depth: options.Depth = None,
    rankdir: options.Rankdir = "TB",
    inputs: options.Inputs = None,
    trust: options.Trust = False,
    imports: options.Imports = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Show what changed from one model to another."""
    with screen_for(quiet=quiet, verbose=verbose, as_json=as_json) as screen:
        sources = [Source(file, inputs, trust, tuple(imports or ())) for file in (before, after)]
        for source in sources:
            source.check()
        check_picture_options(rankdir)
        figures = {} if report is None else read_report(report).figures
        read = [file for source in sources for file in source.files] + ([report] if report is not None else [])
        if output is not None:
            check_diff_file(output, read, force)
        if model_explorer is not None:
            _check_folder(model_explorer, force)
        from dcsurgery.diffing import compare

        with screen.steps(4) as begin:
            begin("reading the inputs")
            example_inputs = sources[0].read_inputs()
            models = []
            for source in sources:
                begin(f"reading {source.model}")
                models.append(source.read_model().model)
            begin("comparing")
            found = replace(compare(models[0], models[1], example_inputs), figures=figures)
        if example_inputs is None:
            screen.warn("nothing was run, so this is what the code says: --inputs FILE shows what really runs")
        show_diff(screen, found, output, full=full, only_changes=only_changes, depth=depth, rankdir=rankdir)
        if model_explorer is not None:
            for name, text in found.to_model_explorer().items():
                write_text(model_explorer / name, text)
            screen.show(f"wrote {model_explorer}{'/'}before.json, after.json and mapping.json")
        files = {"before": before, "after": after, "inputs": inputs, "output": output}
        screen.document(diff_document(found, files))
    return 0


def check_diff_file(path: Path, read: Sequence[Path], force: bool) -> None:
    """Raise BadInput if a diff cannot be written to a file."""
    from dcsurgery.diffing.formats import check_format

    if path == TERMINAL:
        return
    check_format(path)
    check_writable(path, tuple(read), force)


def show_diff(
    screen: Screen,
    found: Diff,
    path: Path | None,
    *,
    full: bool = False,
    only_changes: bool = False,
    depth: int | None = None,
    rankdir: str = "TB",
) -> None:
    """Write a diff to a file, or print it where there is none."""
    from dcsurgery.diffing.formats import Shown, render
    from dcsurgery.diffing.text import tree_lines

    if path is None or path == TERMINAL:
        screen.result(*tree_lines(found, full=full, width=screen.width))
        return
    write_text(path, render(found, path, Shown(depth, only_changes, full, rankdir)))  # type: ignore[arg-type]
    screen.result(found.summary)
    screen.show(f"wrote {path}")


def _check_folder(folder: Path, force: bool) -> None:
    if not folder.is_dir():
        raise BadInput("no such folder", where=str(folder), fix="make it first")
    for name in ("before.json", "after.json", "mapping.json"):
        check_writable(folder / name, (), force)
        if (folder / name).exists() and not force:
            raise BadInput("exists already", where=str(folder / name), fix="choose another folder, or add --force")
