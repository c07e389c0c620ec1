"""The coverage table: every model of `CASES`, transformed file to file by the command line, with what was checked.

``python -m dcsurgery.zoo.coverage_table -o docs/coverage.md`` prints the table and writes the page.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

import dcsurgery as dcs
from dcsurgery.errors import SurgeryError
from dcsurgery.zoo.coverage import CASES, Case
from dcsurgery.zoo.registry import save_checkpoint
from dcsurgery.zoo.writing import replacing

__all__ = ["Row", "double_backward", "examine", "gradients", "is_identity", "main"]

_WIDTH = 140  # of the table: a narrower terminal wraps its lines rather than losing letters
_HEAD = """# Coverage

Each model is saved, transformed by `dcsurgery transform FILE --irelu --denorm --inputs …` (with the scope shown) and read
back. The table is made by `python -m dcsurgery.zoo.coverage_table -o docs/coverage.md`.

* **sites**: activations and normalizations that were selected, of all that were found.
* **residual**: selected operators that still execute, counted below autograd.
* **keys**: tensors kept and deleted; the original checkpoint loads with `strict=True` once the deleted keys are left out.
* **identity**: an empty plan gives the same bits, values and gradients, in train and eval mode.
* **double backward**: the gradient of a squared input or parameter gradient exists and is finite.
* **reload**: the written file, read again, gives the same bits as the model that was written.
"""


@dataclass(frozen=True)
class Row:
    """One line of the table; every entry but the first six is a verdict."""

    model: str
    file: str
    scope: str
    sites: str
    residual: int
    keys: str
    strict_load: bool
    identity: bool
    double_backward: str
    reload: bool

    @property
    def passed(self) -> bool:
        """True when every verdict is good."""
        return (
            self.residual == 0 and self.strict_load and self.identity and self.reload and self.double_backward == "yes"
        )


def gradients(model: nn.Module, inputs: tuple[Any, ...], seed: int = 0) -> list[torch.Tensor]:
    """Return the outputs and the gradients of their sum of squares with respect to every parameter and input."""
    leaves, spec = pytree.tree_flatten(inputs)
    leaves = [
        leaf.detach().clone().requires_grad_(leaf.is_floating_point()) if isinstance(leaf, torch.Tensor) else leaf
        for leaf in leaves
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        outputs = model(*pytree.tree_unflatten(leaves, spec))
    values = [t for t in pytree.tree_leaves(outputs) if isinstance(t, torch.Tensor) and t.is_floating_point()]
    wanted = [t for t in leaves if isinstance(t, torch.Tensor) and t.requires_grad]
    wanted += [p for p in model.parameters() if p.requires_grad]
    total = torch.stack([v.square().sum() for v in values if v.requires_grad]).sum()
    found = torch.autograd.grad(total, wanted, create_graph=True, allow_unused=True)
    return [*values, *(g for g in found if g is not None)]


def double_backward(model: nn.Module, inputs: tuple[Any, ...]) -> str:
    """Return ``yes``, or why a gradient of gradients does not exist."""
    try:
        # The fused attention kernel has no second derivative on the CPU; its plain form has.
        with sdpa_kernel(SDPBackend.MATH):
            first = [g for g in gradients(model, inputs) if g.requires_grad]
        total = torch.stack([g.square().sum() for g in first]).sum()
        second = torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    except RuntimeError as error:
        return str(error).splitlines()[0][:80]
    return "yes" if all(g is None or bool(torch.isfinite(g).all()) for g in second) else "not finite"


def is_identity(model: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Say whether an empty plan reproduces a model bit for bit, values and gradients, in train and eval mode."""
    same = True
    for training in (False, True):
        model.train(training)
        edited = dcs.transform(model, irelu=False, denorm=False).model
        pairs = zip(gradients(model, inputs), gradients(edited, inputs), strict=True)
        same = same and all(torch.equal(a, b) for a, b in pairs) and edited.training is training
    model.eval()
    return same


def examine(case: Case, folder: Path) -> Row:
    """Save one model, transform the file, read the result and check it.

    Raises
    ------
    SurgeryError
        If the command fails; the message is its own.
    """
    model = case.build().eval()
    inputs = case.inputs(model)
    original, edited, report = folder / "model.pt", folder / "edited.pt", folder / "report.json"
    checkpoint = "DimeNet" in case.name  # one of the models goes the way that OCP's own models have to go
    if checkpoint:
        save_checkpoint(model, original)
    else:
        torch.save(model, original)
    torch.save(inputs, folder / "inputs.pt")
    command = [sys.executable, "-m", "dcsurgery.cli.app", "transform", str(original), "--irelu", "--denorm"]
    command += ["--scope", case.scope, "--inputs", str(folder / "inputs.pt"), "-o", str(edited), "--quiet"]
    done = subprocess.run([*command, "--report", str(report)], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SurgeryError(done.stderr.strip() or done.stdout.strip(), where=case.name)
    facts = json.loads(report.read_text())
    restored = dcs.load(edited)
    again = dcs.transform(model, scope=case.scope, example_inputs=inputs)
    kept = again.key_map.forward(model.state_dict())
    missing, unexpected = restored.load_state_dict(kept, strict=False)
    census = dcs.inspect(model, inputs)
    residual = next(check for check in facts["report"]["checks"] if check["name"] == "residual")
    return Row(
        case.name,
        "OCP checkpoint" if checkpoint else "pickled module",
        case.scope,
        f"{len(again.plan)} of {len(census.activations) + len(census.normalizations)}",
        int(residual["figure"]),
        f"{len(again.key_map.kept)} + {len(again.key_map.deleted)} deleted",
        not missing and not unexpected,
        is_identity(case.build(), inputs),
        double_backward(restored, inputs),
        all(
            torch.equal(a, b) for a, b in zip(gradients(restored, inputs), gradients(again.model, inputs), strict=True)
        ),
    )


def _cells(row: Row) -> list[str]:
    marks = {True: "yes", False: "NO"}
    values = (getattr(row, field.name) for field in fields(row))
    return [marks[v] if isinstance(v, bool) else str(v) for v in values]


def _markdown(rows: Sequence[Row]) -> str:
    names = [field.name.replace("_", " ") for field in fields(Row)]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(_cells(row)) + " |" for row in rows)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 0 if every model passed."""
    parser = argparse.ArgumentParser(prog="python -m dcsurgery.zoo.coverage_table", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, help="write the table to this Markdown page")
    parser.add_argument("--only", help="only models whose name contains this")
    options = parser.parse_args(arguments)
    console = Console(width=max(Console().width, _WIDTH))
    rows = []
    chosen = [case for case in CASES if options.only is None or options.only.lower() in case.name.lower()]
    for case in track(chosen, "transforming", console=Console(stderr=True)):
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows.append(examine(case, Path(folder)))
            except SurgeryError as error:
                console.print(f"[red]{error}", highlight=False)
    table = Table(*(field.name.replace("_", " ") for field in fields(Row)))
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    passed = sum(row.passed for row in rows)
    console.print(f"{passed} of {len(chosen)} models pass every check")
    if options.output is not None:
        versions = f"torch {torch.__version__}, dcsurgery {dcs.__version__}"
        page = f"{_HEAD}\n{_markdown(rows)}\n{passed} of {len(chosen)} models pass every check ({versions}).\n"
        with replacing(options.output) as file:
            file.write(page.encode())
    return 0 if passed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
