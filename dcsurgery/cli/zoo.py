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
        member = getattr(importlib.import_module(module), cmd_name)
        if isinstance(member, typer.Typer):
            command = typer.main.get_command(member)
        else:
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            single.command(cmd_name)(member)
            command = typer.main.get_command(single)
        command.name = cmd_name
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
