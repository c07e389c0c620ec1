"""``dcsurgery zoo``: the models that the zoo builds, their data and their training."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from dcsurgery.cli import options
from dcsurgery.cli.documents import zoo_document
from dcsurgery.cli.screen import screen_for
from dcsurgery.errors import BadInput

if TYPE_CHECKING:
    from rich.table import Table

    from dcsurgery.zoo.families import Entry

__all__ = ["app"]

#: Commands of other files, which are imported when they are asked for.
_ELSEWHERE = {
    "data": "dcsurgery.cli.zoo_data",
    "train": "dcsurgery.cli.zoo_training",
    "ablate": "dcsurgery.cli.zoo_training",
    "table": "dcsurgery.cli.zoo_training",
    "figure": "dcsurgery.cli.zoo_training",
}


#: What a word of their arguments sends elsewhere: the PINNs have other options.
_PINN = {
    "train": (lambda words: any(word.startswith("pinn-") for word in words), "zoo_pde_training", "train_pinn"),
    "table": (lambda words: not {"3", "4", "5"}.isdisjoint(words), "zoo_pde_table", "pinn_table"),
    "data": (lambda words: words[:1] == ["pde"], "zoo_pde_data", "pde_data"),
}


class LazyGroup(TyperGroup):
    """A group that imports the files of some commands only when these are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        elsewhere = [name for name, module in _ELSEWHERE.items() if importlib.util.find_spec(module) is not None]
        return [*super().list_commands(ctx), *elsewhere]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; None if there is none of that name."""
        module = _ELSEWHERE.get(cmd_name)
        if module is None or importlib.util.find_spec(module) is None:
            return super().get_command(ctx, cmd_name)
        return _command(cmd_name, module, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command, and what is left of the arguments; the PINNs' commands are chosen by these."""
        cmd_name, *words = args
        chosen, module, member = _PINN.get(cmd_name, (None, "", ""))
        if chosen is None or not chosen(words):
            return super().resolve_command(ctx, args)
        name = "data pde" if cmd_name == "data" else cmd_name
        return name, _command(name, f"dcsurgery.cli.{module}", member), words[1:] if cmd_name == "data" else words


def _command(name: str, module: str, member: str) -> Any:
    found = getattr(importlib.import_module(module), member)
    if isinstance(found, typer.Typer):
        command = typer.main.get_command(found)
    else:
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(name)(found)
        command = typer.main.get_command(single)
    command.name = name
    return command


app = typer.Typer(
    name="zoo",
    cls=LazyGroup,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Models, data and training that put the edits to the test.",
)


@app.command("list")
def list_models(as_json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False) -> int:
    """List every model: backend, parameters, forces, and what to install where it cannot be built."""
    with screen_for(quiet=quiet, verbose=verbose, as_json=as_json) as screen:
        from dcsurgery.zoo import registry

        entries = registry.entries()
        screen.result(_table(entries))
        for fix in sorted({entry.missing for entry in entries if entry.missing is not None}):
            names = ", ".join(f"{entry.name} ({entry.backend})" for entry in entries if entry.missing == fix)
            screen.result(f"{names}: {fix}")
        for entry in entries:
            screen.detail(f"{entry.name}, {entry.backend}: {entry.description}")
        screen.document(zoo_document("list", {"models": [_row(entry) for entry in entries]}))
    return 0


@app.command("build")
def build_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What zoo list shows.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The checkpoint to write.", show_default=False)
    ],
    size: Annotated[str, typer.Option("--size", metavar="small|paper", help="Constructor values.")] = "small",
    backend: Annotated[str, typer.Option("--backend", help="Library of its layers.")] = "auto",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the weights.")] = 0,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Another constructor value; may be repeated.",
            show_default=False,
        ),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--inputs",
            metavar="FILE",
            help="Also write inputs that the model can be run on, for transform and verify --inputs FILE.",
            show_default=False,
        ),
    ] = None,
    structure: Annotated[
        str, typer.Option("--structure", metavar="molecule|slab", help="What the inputs are of.")
    ] = "molecule",
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> int:
    """Build a model with fresh weights and write a checkpoint in OCP's layout."""
    with screen_for(quiet=quiet, verbose=verbose, as_json=as_json) as screen:
        from dcsurgery import files

        files.check_output(output, None, force)
        if inputs is not None:
            files.check_output(inputs, output, force)
        given = _values(values or [])
        with screen.steps(3) as begin:
            begin("importing")
            import torch

            from dcsurgery.zoo import examples, potentials, registry
            from dcsurgery.zoo.pde.variants import example_points
            from dcsurgery.zoo.writing import replacing

            begin(f"building {name}")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = registry.build(name, size, backend, **given)
            pinn = name.startswith("pinn-")
            batch = examples.example_batch(structure) if inputs is not None and not pinn else None
            begin(f"writing {output}")
            registry.save_checkpoint(model, output)
            if inputs is not None:
                arguments = example_points(model) if pinn else potentials.example_inputs(model, batch)
                with replacing(inputs) as file:
                    torch.save(arguments[0] if len(arguments) == 1 else arguments, file)
        count = sum(parameter.numel() for parameter in model.parameters())
        screen.show(f"wrote {output}: {name}, {size}, {count:,} parameters")
        if inputs is not None:
            screen.show(f"wrote {inputs}: {'points' if pinn else f'two structures ({structure})'}")
        about = {"model": name, "size": size, "parameters": count, "seed": seed}
        screen.document(zoo_document("build", {**about, "output": output, "inputs": inputs}))
    return 0


def _values(words: list[str]) -> dict[str, Any]:
    import yaml

    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            raise BadInput(f"--set {word}: that is not KEY=VALUE", fix="for instance --set cutoff=5.0")
        try:
            found[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise BadInput(f"--set {word}: the value cannot be read", fix="write it as YAML") from None
    return found


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "backend": entry.backend,
        "description": entry.description,
        "sizes": {size: dict(values) for size, values in entry.sizes.items()},
        "parameters": dict(entry.counts),
        "forces": entry.force,
        "recipe": dict(entry.recipe),
        "available": entry.missing is None,
        "install": entry.missing,
    }


def _table(entries: list[Entry]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)  # names are what is typed
    table.add_column("backend", no_wrap=True)
    table.add_column("small", justify="right")
    table.add_column("paper", justify="right")
    for heading in ("forces", "here"):
        table.add_column(heading)
    for entry in entries:
        counts = [f"{entry.counts[size]:,}" if size in entry.counts else "" for size in ("small", "paper")]
        table.add_row(entry.name, entry.backend, *counts, entry.force, "no" if entry.missing else "yes")
    return table
