"""``dcsurgery zoo train pinn-…``: train one network on one sample of a PDE."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from dcsurgery.cli import options
from dcsurgery.cli import zoo_pde_options as given
from dcsurgery.cli.screen import screen_for
from dcsurgery.errors import BadInput

if TYPE_CHECKING:
    from dcsurgery.zoo.pde.variants import Variant
    from dcsurgery.zoo.runs import RunRecord

__all__ = ["train_pinn"]

DIVERGED = 1


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
            rich_help_panel=given.NETWORK,
        ),
    ] = None,
    size: given.Size = "paper",
    data: given.Data = None,
    sample: given.Sample = "0",
    physics: given.Physics = "correct",
    steps: given.Steps = None,
    lr: given.LearningRate = 1e-3,
    points: given.PointsPart = 1.0,
    every: given.Every = 1,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            "--weight", metavar="TERM=W", help="Weight of a term; may be repeated.", rich_help_panel=given.TRAINING
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of weights and points.", rich_help_panel=given.TRAINING)] = 0,
    precision: given.Precision = "float32",
    device: given.Device = "cpu",
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder of the runs; each in DIR/NAME/VARIANT/seedS.",
            rich_help_panel=given.FILES,
        ),
    ] = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.", rich_help_panel=given.FILES)
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
            physics=given.physics_of(physics),
            points=given.points_of(points, every),
            precision=precision,
            weights=_weights(weight or []),
        )
        given.check_device(device)
        given.tell_deviations(screen, of, physics)
        if data is None:
            screen.detail(f"making a sample of {of.title}")
        field = field_of(of, data, int(sample) if sample.isdigit() else sample)
        folder = given.folder_of(out, request)
        try:
            with given.bar(screen, f"{of.title}, {chosen.label}", request.steps) as progress:
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


def _document(folder: Path, record: RunRecord) -> dict[str, Any]:
    return {"command": "zoo train", "exit_code": 0, "folder": str(folder), **asdict(record)}


def _measures(record: RunRecord) -> Table:
    table = Table("", "value")
    for name, value in record.metrics.items():
        table.add_row(name, f"{value:.4g}")
    return table
