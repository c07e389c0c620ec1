"""``dcsurgery inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dcsurgery.cli import options
from dcsurgery.cli.documents import census_document
from dcsurgery.cli.inputs import Source
from dcsurgery.cli.outputs import check_picture_options, check_writable, write_text
from dcsurgery.cli.screen import screen_for
from dcsurgery.errors import BadInput

if TYPE_CHECKING:
    from dcsurgery.diffing.layout import Rankdir

__all__ = ["inspect"]


def inspect(
    model: options.Model,
    picture: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE.svg", help="Where --svg draws to; by default MODEL's name with .svg.", show_default=False
        ),
    ] = None,
    svg: Annotated[
        bool,
        typer.Option("--svg", help="Draw the model, its sites and output blocks marked.", rich_help_panel="Writing"),
    ] = False,
    force: options.Force = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="In pictures: every module and operator.", rich_help_panel=options.SHOWING),
    ] = False,
    only_sites: Annotated[
        bool,
        typer.Option("--only-sites", help="In pictures: sites and their neighbours.", rich_help_panel=options.SHOWING),
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
    """List every activation and normalization of a model."""
    with screen_for(quiet=quiet, verbose=verbose, as_json=as_json) as screen:
        source = Source(model, inputs, trust, tuple(imports or ()))
        source.check()
        target = _target(source, picture, force) if svg else None
        if svg:
            check_picture_options(rankdir)
        else:
            _check_no_picture(picture, full=full, only_sites=only_sites, depth=depth, rankdir=rankdir)
        from dcsurgery.census import take_census
        from dcsurgery.cli import tables

        with screen.steps(3 if target is None else 4) as begin:
            begin("reading the inputs")
            example_inputs = source.read_inputs()
            begin(f"reading {model}")
            read = source.read_model()
            begin("finding the sites")
            census = take_census(read.model, example_inputs)
            if target is not None:
                begin(f"drawing {target}")
                way: Rankdir = "LR" if rankdir == "LR" else "TB"
                drawn = census.to_svg(depth=depth, only_sites=only_sites, full=full, rankdir=way)
                write_text(target, drawn)
        screen.result(*tables.census_tables(census, screen.width, captures=verbose))
        if target is not None:
            screen.show(f"wrote {target}")
        if not census.inputs_given:
            screen.warn("nothing was run, so this is what the code says: --inputs FILE shows what really runs")
        screen.document(census_document(census, source.describe(read.kind)))
    return 0


def _target(source: Source, picture: Path | None, force: bool) -> Path:
    """Return the file that the picture goes to.

    Raises
    ------
    BadInput
        If it cannot be written, is no SVG, or graphviz is missing: all that is known before the model is read.
    """
    from dcsurgery.diffing.layout import require_dot

    path = picture if picture is not None else source.model.with_suffix(".svg")
    if path.suffix.lower() != ".svg":
        raise BadInput("a picture of a model is an .svg", where=str(path), fix="name it so")
    check_writable(path, source.files, force)
    require_dot()
    return path


def _check_no_picture(picture: Path | None, *, full: bool, only_sites: bool, depth: int | None, rankdir: str) -> None:
    if picture is not None:
        raise BadInput("a file to draw to, and nothing that draws", where=str(picture), fix="add --svg")
    given = {"--full": full, "--only-sites": only_sites, "--depth": depth is not None, "--rankdir": rankdir != "TB"}
    named = [name for name, is_given in given.items() if is_given]
    if named:
        raise BadInput(f"{named[0]} is about the picture", fix="add --svg")
