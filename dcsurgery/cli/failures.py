"""Errors of the command line: one line on stderr, and an exit code."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from dcsurgery.cli.documents import failure_document, to_json
from dcsurgery.errors import SurgeryError

__all__ = ["INTERRUPTED", "PROGRAM", "OneLineGroup", "one_line"]

PROGRAM = "dcsurgery"
USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class OneLineGroup(TyperGroup):
    """A group of commands whose every error becomes one line on stderr and an exit code.

    With ``--json`` the error is a document on stdout as well, so that there is always exactly one.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; exit, or return the exit code if not ``standalone_mode``."""
        del prog_name, windows_expand_args  # one name however it was started; arguments are taken as they are
        arguments = (list(sys.argv[1:]) if args is None else list(args)) or ["--help"]
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # names of modules and files may not fit the terminal's encoding
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(arguments, PROGRAM, complete_var, standalone_mode=False, **extra) or 0
            if code == INTERRUPTED:
                raise KeyboardInterrupt
        except (KeyboardInterrupt, typer.Abort):
            code = _tell(KeyboardInterrupt("interrupted"), INTERRUPTED, arguments)
        except SurgeryError as error:
            code = _tell(error, error.exit_code, arguments)
        except Exception as error:  # noqa: BLE001 - nobody shall see a traceback that he did not ask for
            code = _tell(error, USAGE, arguments)
        if standalone_mode:
            sys.exit(code)
        return code


def _tell(error: BaseException, code: int, arguments: Sequence[str]) -> int:
    message = one_line(_message(error))
    if not {"--verbose", "-v"}.isdisjoint(arguments):
        # Of errors made on purpose, only what caused them is news.
        shown = error.__cause__ if isinstance(error, SurgeryError) else error
        if shown is not None and shown.__traceback__ is not None and not hasattr(error, "format_message"):
            traceback.print_exception(shown, file=sys.stderr)
    typer.echo(f"{PROGRAM}: {message}", err=True)
    if "--json" in arguments:
        typer.echo(to_json(failure_document(message, code)))
    return code


def _message(error: BaseException) -> str:
    if isinstance(error, SurgeryError | KeyboardInterrupt):
        return str(error)
    if hasattr(error, "format_message"):  # wrong usage, from typer; its exception classes are private
        command = getattr(getattr(error, "ctx", None), "command_path", PROGRAM)
        return f"{error.format_message().rstrip('.')} ({command} --help lists what there is)"
    return f"unexpected {type(error).__name__}: {error} (--verbose shows the traceback)"


def one_line(text: str) -> str:
    """Return a text with every run of white space as one space."""
    return " ".join(text.split())
