"""What a command shows and where: results on stdout, progress and warnings on stderr."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dcsurgery.cli.documents import to_json
from dcsurgery.cli.failures import PROGRAM, one_line
from dcsurgery.errors import BadInput

__all__ = ["Screen", "screen_for"]


class Screen:
    """The two output streams of a command.

    Parameters
    ----------
    quiet
        Only results and errors: no progress, no warnings, and no tables of what was done to a file.
    verbose
        Every step, and what libraries warn of.
    as_json
        One JSON document on stdout instead of tables.
    """

    def __init__(self, *, quiet: bool, verbose: bool, as_json: bool) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self.as_json = as_json
        self._out = Console(file=sys.stdout, highlight=False)
        self._err = Console(file=sys.stderr, highlight=False)

    @property
    def width(self) -> int:
        """Columns of stdout."""
        return self._out.width

    @property
    def shows(self) -> bool:
        """Whether `show` prints anything: the tables of a large model take time to make."""
        return not (self.quiet or self.as_json)

    def show(self, *parts: RenderableType) -> None:
        """Print for a person who watches; not with ``--quiet`` or ``--json``."""
        if not self.quiet:
            self.result(*parts)

    def result(self, *parts: RenderableType) -> None:
        """Print what the command was called for; not with ``--json``."""
        if not self.as_json:
            for part in parts:
                self._out.print(part, markup=False, soft_wrap=isinstance(part, str))

    def document(self, document: dict[str, Any]) -> None:
        """Print the one document of ``--json``; only with ``--json``."""
        if self.as_json:
            self._out.file.write(to_json(document) + "\n")

    def warn(self, text: str) -> None:
        """Print a warning on stderr; not with ``--quiet``."""
        if not self.quiet:
            self._line(f"warning: {text}")

    def fail(self, text: str) -> None:
        """Print an error on stderr."""
        self._line(text)

    def detail(self, text: str) -> None:
        """Print on stderr; only with ``--verbose``."""
        if self.verbose:
            self._line(text)

    def _line(self, text: str) -> None:
        self._err.print(f"{PROGRAM}: {one_line(text)}", markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def steps(self, count: int) -> Iterator[Callable[[str], None]]:
        """Show progress over a number of steps, on a terminal only; yields what begins the next step."""
        if self.quiet or self.as_json or not self._err.is_terminal:
            yield self.detail
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(20), TimeElapsedColumn())
        with Progress(*columns, console=self._err, transient=True) as progress:
            task = progress.add_task("starting", total=count)
            begun = 0

            def begin(text: str) -> None:
                nonlocal begun
                progress.update(task, description=one_line(text), completed=begun)
                begun += 1
                self.detail(text)

            yield begin


@contextlib.contextmanager
def screen_for(*, quiet: bool, verbose: bool, as_json: bool = False) -> Iterator[Screen]:
    """Make the screen of a command; what models and libraries print meanwhile goes to stderr if verbose, or nowhere.

    Raises
    ------
    BadInput
        If quiet and verbose are both asked for.
    """
    if quiet and verbose:
        raise BadInput("--quiet and --verbose exclude each other", fix="leave one of them out")
    screen = Screen(quiet=quiet, verbose=verbose, as_json=as_json)
    logged_below = logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        # A model's own code may print, and is run often; stdout holds the result and nothing else.
        elsewhere = sys.stderr if verbose else stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(elsewhere))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("default" if verbose else "ignore")
        if not verbose:
            logging.disable(logging.WARNING)
        try:
            yield screen
        finally:
            logging.disable(logged_below)
