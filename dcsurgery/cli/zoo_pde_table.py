"""``dcsurgery zoo table 3|4|5``: the paper's tables of PINNs beside the runs in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcsurgery.cli import options
from dcsurgery.cli import zoo_pde_options as given
from dcsurgery.cli.screen import Screen, screen_for
from dcsurgery.cli.zoo_pde_rendering import as_markdown, as_table
from dcsurgery.errors import BadInput

if TYPE_CHECKING:
    from dcsurgery.zoo.pde.runs import Request

__all__ = ["pinn_table"]


def pinn_table(
    number: Annotated[int, typer.Argument(metavar="N", help="3 advection, 4 compressible flow, 5 diffusion-reaction.")],
    runs: Annotated[
        Path, typer.Option("--runs", metavar="FOLDER", help="Folder of the runs.", rich_help_panel=given.FILES)
    ] = Path("runs"),
    train: Annotated[
        bool, typer.Option("--train", help="Train what is missing first.", rich_help_panel=given.TRAINING)
    ] = False,
    seeds: Annotated[
        int, typer.Option("--seeds", help="How many seeds --train trains.", rich_help_panel=given.TRAINING)
    ] = 3,
    data: given.Data = None,
    sample: given.Sample = "0",
    physics: given.Physics = "correct",
    steps: given.Steps = None,
    lr: given.LearningRate = 1e-3,
    points: given.PointsPart = 1.0,
    every: given.Every = 1,
    size: given.Size = "paper",
    precision: given.Precision = "float32",
    device: given.Device = "cpu",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE.md", help="Write the table here as well.", rich_help_panel=given.FILES
        ),
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
            given.check_device(device)
            given.tell_deviations(screen, of, physics)
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
                        physics=given.physics_of(physics),
                        points=given.points_of(points, every),
                        precision=precision,
                    )
                    _train_missing(screen, request, field, given.folder_of(runs, request), device)
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


def _train_missing(screen: Screen, request: Request, field: Any, folder: Path, device: str) -> None:
    from dcsurgery.zoo.pde.runs import run
    from dcsurgery.zoo.pde.training import Diverged

    with given.bar(
        screen, f"{request.problem.title}, {request.variant.label}, seed {request.seed}", request.steps
    ) as progress:
        try:
            run(request, field, folder, device=device, resume=True, progress=progress)
        except Diverged as error:
            screen.warn(f"{request.variant.name}, seed {request.seed}: {error}")
