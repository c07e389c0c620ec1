"""The table of docs/zoo.md: every model of the zoo, built, transformed by the paper's recipe and verified, file to file.

``python -m dcsurgery.zoo.model_table -o docs/zoo.md`` examines each model in a process of its own and replaces the table in
the page. Finished rows are kept in ``--rows FILE``, so that a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import dcsurgery as dcs
from dcsurgery.errors import BadInput, CheckFailed
from dcsurgery.zoo import examples, potentials, recipes, registry
from dcsurgery.zoo.writing import replacing

__all__ = ["Row", "examine", "main", "wake"]

BEGIN, END = "<!-- made by dcsurgery.zoo.model_table -->", "<!-- end of what it made -->"
_C = 1e6  # label scale of the paper's MD17 runs
_WIDTH = 140


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    model: str
    backend: str
    size: str
    parameters: int
    forces: str
    edits: str
    transform: str
    verify: str
    green: bool
    seconds: float


def wake(model: nn.Module, seed: int = 0) -> list[str]:
    """Draw the weight matrices that are 0, so that a check of an untrained model is one; return their names.

    DimeNet++ starts its last layers at 0, and so its energy and forces.
    """
    woken = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.dim() > 1 and not parameter.any():
                nn.init.xavier_uniform_(parameter)
                woken.append(name)
    return woken


def examine(name: str, backend: str, size: str) -> Row:
    """Build one model, write its checkpoint, read it, transform it, write the result, read it, and verify it."""
    begun = time.perf_counter()
    torch.manual_seed(0)
    built = registry.build(name, size, backend)
    wake(built)
    with tempfile.TemporaryDirectory() as folder:
        model = dcs.load(registry.save_checkpoint(built, Path(folder) / "model.pt"))
        inputs = potentials.example_inputs(model, examples.example_batch())
        try:
            surgery = dcs.transform(model, **recipes.recipe(model), rescale=_C, example_inputs=inputs)
        except CheckFailed as error:
            checks = _summary(error.report.checks)
            return _row(name, backend, size, built, "", checks, "not run", begun, green=False)
        edited = dcs.load(dcs.save(surgery, Path(folder) / "edited.pt", format="checkpoint"))
    report = dcs.verify(model, edited, inputs)
    actions = Counter(edit.action for edit in surgery.plan.edits)
    edits = ", ".join(f"{count} {action}" for action, count in sorted(actions.items()))
    done, verified = _summary(surgery.report.checks), _summary(report.checks)
    return _row(name, backend, size, built, edits, done, verified, begun, green=surgery.report.ok and report.ok)


def _row(
    name: str,
    backend: str,
    size: str,
    model: nn.Module,
    edits: str,
    done: str,
    verified: str,
    begun: float,
    *,
    green: bool,
) -> Row:
    count = sum(parameter.numel() for parameter in model.parameters())
    forces = registry.entry_of(name, backend).force
    return Row(name, backend, size, count, forces, edits, done, verified, green, round(time.perf_counter() - begun, 1))


def _summary(checks: Sequence[Any]) -> str:
    names: dict[str, list[str]] = {"pass": [], "skip": [], "fail": []}
    for check in checks:
        names[check.status].append(check.name)
    told = [f"{len(names['pass'])} passed"]
    told += [
        f"{word}: {', '.join(names[key])}" for key, word in (("skip", "skipped"), ("fail", "FAILED")) if names[key]
    ]
    return "; ".join(told)


def _in_process(name: str, backend: str, size: str) -> Row | str:
    """Return the row, or why there is none, from a process of its own."""
    words = [sys.executable, "-W", "ignore", "-m", "dcsurgery.zoo.model_table", "--one", name, backend, size]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return lines[-1] if lines else f"it ended with code {done.returncode}"
    return Row(**json.loads(done.stdout.strip().splitlines()[-1]))


def _read(path: Path | None) -> dict[tuple[str, str, str], Row]:
    if path is None or not path.exists():
        return {}
    rows = [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(row.model, row.backend, row.size): row for row in rows}


def _cells(row: Row) -> list[str]:
    values = asdict(row)
    values["parameters"] = f"{row.parameters:,}"
    values["green"] = "yes" if row.green else "NO"
    return [str(value) for value in values.values()]


def _markdown(rows: Sequence[Row]) -> str:
    names = list(Row.__dataclass_fields__)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(_cells(row)) + " |" for row in rows)]) + "\n"


def replace_table(page: str, table: str) -> str:
    """Return a page with another table between the two marks.

    Raises
    ------
    BadInput
        If the page has not got them.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BadInput("the page has no place for the table", fix=f"give it the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 0 if every model is green."""
    parser = argparse.ArgumentParser(prog="python -m dcsurgery.zoo.model_table", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, help="replace the table in this Markdown page")
    parser.add_argument("--rows", type=Path, help="keep finished rows here, and do not examine those again")
    parser.add_argument("--only", default="", help="only models whose name contains this")
    parser.add_argument("--size", choices=("small", "paper"), help="only this size")
    parser.add_argument("--one", nargs=3, metavar=("NAME", "BACKEND", "SIZE"), help="print one row as JSON")
    options = parser.parse_args(arguments)
    if options.one:
        logging.disable(logging.WARNING)
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            row = examine(*options.one)
        print(json.dumps(asdict(row)))  # noqa: T201 - the parent reads it
        return 0
    page = "" if options.output is None else options.output.read_text(encoding="utf-8")
    if options.output is not None:
        replace_table(page, "")  # a page without a place for it is told before hours of work
    known, console = _read(options.rows), Console(width=max(Console().width, _WIDTH))
    potentials_ = [entry for entry in registry.entries() if entry.missing is None and entry.force != "none"]
    entries = [entry for entry in potentials_ if options.only in entry.name]
    sizes = ("small", "paper") if options.size is None else (options.size,)
    wanted = [(entry.name, entry.backend, size) for size in sizes for entry in entries]
    for key in track(wanted, "examining", console=Console(stderr=True)):
        if key in known:
            continue
        found = _in_process(*key)
        if isinstance(found, str):
            console.print(f"{' '.join(key)}: {found}", markup=False, highlight=False)
            continue
        known[key] = found
        if options.rows is not None:
            with options.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(found)) + "\n")
    rows = [known[key] for key in sorted(wanted, key=lambda k: (k[0], k[1], k[2] == "paper")) if key in known]
    table = Table(*Row.__dataclass_fields__)
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    green = sum(row.green for row in rows)
    console.print(f"{green} of {len(wanted)} are green")
    if options.output is not None:
        with replacing(options.output) as file:
            file.write(replace_table(page, _markdown(rows)).encode())
    return 0 if green == len(wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
