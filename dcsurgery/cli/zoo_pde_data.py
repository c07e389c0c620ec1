"""``dcsurgery zoo data pde``: samples of a PDE in PDEBench's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcsurgery.cli import options
from dcsurgery.cli import zoo_pde_options as given
from dcsurgery.cli.screen import screen_for

__all__ = ["pde_data"]


def pde_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="advection, cfd or diffusion-reaction.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="By default PDEBench's name, here.", rich_help_panel=given.FILES
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
        with given.bar(screen, f"samples of {of.title}", samples) as progress:
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
