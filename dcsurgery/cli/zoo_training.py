"""``dcsurgery zoo train``, ``ablate``, ``table`` and ``figure``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcsurgery.cli import options
from dcsurgery.cli import zoo_training_options as training
from dcsurgery.cli.screen import screen_for
from dcsurgery.errors import BadInput

if TYPE_CHECKING:
    from dcsurgery.zoo.training.jobs import Job

__all__ = ["ablate", "figure", "table", "train"]

DIVERGED = 1


def train(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Model of the zoo.", show_default=False)],
    data: training.Data,
    irelu: options.Irelu = False,
    denorm: options.Denorm = False,
    rescale: Annotated[
        str | None,
        typer.Option(
            "--rescale", metavar="C|auto", help="Rescale labels; auto: C from the training labels.", show_default=False
        ),
    ] = None,
    recipe: training.Recipe = "paper",
    size: training.Size = "small",
    backend: training.Backend = "auto",
    references: training.References = None,
    units: training.Units = None,
    sizes: training.Sizes = None,
    split_seed: training.SplitSeed = 0,
    by_system: training.BySystem = False,
    split: training.Split = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Use only so many structures of each set.", show_default=False)
    ] = None,
    non_periodic: training.NonPeriodic = False,
    epochs: training.Epochs = 50,
    steps: training.Steps = None,
    batch_size: training.BatchSize = 20,
    lr: training.Lr = 1e-4,
    alpha: training.Alpha = 1.0,
    beta: Annotated[float, typer.Option("--beta", help="Weight of the force term.")] = 30.0,
    loss: training.Loss = "absolute",
    reference: training.Reference = "none",
    precision: training.Precision = "float32",
    seed: Annotated[int, typer.Option("--seed", help="Of weights, batches and dropout.")] = 0,
    device: training.Device = "cpu",
    devices: training.Devices = 1,
    tf32: training.Tf32 = False,
    out: training.Out = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with runs that were killed, or make finished ones longer.")
    ] = False,
    no_model: Annotated[
        bool,
        typer.Option("--no-model", help="Leave model.pt out; checkpoint.pt has the weights.", rich_help_panel="Run"),
    ] = False,
    log_every: training.LogEvery = 50,
    evaluate_every: training.EvaluateEvery = 1,
    checkpoint_every: training.CheckpointEvery = 200,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Train a model and what surgery makes of it, with the same seeds and batches, and print both.

    PINNs have other options: dcsurgery zoo train pinn-advection --help.

    Runs go to OUT/NAME/VARIANT/seedS: run.json, log.csv, TensorBoard events, checkpoint.pt, and model.pt at the end.
    Exit code 1: a loss was not finite any more.
    """
    with screen_for(quiet=quiet, verbose=verbose, as_json=as_json) as screen:
        from dcsurgery.zoo.results.groups import cells_of
        from dcsurgery.zoo.training.grid import grid
        from dcsurgery.zoo.training.jobs import run_job
        from dcsurgery.zoo.training.variants import ORIGINAL, Variant

        job = _job(
            name, data, units, sizes, split_seed, by_system, split, limit, non_periodic, references, size, backend, recipe, rescale or "auto", epochs,
            steps, batch_size, lr, alpha, beta, loss, reference, precision, seed, device, devices, tf32, out, log_every,
            evaluate_every, checkpoint_every, keep_model=not no_model, shown=not (quiet or as_json),
        )  # fmt: skip
        variant = Variant(irelu, denorm, rescale is not None)
        # What surgery refuses is known before anything is trained.
        variants = [ORIGINAL] if variant == ORIGINAL else [variant, ORIGINAL]
        records = [run_job(one, resume=resume) for one in grid(job, [name], variants, [seed])]
        screen.show(_cells_table(f"{name} on {records[0].data['name']}", cells_of(records)), _remark(records[0]))
        for record in records:
            if record.status == "diverged":
                screen.fail(f"{record.variant}: {record.note}")
            elif record.note:
                screen.warn(f"{record.variant}: {record.note}")
        screen.document({"command": "zoo train", "out": out, "runs": [_plain(record) for record in records]})
    return DIVERGED if any(record.status == "diverged" for record in records) else 0


def ablate(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Models of the zoo.", show_default=False)],
    data: training.Data,
    seeds: Annotated[str, typer.Option("--seeds", help="Different whole numbers.")] = "0,1,2",
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            help="original, or some of irelu, denorm, rescale joined by +; may be repeated. [default: original, irelu, "
            "denorm+rescale, irelu+denorm+rescale]",
            show_default=False,
        ),
    ] = None,
    rescale: training.Rescale = "auto",
    recipe: training.Recipe = "paper",
    size: training.Size = "small",
    backend: training.Backend = "auto",
    references: training.References = None,
    units: training.Units = None,
    sizes: training.Sizes = None,
    split_seed: training.SplitSeed = 0,
    by_system: training.BySystem = False,
    split: training.Split = None,
    limit: Annotated[
        list[int] | None,
        typer.Option("--limit", help="Structures of each set that are used; may be repeated.", show_default=False),
    ] = None,
    non_periodic: training.NonPeriodic = False,
    epochs: training.Epochs = 50,
    steps: training.Steps = None,
    batch_size: training.BatchSize = 20,
    lr: training.Lr = 1e-4,
    alpha: training.Alpha = 1.0,
    beta: Annotated[
        list[float] | None,
        typer.Option("--beta", help="Weight of the force term; may be repeated. [default: 30]", show_default=False),
    ] = None,
    loss: training.Loss = "absolute",
    reference: training.Reference = "none",
    precision: training.Precision = "float32",
    device: training.Device = "cpu",
    devices: training.Devices = 1,
    tf32: training.Tf32 = False,
    workers: Annotated[int, typer.Option("--workers", help="Runs side by side, in processes.")] = 1,
    out: training.Out = Path("runs"),
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Write model.pt of every run.")] = False,
    log_every: training.LogEvery = 50,
    evaluate_every: training.EvaluateEvery = 1,
    checkpoint_every: training.CheckpointEvery = 200,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Train every variant of every model with several seeds; runs that ended are skipped, killed ones resumed.

    Exit code 1: a run failed; the others were done.
    """
    with screen_for(quiet=quiet, verbose=verbose, as_json=as_json) as screen:
        from dcsurgery.zoo.results.groups import cells_of
        from dcsurgery.zoo.training.grid import Done, grid, run_grid
        from dcsurgery.zoo.training.variants import GRID, Variant

        betas, limits = beta or [30.0], limit or []
        job = _job(
            names[0], data, units, sizes, split_seed, by_system, split, None, non_periodic, references, size, backend, recipe, rescale, epochs, steps,
            batch_size, lr, alpha, betas[0], loss, reference, precision, 0, device, devices, tf32, out, log_every,
            evaluate_every, checkpoint_every, keep_model=keep_models, shown=False,
        )  # fmt: skip
        variants = [Variant.named(text) for text in variant] if variant else list(GRID)
        jobs = grid(job, names, variants, training.parse_seeds(seeds), betas, limits)
        with screen.steps(len(jobs)) as begin:
            begin(f"{len(jobs)} runs")

            def told(done: Done) -> None:
                begin(f"{done.job.model} {done.job.variant.name} seed {done.job.settings.seed}")

            results = run_grid(jobs, workers, told)
        failed = [done for done in results if done.record is None]
        records = [done.record for done in results if done.record is not None]
        for done in failed:
            screen.fail(f"{done.job.model} {done.job.variant.name} seed {done.job.settings.seed}: {done.error}")
        if records:
            screen.show(_cells_table(f"{len(records)} runs in {out}", cells_of(records)), _remark(records[0]))
        screen.document(
            {
                "command": "zoo ablate",
                "out": out,
                "runs": [_plain(record) for record in records],
                "failed": [{"folder": done.job.folder, "error": done.error} for done in failed],
            }
        )
    return DIVERGED if failed else 0


def table(
    number: Annotated[
        int, typer.Argument(metavar="N", help="1, 2, 6, 7, 8 or 9; 3, 4, 5 of the PINNs.", show_default=False)
    ],
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of finished runs.")] = Path("runs"),
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data", metavar="FILE", help="For Table 6: data to describe; may be repeated.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.md|.json", help="Write it to a file.", show_default=False),
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Print a table of the paper from finished runs, beside the paper's numbers, and judge its claims.

    Tables 3, 4 and 5 have other options: dcsurgery zoo table 3 --help.
    """
    with screen_for(quiet=quiet, verbose=verbose, as_json=as_json) as screen:
        from dcsurgery.cli import zoo_tables

        if number == 6:
            document, shown, markdown = zoo_tables.molecules(data or [])
        else:
            if data:
                raise BadInput("--data belongs to Table 6", fix="leave it out")
            document, shown, markdown = zoo_tables.comparison(number, runs, screen.width)
        screen.result(*shown)
        screen.document(document)
        if output is not None:
            zoo_tables.write(output, document, markdown)
            screen.show(f"wrote {output}")
    return 0


def figure(
    number: Annotated[
        int, typer.Argument(metavar="N", help="1: force weight; 2: size of the training set.", show_default=False)
    ],
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of finished runs.")] = Path("runs"),
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.svg|.png|.pdf", help="Draw it.", show_default=False)
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Print the points of a figure of the paper from finished runs, and draw it."""
    with screen_for(quiet=quiet, verbose=verbose, as_json=as_json) as screen:
        from dcsurgery.cli import zoo_tables
        from dcsurgery.zoo.results.figures import draw, points_of

        points = points_of(number, runs)
        screen.result(zoo_tables.points_table(number, points))
        if output is not None:
            draw(number, points, output)
            screen.show(f"wrote {output}")
        screen.document({"command": "zoo figure", "figure": number, "points": [point.to_dict() for point in points]})
    return 0


def _job(
    name: str, data: str, units: str | None, sizes: str | None, split_seed: int, by_system: bool, split: Path | None, limit: int | None,
    non_periodic: bool, references: Path | None, size: str, backend: str, recipe: str, rescale: str, epochs: int, steps: int | None, batch_size: int, lr: float,
    alpha: float, beta: float, loss: Any, reference: Any, precision: Any, seed: int, device: str, devices: int,
    tf32: bool, out: Path, log_every: int, evaluate_every: int, checkpoint_every: int, *, keep_model: bool, shown: bool,
) -> Job:  # fmt: skip
    """Return the run that the options describe; its variant is the original."""
    from dcsurgery.zoo.runs import command_line
    from dcsurgery.zoo.training.jobs import Job
    from dcsurgery.zoo.training.parts import DataChoice
    from dcsurgery.zoo.training.settings import Settings
    from dcsurgery.zoo.training.trainer import Pace
    from dcsurgery.zoo.training.variants import ORIGINAL

    chosen = DataChoice(
        data,
        units,
        training.parse_sizes(sizes),
        split_seed,
        by_system,
        str(split) if split else None,
        limit,
        not non_periodic,
        str(references) if references else None,
    )
    settings = Settings(epochs, steps, batch_size, lr, alpha, beta, loss, reference, seed, precision, tf32)
    return Job(
        name,
        ORIGINAL,
        settings,
        chosen,
        str(out),
        size=size,
        backend=backend,
        recipe=recipe,
        scale=training.parse_scale(rescale),
        device=device,
        devices=devices,
        pace=Pace(log_every, evaluate_every, checkpoint_every),
        keep_model=keep_model,
        shown=shown,
        command=command_line(),
    )


def _cells_table(title: str, cells: Any) -> Any:
    from dcsurgery.cli import zoo_tables

    return zoo_tables.cells_table(title, cells)


def _remark(record: Any) -> str:
    settings = record.settings
    rounding = "TF32 on" if settings["tf32"] else "TF32 off"
    energies = "raw energies" if settings["reference"] == "none" else "energies less their mean"
    return (
        f"Mean absolute errors on {record.data['test']} test structures. {settings['loss']} loss, alpha "
        f"{settings['alpha']:g}, beta {settings['beta']:g}, {energies}, {settings['precision']}, {rounding}, "
        f"{record.device}."
    )


def _plain(record: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(record)
