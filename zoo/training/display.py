"""A progress bar over the steps of a training, on stderr, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Told", "bar"]

#: Called after every step with steps done, steps in all and the loss.
Told = Callable[[int, int, float], object]


@contextmanager
def bar(label: str, *, shown: bool = True) -> Iterator[Told | None]:
    """Yield what tells the bar of a step, or None where nobody would see it."""
    console = Console(file=sys.stderr)
    if not (shown and console.is_terminal):
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=None, loss="")

        def told(step: int, total: int, loss: float) -> None:
            progress.update(task, completed=step, total=total, loss=f"loss {loss:.4g}")

        yield told
