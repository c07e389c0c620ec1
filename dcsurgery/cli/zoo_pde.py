"""``dcsurgery zoo`` for PINNs: ``train pinn-…``, ``table 3|4|5`` and ``data pde``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from dcsurgery.cli import options
from dcsurgery.cli.screen import Screen, screen_for
from dcsurgery.cli.zoo_pde_tables import as_markdown, as_table
from dcsurgery.errors import BadInput

if TYPE_CHECKING:
    from dcsurgery.zoo.pde.problems import Points, Problem
    from dcsurgery.zoo.pde.runs import Request
    from dcsurgery.zoo.pde.variants import Variant
    from dcsurgery.zoo.runs import RunRecord

__all__ = ["pde_data", "pinn_table", "train_pinn"]

DIVERGED = 1

_NETWORK, _TRAINING, _FILES = "Network", "Training", "Files"

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="FILE", help="A PDEBench HDF5 file; by default a sample is made.", rich_help_panel=_FILES
    ),
]
Sample = Annotated[
    str, typer.Option("--sample", help="Which sample of the file (or seed of the one made).", rich_help_panel=_FILES)
]
Physics_ = Annotated[
    str,
    typer.Option(
        "--physics",
        metavar="correct|published",
        help="The equations as they are, or as the published code has them.",
        rich_help_panel=_TRAINING,
    ),
]
Size = Annotated[str, typer.Option("--size", metavar="paper|small", rich_help_panel=_NETWORK, help="Of the network.")]
Steps = Annotated[
    int | None, typer.Option("--steps", help="Updates; by default as published.", rich_help_panel=_TRAINING)
]
LearningRate = Annotated[float, typer.Option("--lr", help="Adam's learning rate.", rich_help_panel=_TRAINING)]
PointsPart = Annotated[
    float,
    typer.Option(
        "--points", metavar="PART", help="Part of the published numbers of points.", rich_help_panel=_TRAINING
    ),
]
Every = Annotated[
    int, typer.Option("--every", help="Initial values at each n-th cell of an axis.", rich_help_panel=_TRAINING)
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.", rich_help_panel=_TRAINING)]
Precision = Annotated[
    str, typer.Option("--precision", metavar="float32|float64", rich_help_panel=_TRAINING, help="Of the network.")
]


def train_pinn(
    name: Annotated[str, typer.Argument(metavar="NAME", help="pinn-advection, pinn-cfd or pinn-diffusion-reaction.")],
    irelu: options.Irelu = False,
    denorm: options.Denorm = False,
    activation: options.Activation = None,
    norm: Annotated[
        bool | None,
        typer.Option(
            "--batch-norm/--no-batch-norm",
            help="Batch normalization in the network that is edited; by default where --denorm is given.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    size: Size = "paper",
    data: Data = None,
    sample: Sample = "0",
    physics: Physics_ = "correct",
    steps: Steps = None,
    lr: LearningRate = 1e-3,
    points: PointsPart = 1.0,
    every: Every = 1,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            "--weight", metavar="TERM=W", help="Weight of a term; may be repeated.", rich_help_panel=_TRAINING
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of weights and points.", rich_help_panel=_TRAINING)] = 0,
    precision: Precision = "float32",
    device: Device = "cpu",
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="Folder of the runs; each in DIR/NAME/VARIANT/seedS.", rich_help_panel=_FILES
        ),
    ] = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.", rich_help_panel=_FILES)
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Train a PINN on one sample: edited as asked for, measured, with its record and pictures in a folder.

    Exit code 1: a term of the loss was not finite any more.
    """
    with screen_for(quiet=quiet, verbose=verbose, as_json=as_json) as screen:
        from dcsurgery.zoo.pde.problems import problem
        from dcsurgery.zoo.pde.runs import Request, field_of, run
        from dcsurgery.zoo.pde.training import Diverged
        from dcsurgery.zoo.runs import RunRecord

        of = problem(name)
        chosen = _variant(irelu, denorm, activation, norm)
        request = Request(
            of,
            chosen,
            steps=of.steps if steps is None else steps,
            lr=lr,
            seed=seed,
            size=size,
            physics=_physics(physics),
            points=_points(points, every),
            precision=precision,
            weights=_weights(weight or []),
        )
        _check_device(device)
        _tell_deviations(screen, of, physics)
        if data is None:
            screen.detail(f"making a sample of {of.title}")
        field = field_of(of, data, int(sample) if sample.isdigit() else sample)
        folder = _folder(out, request)
        try:
            with _bar(screen, f"{of.title}, {chosen.label}", request.steps) as progress:
                result = run(request, field, folder, device=device, resume=resume, progress=progress)
        except Diverged as error:
            screen.fail(str(error))
            screen.document({**_document(folder, RunRecord.load(folder)), "exit_code": DIVERGED, "error": str(error)})
            return DIVERGED
        record = result.record
        if result.history is None:
            screen.warn(f"{folder}: the run had ended before; nothing was trained")
        if record.note:
            screen.warn(record.note)
        screen.show(_measures(record))
        screen.result(f"{folder}: {record.status} after {request.steps} steps, {record.wall_time:.1f} s")
        screen.document(_document(folder, record))
        return 0


def pinn_table(
    number: Annotated[int, typer.Argument(metavar="N", help="3 advection, 4 compressible flow, 5 diffusion-reaction.")],
    runs: Annotated[
        Path, typer.Option("--runs", metavar="FOLDER", help="Folder of the runs.", rich_help_panel=_FILES)
    ] = Path("runs"),
    train: Annotated[
        bool, typer.Option("--train", help="Train what is missing first.", rich_help_panel=_TRAINING)
    ] = False,
    seeds: Annotated[
        int, typer.Option("--seeds", help="How many seeds --train trains.", rich_help_panel=_TRAINING)
    ] = 3,
    data: Data = None,
    sample: Sample = "0",
    physics: Physics_ = "correct",
    steps: Steps = None,
    lr: LearningRate = 1e-3,
    points: PointsPart = 1.0,
    every: Every = 1,
    size: Size = "paper",
    precision: Precision = "float32",
    device: Device = "cpu",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.md", help="Write the table here as well.", rich_help_panel=_FILES),
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Print one of the paper's Tables 3 to 5 beside what the runs in a folder gave, and why they cannot be compared."""
    with screen_for(quiet=quiet, verbose=verbose, as_json=as_json) as screen:
        from dcsurgery.zoo.pde import tables
        from dcsurgery.zoo.pde.runs import Request, field_of
        from dcsurgery.zoo.runs import find_runs

        of = tables.problem_of(number)
        if train:
            if seeds < 1:
                raise BadInput(f"at least 1 seed must be trained, got {seeds}")
            _check_device(device)
            _tell_deviations(screen, of, physics)
            field = field_of(of, data, int(sample) if sample.isdigit() else sample)
            for seed in range(seeds):
                for chosen in tables.variants_of(number):
                    request = Request(
                        of,
                        chosen,
                        steps=of.steps if steps is None else steps,
                        lr=lr,
                        seed=seed,
                        size=size,
                        physics=_physics(physics),
                        points=_points(points, every),
                        precision=precision,
                    )
                    _train_missing(screen, request, field, _folder(runs, request), device)
        records = [record for _, record in find_runs(runs)]
        rows = tables.rows(number, records)
        if not any(row.seeds for row in rows):
            raise BadInput(f"no finished run of pinn-{of.name}", where=str(runs), fix="add --train, or zoo train first")
        mine = next(record for record in records if record.name == f"pinn-{of.name}" and record.ended)
        screen.result(as_table(number, rows))
        for note in tables.notes(number):
            screen.result(note)
        if output is not None:
            from dcsurgery.zoo.writing import replacing

            with replacing(output) as file:
                file.write(as_markdown(number, rows, mine).encode())
        screen.document(
            {
                "command": "zoo table",
                "exit_code": 0,
                "table": number,
                "settings": dict(mine.settings),
                "data": dict(mine.data),
                "columns": list(tables.columns(number)),
                "rows": [
                    {
                        "variant": row.variant.name,
                        "label": row.variant.label,
                        "seeds": list(row.seeds),
                        "diverged": row.diverged,
                        "constant": row.constant,
                        "paper": list(row.paper),
                        "ours": {name: {"mean": cell.mean, "std": cell.std} for name, cell in row.cells.items()},
                    }
                    for row in rows
                ],
                "notes": list(tables.notes(number)),
            }
        )
        return 0


def pde_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="advection, cfd or diffusion-reaction.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="By default PDEBench's name, here.", rich_help_panel=_FILES
        ),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", help="How many.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Of the first sample; the others' follow.")] = 0,
    cells: Annotated[int | None, typer.Option("--cells", help="Cells of an axis; by default PDEBench's.")] = None,
    frames: Annotated[int | None, typer.Option("--frames", help="Times; by default PDEBench's.")] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Make a data set in PDEBench's HDF5 layout; an interrupted run is gone on with by the same command."""
    with screen_for(quiet=quiet, verbose=verbose, as_json=as_json) as screen:
        from dcsurgery.zoo.pde.generators import FILES, generate
        from dcsurgery.zoo.pde.problems import problem

        of = problem(name)
        path = output or Path(FILES[of.name])
        with _bar(screen, f"samples of {of.title}", samples) as progress:
            generate(path, of.name, samples=samples, seed=seed, cells=cells, frames=frames, progress=progress)
        screen.result(f"{path}: {samples} samples, seeds {seed} to {seed + samples - 1}")
        screen.document(
            {
                "command": "zoo data pde",
                "exit_code": 0,
                "file": str(path),
                "problem": of.name,
                "samples": samples,
                "seed": seed,
            }
        )
        return 0


@contextlib.contextmanager
def _bar(screen: Screen, title: str, total: int) -> Iterator[Callable[[float], object] | None]:
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


def _variant(irelu: bool, denorm: bool, activation: str | None, norm: bool | None) -> Variant:
    from dcsurgery.activations import activation_by_name, name_of
    from dcsurgery.zoo.pde.variants import Variant

    if irelu and activation is not None:
        raise BadInput("--irelu and --activation exclude each other", fix="leave one of them out")
    chosen = "irelu" if irelu else None if activation is None else name_of(activation_by_name(activation))
    normed = denorm if norm is None else norm
    if denorm and not normed:
        raise BadInput("--denorm has nothing to delete with --no-batch-norm", fix="leave one of them out")
    kept = normed and not denorm
    return Variant(
        (chosen or "tanh") + ("-bn" if kept else ""),
        (chosen or "tanh") + (", batch norm" if kept else ""),
        norm=normed,
        denorm=denorm,
        activation=chosen,
    )


def _physics(text: str) -> Any:
    if text not in ("correct", "published"):
        raise BadInput(f"unknown physics {text!r}", fix="use correct or published")
    return text


def _points(part: float, every: int) -> Points:
    from dcsurgery.zoo.pde.problems import Points

    if not 0 < part <= 100:
        raise BadInput(f"--points must be a part of the published numbers, above 0, got {part:g}")
    return Points(every=every).fraction(part)


def _weights(texts: list[str]) -> dict[str, float]:
    weights = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            weights[name] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise BadInput(f"cannot read --weight {text}", fix="write it like --weight ic_u=10")
    return weights


def _check_device(device: str) -> None:
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise BadInput(f"unknown device {device!r}", fix="use cpu, cuda or cuda:N") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"there is no device {device}: torch sees no CUDA GPU", fix="use --device cpu")


def _tell_deviations(screen: Screen, of: Problem, physics: str) -> None:
    if physics == "published":
        screen.warn(f"--physics published reproduces what is wrong with the published {of.title}:")
        for deviation in of.deviations:
            screen.warn(deviation)


def _train_missing(screen: Screen, request: Request, field: Any, folder: Path, device: str) -> None:
    from dcsurgery.zoo.pde.runs import run
    from dcsurgery.zoo.pde.training import Diverged

    with _bar(
        screen, f"{request.problem.title}, {request.variant.label}, seed {request.seed}", request.steps
    ) as progress:
        try:
            run(request, field, folder, device=device, resume=True, progress=progress)
        except Diverged as error:
            screen.warn(f"{request.variant.name}, seed {request.seed}: {error}")


def _folder(runs: Path, request: Request) -> Path:
    return runs / f"pinn-{request.problem.name}" / request.variant.name / f"seed{request.seed}"


def _document(folder: Path, record: RunRecord) -> dict[str, Any]:
    return {"command": "zoo train", "exit_code": 0, "folder": str(folder), **asdict(record)}


def _measures(record: RunRecord) -> Table:
    table = Table("", "value")
    for name, value in record.metrics.items():
        table.add_row(name, f"{value:.4g}")
    return table
