"""``make demo``: two models are built, saved, transformed file to file and trained, before and after.

DimeNet++ gets IReLU in its output blocks; the batch-normalized CGConv model gets IReLU everywhere, loses its norms and
has its labels rescaled. The transforms are runs of the command line, as a user would type them.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from torch import nn

from dcsurgery.errors import BadInput, SurgeryError
from dcsurgery.zoo.data.molecules import MoleculeData, ethanol, ethanol_path
from dcsurgery.zoo.registry import build, save_checkpoint
from dcsurgery.zoo.training import History, Reference, train

__all__ = ["PATIENTS", "Patient", "compare", "main", "operate", "prepare", "run"]

FRAMES_IN_EXAMPLE = 2


@dataclass(frozen=True)
class Patient:
    """A model of the demo and what is done to it.

    Attributes
    ----------
    model
        Name in the registry.
    file
        File name of its checkpoint.
    options
        Options of ``dcsurgery transform``; ``{data}`` is the data set's path.
    reference
        Energies that both variants are trained on: raw (``none``) or without their mean (``mean``).
    """

    model: str
    file: str
    options: tuple[str, ...]
    reference: Reference

    @property
    def edited(self) -> str:
        """File name that ``dcsurgery transform`` gives its result."""
        return f"{Path(self.file).stem}.dcs.pt"


PATIENTS = (
    Patient("dimenet++", "dimenetpp.pt", ("--irelu", "--scope", "output-blocks"), "mean"),
    Patient("cgconv-bn", "cgconv_bn.pt", ("--irelu", "--denorm", "--rescale", "auto:{data}"), "none"),
)


def prepare(folder: Path, seed: int) -> None:
    """Write the checkpoints of all patients and ``inputs.pt`` (z, pos, batch of two ethanol molecules)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the folder: {error.strerror}", where=str(folder)) from None
    for patient in PATIENTS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            save_checkpoint(build(patient.model), folder / patient.file)
    data = ethanol()[:FRAMES_IN_EXAMPLE]
    z = torch.as_tensor(data.numbers).repeat(len(data))
    pos = torch.as_tensor(data.positions.reshape(-1, 3), dtype=torch.float32)
    batch = torch.arange(len(data)).repeat_interleave(len(data.numbers))
    torch.save((z, pos, batch), folder / "inputs.pt")


def operate(patient: Patient, folder: Path, console: Console) -> Path:
    """Run ``dcsurgery inspect`` and ``dcsurgery transform`` on a patient's checkpoint; return the new file.

    Raises
    ------
    BadInput
        If the command fails; it has printed why.
    """
    options = [option.format(data=ethanol_path()) for option in patient.options]
    file, inputs = str(folder / patient.file), ["--inputs", str(folder / "inputs.pt")]
    _command(["inspect", file, *inputs], console)
    _command(["transform", file, *options, *inputs, "--force"], console)
    return folder / patient.edited


def picture(patient: Patient, folder: Path, console: Console) -> None:
    """Write ``diff.html`` and, where graphviz is installed, ``diff.svg``: what the surgery of a patient changed."""
    before, after = str(folder / patient.file), str(folder / patient.edited)
    for name in ("diff.html", *(("diff.svg",) if shutil.which("dot") else ())):
        words = ["diff", before, after, "--inputs", str(folder / "inputs.pt"), "-o", str(folder / name), "--force"]
        _command(words, console)


def _command(arguments: list[str], console: Console) -> None:
    console.print(f"\n$ {shlex.join(['dcsurgery', *arguments])}", style="bold", markup=False, highlight=False)
    command = [sys.executable, "-m", "dcsurgery.cli.app", *arguments]
    done = subprocess.run(command, check=False)  # noqa: S603  # the arguments are this file's own
    if done.returncode:
        name, file = arguments[:2]
        raise BadInput(f"dcsurgery {name} ended with exit code {done.returncode}", where=file)


def compare(
    variants: dict[str, nn.Module],
    data: MoleculeData,
    *,
    steps: int,
    seed: int,
    reference: Reference,
    progress: Callable[[], object] | None = None,
) -> dict[str, History]:
    """Train variants of a model in the same way: same structures, same batches, same settings."""
    return {
        name: train(
            model,
            data,
            steps=steps,
            seed=seed,
            reference=reference,
            progress=progress,
        )
        for name, model in variants.items()
    }


def run(folder: Path, steps: int, seed: int, console: Console) -> None:
    """Do the whole demo.

    Raises
    ------
    SurgeryError
        If a step fails.
    """
    if steps < 1:
        raise BadInput(f"steps must be at least 1, got {steps}")
    import dcsurgery

    prepare(folder, seed)
    edited = {patient.model: operate(patient, folder, console) for patient in PATIENTS}
    picture(PATIENTS[-1], folder, console)
    data = ethanol()
    title = f"{steps} steps of training on ethanol, mean absolute errors on 100 other frames"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("model", "energies", "variant", "C"):
        table.add_column(column, no_wrap=True)
    for column in ("E\nbefore", "E\nafter", "F\nbefore", "F\nafter"):
        table.add_column(column, justify="right", no_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console.print()
    with Progress(*columns, console=console, transient=True) as bar:
        for patient in PATIENTS:
            variants = {
                "original": dcsurgery.load(folder / patient.file),
                "transformed": dcsurgery.load(edited[patient.model]),
            }
            task = bar.add_task(f"training {patient.model}", total=steps * len(variants))
            histories = compare(
                variants,
                data,
                steps=steps,
                seed=seed,
                reference=patient.reference,
                progress=partial(bar.advance, task),
            )
            for name, history in histories.items():
                table.add_row(*_row(patient, name, history))
    console.print(table)
    console.print(
        f"Energies E in kcal/mol, forces F in kcal/mol/Å, errors before and after training. Energies '-mean' are taken "
        f"relative to the mean of the training set; 'raw' ones have mean {data.energies.mean():.0f} and "
        f"spread {data.energies.std():.1f}: most of such an error is the offset. So few steps show that the edited "
        "models train, not which of them is better in the end.",
        markup=False,
        highlight=False,
    )


def _row(patient: Patient, variant: str, history: History) -> tuple[str, ...]:
    errors = (history.before.energy, history.after.energy, history.before.force, history.after.force)
    energies = "raw" if patient.reference == "none" else "-mean"
    return (patient.model, energies, variant, f"{history.scale:g}", *map(_short, errors))


def _short(error: float) -> str:
    """Return a number in three digits, without an exponent where it is large."""
    return f"{float(f'{error:.3g}'):,.0f}" if 1000 <= error < 1e9 else f"{error:.3g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo as a program; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m dcsurgery.zoo.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", default="demo", help="where to write (%(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="training steps of each model (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, split and batches (%(default)s)")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        run(Path(options.folder), options.steps, options.seed, console)
    except SurgeryError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
