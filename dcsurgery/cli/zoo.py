"""``dcsurgery zoo``: the models that the zoo builds, their data and their training."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import typer
from typer.core import TyperGroup

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
    "train": (lambda words: any(word.startswith("pinn-") for word in words), "train_pinn"),
    "table": (lambda words: not {"3", "4", "5"}.isdisjoint(words), "pinn_table"),
    "data": (lambda words: words[:1] == ["pde"], "pde_data"),
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
        chosen, member = _PINN.get(cmd_name, (None, ""))
        if chosen is None or not chosen(words):
            return super().resolve_command(ctx, args)
        name = "data pde" if cmd_name == "data" else cmd_name
        return name, _command(name, "dcsurgery.cli.zoo_pde", member), words[1:] if cmd_name == "data" else words


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
def list_models() -> None:
    """List the models that can be built."""
    from dcsurgery.zoo import registry

    for entry in registry.available():
        typer.echo(f"{entry.name:16s} {entry.backend:9s} {entry.description}")
