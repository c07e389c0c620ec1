"""Options that the commands for PINNs share, and what is made of their values."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dcsurgery.cli.screen import Screen
from dcsurgery.errors import BadInput

if TYPE_CHECKING:
    from dcsurgery.zoo.pde.problems import Points, Problem
    from dcsurgery.zoo.pde.runs import Request

__all__ = [
    "FILES",
    "NETWORK",
    "TRAINING",
    "Data",
    "Device",
    "Every",
    "LearningRate",
    "Physics",
    "PointsPart",
    "Precision",
    "Sample",
    "Size",
    "Steps",
    "bar",
    "check_device",
    "folder_of",
    "physics_of",
    "points_of",
    "tell_deviations",
]

NETWORK, TRAINING, FILES = "Network", "Training", "Files"

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="FILE", help="A PDEBench HDF5 file; by default a sample is made.", rich_help_panel=FILES
    ),
]
Sample = Annotated[
    str, typer.Option("--sample", help="Which sample of the file (or seed of the one made).", rich_help_panel=FILES)
]
Physics = Annotated[
    str,
    typer.Option(
        "--physics",
        metavar="correct|published",
        help="The equations as they are, or as the published code has them.",
        rich_help_panel=TRAINING,
    ),
]
Size = Annotated[str, typer.Option("--size", metavar="paper|small", rich_help_panel=NETWORK, help="Of the network.")]
Steps = Annotated[
    int | None, typer.Option("--steps", help="Updates; by default as published.", rich_help_panel=TRAINING)
]
LearningRate = Annotated[float, typer.Option("--lr", help="Adam's learning rate.", rich_help_panel=TRAINING)]
PointsPart = Annotated[
    float,
    typer.Option("--points", metavar="PART", help="Part of the published numbers of points.", rich_help_panel=TRAINING),
]
Every = Annotated[
    int, typer.Option("--every", help="Initial values at each n-th cell of an axis.", rich_help_panel=TRAINING)
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.", rich_help_panel=TRAINING)]
Precision = Annotated[
    str, typer.Option("--precision", metavar="float32|float64", rich_help_panel=TRAINING, help="Of the network.")
]


@contextlib.contextmanager
def bar(screen: Screen, title: str, total: int) -> Iterator[Callable[[float], object] | None]:
    """Show a bar on a terminal's stderr."""
    console = Console(file=sys.stderr)
    if screen.quiet or screen.as_json or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.update(task, completed=done)


def physics_of(text: str) -> Any:
    """Return a kind of physics by its name."""
    if text not in ("correct", "published"):
        raise BadInput(f"unknown physics {text!r}", fix="use correct or published")
    return text


def points_of(part: float, every: int) -> Points:
    """Return numbers of points: a part of the published ones."""
    from dcsurgery.zoo.pde.problems import Points

    if not 0 < part <= 100:
        raise BadInput(f"--points must be a part of the published numbers, above 0, got {part:g}")
    return Points(every=every).fraction(part)


def check_device(device: str) -> None:
    """Raise BadInput if there is no such device."""
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise BadInput(f"unknown device {device!r}", fix="use cpu, cuda or cuda:N") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"there is no device {device}: torch sees no CUDA GPU", fix="use --device cpu")


def tell_deviations(screen: Screen, of: Problem, physics: str) -> None:
    """Warn of what published physics has wrong."""
    if physics == "published":
        screen.warn(f"--physics published reproduces what is wrong with the published {of.title}:")
        for deviation in of.deviations:
            screen.warn(deviation)


def folder_of(runs: Path, request: Request) -> Path:
    """Return the folder of a run."""
    return runs / f"pinn-{request.problem.name}" / request.variant.name / f"seed{request.seed}"
