"""``dcsurgery``: the program, its commands and its version."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from dcsurgery import __version__
from dcsurgery.cli.diffing import diff
from dcsurgery.cli.failures import PROGRAM, OneLineGroup
from dcsurgery.cli.inspecting import inspect
from dcsurgery.cli.operating import apply, transform
from dcsurgery.cli.planning import plan
from dcsurgery.cli.verifying import verify
from dcsurgery.cli.zoo import app as zoo

__all__ = ["app", "main", "run"]

app = typer.Typer(
    name=PROGRAM,
    cls=OneLineGroup,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog="Exit codes: 0 done and checks passed, 1 a check failed, 2 bad input or usage, 3 nothing matched.",
)
for _command in (inspect, plan, apply, transform, verify, diff):
    app.command()(_command)
app.add_typer(zoo)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Surgery on PyTorch models that must fit derivatives.

    Replaces activations by IReLU, deletes normalizations, rescales labels, and proves what it did. Input files are
    never changed.
    """
    del version  # its callback has ended the program


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        Words after the program's name; None takes them from ``sys.argv``.

    Returns
    -------
    int
        Exit code: 0 done and checks passed, 1 a check failed, 2 bad input or usage, 3 nothing matched, 130 interrupted.
    """
    code: Any = app(args=arguments, standalone_mode=False)
    return int(code)


def run() -> NoReturn:
    """Run the command line as a program, and end it."""
    atexit.register(gc.freeze)  # else the interpreter searches all that is left for cycles before it ends, for seconds
    sys.exit(main())


if __name__ == "__main__":
    run()
