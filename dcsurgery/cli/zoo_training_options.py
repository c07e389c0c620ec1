"""Options that ``zoo train`` and ``zoo ablate`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcsurgery.errors import BadInput

_DATA, _LEARNING, _MACHINE, _RUN = "Data", "Learning", "Machine", "Run"

Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="FILE",
        help="Labelled structures: npz, extxyz, ASE trajectory, LMDB, a folder; 'ethanol' is the packaged set.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
Units = Annotated[
    str | None,
    typer.Option(
        "--units", help="Of the data, for instance kcal/mol or eV.", rich_help_panel=_DATA, show_default=False
    ),
]
Sizes = Annotated[
    str | None,
    typer.Option(
        "--sizes",
        metavar="TRAIN,VALID,TEST",
        help="Structures drawn at random for each set. [default: 50000,6250,6250, or 80, 10 and 10 %]",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
SplitSeed = Annotated[int, typer.Option("--split-seed", help="Seed of that draw.", rich_help_panel=_DATA)]
Split = Annotated[
    Path | None,
    typer.Option("--split", metavar="FILE", help="A saved split instead.", rich_help_panel=_DATA, show_default=False),
]
BySystem = Annotated[
    bool,
    typer.Option("--by-system", help="Draw whole systems (files of a folder), not structures.", rich_help_panel=_DATA),
]
NonPeriodic = Annotated[
    bool,
    typer.Option(
        "--non-periodic",
        help="Forget cells and periodicity, as the paper's programs do.",
        rich_help_panel=_DATA,
    ),
]
Size = Annotated[str, typer.Option("--size", help="small or paper.", rich_help_panel=_LEARNING)]
Backend = Annotated[
    str, typer.Option("--backend", help="Library of the model's layers, see zoo list.", rich_help_panel=_LEARNING)
]
References = Annotated[
    Path | None,
    typer.Option(
        "--references",
        metavar="FILE",
        help="Take reference energies of the elements off the energies (linref of Open Catalyst).",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
Recipe = Annotated[
    str,
    typer.Option(
        "--recipe", help="paper: edit the sites that the paper edits; all: every site.", rich_help_panel=_LEARNING
    ),
]
Rescale = Annotated[
    str,
    typer.Option(
        "--rescale", metavar="C|auto", help="Label scale C; auto: from the training labels.", rich_help_panel=_LEARNING
    ),
]
Epochs = Annotated[int, typer.Option("--epochs", help="Passes over the training set.", rich_help_panel=_LEARNING)]
Steps = Annotated[
    int | None,
    typer.Option("--steps", help="Steps instead of epochs.", rich_help_panel=_LEARNING, show_default=False),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", help="Structures per step, over all devices.", rich_help_panel=_LEARNING)
]
Lr = Annotated[float, typer.Option("--lr", help="Adam's learning rate.", rich_help_panel=_LEARNING)]
Alpha = Annotated[float, typer.Option("--alpha", help="Weight of the energy term.", rich_help_panel=_LEARNING)]
Loss = Annotated[
    str,
    typer.Option(
        "--loss",
        help="absolute (the published programs) or squared (Eq. 2 as printed).",
        rich_help_panel=_LEARNING,
    ),
]
Reference = Annotated[
    str,
    typer.Option(
        "--reference",
        help="none: raw energies, as in the paper; mean: less the mean of the training set.",
        rich_help_panel=_LEARNING,
    ),
]
Precision = Annotated[str, typer.Option("--precision", help="float32 or float64.", rich_help_panel=_LEARNING)]
Tf32 = Annotated[
    bool, typer.Option("--tf32", help="Let CUDA round float32 products to TF32.", rich_help_panel=_MACHINE)
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or auto.", rich_help_panel=_MACHINE)]
Devices = Annotated[
    int,
    typer.Option("--devices", help="Processes with one device each, which share a batch.", rich_help_panel=_MACHINE),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the runs.", rich_help_panel=_RUN)]
LogEvery = Annotated[int, typer.Option("--log-every", help="Steps between lines of the log.", rich_help_panel=_RUN)]
EvaluateEvery = Annotated[
    int,
    typer.Option("--evaluate-every", help="Epochs between validations; 0: only at the end.", rich_help_panel=_RUN),
]
CheckpointEvery = Annotated[
    int, typer.Option("--checkpoint-every", help="Steps between checkpoints.", rich_help_panel=_RUN)
]


def parse_sizes(text: str | None) -> tuple[int, int, int] | None:
    """Return the three numbers of ``--sizes``.

    Raises
    ------
    BadInput
        If there are not three whole numbers.
    """
    if text is None:
        return None
    try:
        train, valid, test = (int(part) for part in text.replace("_", "").split(","))
    except ValueError:
        raise BadInput(f"--sizes must be three whole numbers, got {text!r}", fix="for instance 1600,200,200") from None
    return train, valid, test


def parse_scale(text: str) -> float | None:
    """Return C of ``--rescale``; None for auto.

    Raises
    ------
    BadInput
        If it is no positive number.
    """
    from dcsurgery.labels import check_scale

    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        raise BadInput(f"--rescale must be auto or a number, got {text!r}", fix="for instance 1e6") from None
    return check_scale(value)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of ``--seeds``, such as ``0,1,2``.

    Raises
    ------
    BadInput
        If one is no whole number of at least 0, or appears twice.
    """
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        seeds = (-1,)
    if min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise BadInput(f"--seeds must be different whole numbers, got {text!r}", fix="for instance 0,1,2")
    return seeds
