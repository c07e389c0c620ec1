"""``dcsurgery zoo data``: read, describe, convert, split and generate data sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from dcsurgery.cli.failures import OneLineGroup
from dcsurgery.cli.screen import screen_for
from dcsurgery.errors import BadInput

__all__ = ["app", "data"]

data = typer.Typer(
    name="data",
    cls=OneLineGroup,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
    help="Read, describe, convert, split and generate data sets.",
)
app = data

_TABLE_6 = ("", "set", "formula", "atoms", "paper", "conformations", "paper")
_SOURCE_HELP = "npz, extxyz, traj, db or LMDB file, a folder of them, or md17:NAME or rmd17:NAME to download."
Source = Annotated[str, typer.Argument(metavar="SOURCE", help=_SOURCE_HELP, show_default=False)]
Sources = Annotated[list[str], typer.Argument(metavar="SOURCE…", help=_SOURCE_HELP, show_default=False)]
FileUnits = Annotated[
    str | None,
    typer.Option(
        "--units", help='What the numbers are in: "kcal/mol", "eV", "hartree, bohr".', show_default="by format"
    ),
]
Format = Annotated[str | None, typer.Option("--format", help="npz, lmdb or an ASE format.", show_default="by ending")]
TrustUnits = Annotated[bool, typer.Option("--trust-units", help="Do not question the numbers' units.")]
References = Annotated[
    Path | None, typer.Option(help="npz with coeff: energies per element in eV, taken off.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.", show_default=False)]
Frames = Annotated[int, typer.Option(help="Frames to keep.")]
Seed = Annotated[int, typer.Option(help="Seed.")]
Temperature = Annotated[float, typer.Option(help="In kelvin.")]
Timestep = Annotated[float, typer.Option(help="In fs.")]
Interval = Annotated[int, typer.Option(help="Steps between two frames of one trajectory.")]
Equilibration = Annotated[int, typer.Option(help="Steps before the first.")]
Chains = Annotated[int, typer.Option(help="Independent trajectories; they decide the result.")]
Workers = Annotated[
    int | None, typer.Option(help="Processes; they do not change the result.", show_default="one for each core")
]


@data.command()
def stats(
    sources: Sources,
    units: FileUnits = None,
    fmt: Format = None,
    to: Annotated[str | None, typer.Option("--to", help="Show in these units.", show_default="the file's")] = None,
    trust_units: TrustUnits = False,
    as_json: Json = False,
) -> None:
    """Print the columns of the paper's Table 6 for data files, beside the paper's values, and the labels' size."""
    from dcsurgery.zoo.data.statistics import paper_row, statistics

    rows = []
    for source in sources:
        read = _load(source, units, fmt, trust_units)
        rows.append(statistics(read.to(to) if to else read))
    with screen_for(quiet=False, verbose=False, as_json=as_json) as screen:
        table = _table("Data sets, and the paper's Table 6", *_TABLE_6)
        labels = _table("Labels", "set", "energy", "std", "force rms", "force max", "unit of energy", "C")
        for row in rows:
            paper = paper_row(row.formula)
            low, high = row.atoms
            table.add_row(
                row.abbreviation,
                row.name,
                row.formula or f"{row.systems} systems",
                str(low) if low == high else f"{low}-{high}",
                str(paper.atoms) if paper else "",
                str(row.conformations),
                str(paper.conformations) if paper else "",
            )
            figures = (row.energy_mean, row.energy_std, row.force_rms, row.force_max)
            labels.add_row(row.name, *(f"{figure:.2f}" for figure in figures), row.energy_unit, f"{row.rescale:g}")
        screen.result(table, labels)
        documents = []
        for row in rows:
            paper = paper_row(row.formula)
            documents.append({**asdict(row), "paper": asdict(paper) if paper else None})
        screen.document({"sets": documents})


@data.command()
def convert(
    source: Source,
    output: Output,
    units: FileUnits = None,
    fmt: Format = None,
    to: Annotated[str | None, typer.Option("--to", help="Units to write.", show_default="the source's")] = None,
    references: References = None,
    trust_units: TrustUnits = False,
    force: Force = False,
) -> None:
    """Write a data set into another format or other units."""
    from dcsurgery.zoo.data.converting import write_data
    from dcsurgery.zoo.data.units import Units

    read = _load(source, units, fmt, trust_units, references)
    if to:
        read = read.to(to)
        if output.suffix in (".traj", ".db") and read.units != Units():
            raise BadInput(f"{output.suffix} is ASE's own format, in eV and Å", where=str(output), fix="write .extxyz")
    with _bar(f"writing {output.name}", len(read)) as progress:
        write_data(read, output, force=force, progress=progress)
    written = Units() if output.suffix in (".traj", ".db") else read.units
    _say(f"wrote {output}: {len(read)} structures in {written}")


@data.command()
def split(
    source: Source,
    sizes: Annotated[str, typer.Option(help="Training, validation, test: 50000,6250,6250.", show_default=False)],
    output: Output,
    seed: Seed = 0,
    by_system: Annotated[bool, typer.Option("--by-system", help="Draw whole systems.")] = False,
    units: FileUnits = None,
    fmt: Format = None,
    trust_units: TrustUnits = False,
    force: Force = False,
) -> None:
    """Draw a random split and save it with the data's fingerprint."""
    from dcsurgery.zoo.data.splits import Split

    try:
        wanted = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        raise BadInput(f"cannot read sizes {sizes!r}", where="--sizes", fix="such as 50000,6250,6250") from None
    if output.exists() and not force:
        raise BadInput("the file exists", where=str(output), fix="choose another name or add --force")
    drawn = Split.draw(_load(source, units, fmt, trust_units), wanted, seed, by_system=by_system)
    drawn.save(output)
    parts = ", ".join(f"{len(rows)} {name}" for name, rows in drawn.parts.items())
    _say(f"wrote {output}: {parts}; data {drawn.fingerprint}")


@data.command()
def xtb(
    molecule: Annotated[
        str,
        typer.Argument(help="One of MD17's molecules, one of ASE's G2 set, or a slab: MgO100+CO.", show_default=False),
    ],
    output: Output,
    frames: Frames = 1000,
    seed: Seed = 0,
    temperature: Temperature = 500.0,
    timestep: Timestep = 0.5,
    interval: Interval = 400,
    equilibration: Equilibration = 4000,
    chains: Chains = 8,
    workers: Workers = None,
    method: Annotated[str, typer.Option(help="GFN2-xTB or GFN1-xTB.")] = "GFN2-xTB",
    size: Annotated[str, typer.Option(help="Of a slab: repeats and layers.")] = "2x2x2",
    force: Force = False,
) -> None:
    """Generate labelled molecular dynamics with GFN-xTB (tblite), over several processes."""
    if method not in ("GFN2-xTB", "GFN1-xTB"):
        raise BadInput(f"unknown method {method!r}", where="--method", fix="GFN2-xTB or GFN1-xTB")
    _dynamics(
        molecule, output, chains, workers, force, method=method, size=_size(size), frames=frames, seed=seed,
        temperature=temperature, timestep=timestep, interval=interval, equilibration=equilibration,
    )  # fmt: skip


@data.command()
def emt(
    slab: Annotated[
        str, typer.Argument(help="Metal and facet, and an adsorbate: Cu111, Pt111+CO.", show_default=False)
    ],
    output: Output,
    frames: Frames = 1000,
    seed: Seed = 0,
    temperature: Temperature = 300.0,
    timestep: Timestep = 1.0,
    interval: Interval = 100,
    equilibration: Equilibration = 1000,
    chains: Chains = 4,
    workers: Workers = None,
    size: Annotated[str, typer.Option(help="Repeats along the surface, and layers.")] = "2x2x3",
    force: Force = False,
) -> None:
    """Generate labelled dynamics of a metal slab with ASE's effective medium theory."""
    _dynamics(
        slab, output, chains, workers, force, method="EMT", size=_size(size), frames=frames, seed=seed,
        temperature=temperature, timestep=timestep, interval=interval, equilibration=equilibration,
    )  # fmt: skip


@data.command()
def sgdml(
    field: Annotated[Path, typer.Argument(metavar="FIELD", help="sGDML force field, npz.", show_default=False)],
    output: Output,
    frames: Frames = 50_000,
    walkers: Annotated[int, typer.Option(help="Copies of the molecule that move at once.")] = 500,
    seed: Seed = 0,
    temperature: Temperature = 500.0,
    timestep: Timestep = 0.5,
    interval: Interval = 100,
    equilibration: Equilibration = 2000,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    force: Force = False,
) -> None:
    """Generate MD17-like conformations with an sGDML force field and many walkers at once."""
    from dcsurgery.zoo.data.sgdml import read_force_field
    from dcsurgery.zoo.data.walkers import WalkerSettings, run_walkers

    settings = WalkerSettings(frames, walkers, seed, temperature, timestep, interval, equilibration)
    read = read_force_field(field)
    with _resumable(output, output.name + ".partial"), _bar(f"{read.name}, {walkers} walkers", frames) as progress:
        run_walkers(read, settings, output, device=device, force=force, progress=progress)
    _say(f"wrote {output}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        left = column in ("", "set", "formula", "unit of energy")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    return table


def _dynamics(name: str, output: Path, chains: int, workers: int | None, force: bool, **settings: Any) -> None:
    from dcsurgery.zoo.data.chains import generate_chains
    from dcsurgery.zoo.data.xtb import Settings

    run = Settings(name, **settings)
    unfinished = output.name + (".parts" if chains > 1 else ".partial")
    with _resumable(output, unfinished), _bar(f"{name}, {run.method}, {chains} chains", run.frames) as progress:
        generate_chains(
            run, output, chains=chains, workers=workers or os.cpu_count() or 1, force=force, progress=progress
        )
    _say(f"wrote {output}")


def _load(source: str, units: str | None, fmt: str | None, trust_units: bool, references: Path | None = None) -> Any:
    from dcsurgery.zoo.data.loading import load

    with Progress(TextColumn("{task.description}", markup=False), TimeElapsedColumn(), **_on_stderr()) as bar:
        task = bar.add_task(f"reading {source}", total=None)
        return load(
            source,
            units=units,
            fmt=fmt,
            check_units=not trust_units,
            references=references,
            progress=lambda name: bar.update(task, description=f"reading {name}"),
        )


@contextmanager
def _bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, **_on_stderr()) as bar:
        task = bar.add_task(text, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def _resumable(output: Path, unfinished: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if output.with_name(unfinished).exists():
            _say(f"the same command goes on from {output.with_name(unfinished)}")
        raise


def _on_stderr() -> dict[str, Any]:
    console = Console(stderr=True)
    return {"console": console, "transient": True, "disable": not console.is_terminal}


def _say(text: str) -> None:
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


def _size(text: str) -> tuple[int, int, int]:
    try:
        first, second, layers = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise BadInput(f"cannot read size {text!r}", where="--size", fix="such as 2x2x3") from None
    return first, second, layers
