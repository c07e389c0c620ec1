"""Arguments and options that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcsurgery.selectors import SCOPES

__all__ = [
    "SHOWING",
    "Activation",
    "AllowEmpty",
    "Denorm",
    "Depth",
    "DiffFile",
    "DryRun",
    "Exclude",
    "Force",
    "Gates",
    "Imports",
    "Include",
    "Inputs",
    "Irelu",
    "Json",
    "KeepFailed",
    "Model",
    "NoVerify",
    "Output",
    "Outputs",
    "PlanOutput",
    "Quiet",
    "Rankdir",
    "Recipe",
    "ReportFile",
    "Rescale",
    "Scope",
    "Trust",
    "Verbose",
]

SHOWING = "What is shown"
_EDITS, _SITES, _READING, _WRITING, _MESSAGES = "Edits", "Which sites", "Reading", "Writing", "Messages"


def _activation_names() -> list[str]:
    from dcsurgery.activations import ACTIVATION_NAMES

    return list(ACTIVATION_NAMES)


def _scopes() -> list[str]:
    return list(SCOPES)


Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A saved nn.Module or a checkpoint.", show_default=False)]

Irelu = Annotated[bool, typer.Option("--irelu", help="Replace activations by IReLU.", rich_help_panel=_EDITS)]
Denorm = Annotated[bool, typer.Option("--denorm", help="Delete normalizations.", rich_help_panel=_EDITS)]
Rescale = Annotated[
    str | None,
    typer.Option(
        "--rescale",
        metavar="C|auto:DATA",
        help="Let the model learn labels / C; auto: takes C from the labels in a file.",
        rich_help_panel=_EDITS,
        show_default=False,
    ),
]
Activation = Annotated[
    str | None,
    typer.Option(
        "--activation",
        metavar="NAME",
        help="Replace activations by this one, for instance integrated-silu.",
        autocompletion=_activation_names,
        rich_help_panel=_EDITS,
        show_default=False,
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="paper",
        help="The paper's edits of a model of the zoo; add --rescale for its label scale.",
        rich_help_panel=_EDITS,
        show_default=False,
    ),
]
Gates = Annotated[bool, typer.Option("--gates", help="Replace gates as well.", rich_help_panel=_EDITS)]
Outputs = Annotated[
    list[str] | None,
    typer.Option(
        "--outputs",
        metavar="KEY|INDEX",
        help="An output that --rescale applies to; may be repeated.",
        rich_help_panel=_EDITS,
        show_default=False,
    ),
]

Scope = Annotated[
    str,
    typer.Option(
        "--scope", metavar="|".join(SCOPES), help="Where to edit.", autocompletion=_scopes, rich_help_panel=_SITES
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        metavar="S",
        help="Only these sites: a name, a glob, re:REGEX, class:NAME, op:NAME; may be repeated.",
        rich_help_panel=_SITES,
        show_default=False,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="S",
        help="Not these sites; may be repeated.",
        rich_help_panel=_SITES,
        show_default=False,
    ),
]
AllowEmpty = Annotated[
    bool, typer.Option("--allow-empty", help="It is no error if nothing matches.", rich_help_panel=_SITES)
]

Inputs = Annotated[
    Path | None,
    typer.Option(
        "--inputs",
        metavar="FILE",
        help="Example inputs to run the model on: a saved tuple, dict, tensor or PyG Data, or an .npz.",
        rich_help_panel=_READING,
        show_default=False,
    ),
]
Trust = Annotated[bool, typer.Option("--trust", help="Run whatever code the files contain.", rich_help_panel=_READING)]
Imports = Annotated[
    list[Path] | None,
    typer.Option(
        "--import",
        metavar="FILE.py",
        help="Your own file that defines the model's classes; may be repeated.",
        rich_help_panel=_READING,
        show_default=False,
    ),
]

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="The file to write; by default NAME.dcs.pt beside NAME.pt.",
        rich_help_panel=_WRITING,
        show_default=False,
    ),
]
PlanOutput = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="PLAN", help="The file to write.", rich_help_panel=_WRITING, show_default=False
    ),
]
ReportFile = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE.json",
        help="Write plan, checks and key map as JSON, also if a check fails.",
        rich_help_panel=_WRITING,
        show_default=False,
    ),
]
DiffFile = Annotated[
    Path | None,
    typer.Option(
        "--diff",
        metavar="FILE|-",
        help="Show what changed: - prints it, a file is .html, .svg, .json, .txt, .dot or .graphml.",
        rich_help_panel=_WRITING,
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.", rich_help_panel=_WRITING)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and write nothing.", rich_help_panel=_WRITING)]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Do not check the edited model.", rich_help_panel=_WRITING)]
KeepFailed = Annotated[
    bool, typer.Option("--keep-failed", help="Write the model even if a check fails.", rich_help_panel=_WRITING)
]

Depth = Annotated[
    int | None,
    typer.Option(
        "--depth",
        metavar="N",
        min=0,
        help="In pictures: modules below this depth stay closed.",
        rich_help_panel=SHOWING,
        show_default=False,
    ),
]
Rankdir = Annotated[
    str,
    typer.Option("--rankdir", metavar="TB|LR", help="In SVG: top down, or left to right.", rich_help_panel=SHOWING),
]

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document instead of tables.", rich_help_panel=_MESSAGES)
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Only results and errors.", rich_help_panel=_MESSAGES),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Every step, library warnings, tracebacks.", rich_help_panel=_MESSAGES),
]
