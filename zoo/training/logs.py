"""Logs of a training: ``log.csv`` and TensorBoard events; a resumed run goes on where its checkpoint was."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dcsurgery.zoo.writing import replacing

__all__ = ["COLUMNS", "CSV_FILE", "Log", "read_log"]

CSV_FILE = "log.csv"
COLUMNS = (
    "step",
    "epoch",
    "loss",
    "energy_term",
    "force_term",
    "valid_energy_mae",
    "valid_force_mae",
    "valid_efwt",
    "structures_per_s",
    "wall_time",
)


class Log:
    """The two logs of a run.

    Parameters
    ----------
    folder
        The run's folder.
    step
        Where the run goes on: lines of later steps, which a killed process left, are dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / CSV_FILE
        kept = [row for row in read_log(folder) if int(row["step"]) <= step]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(kept)
        with replacing(self.path) as file:
            file.write(text.getvalue().encode())
        self._events = _events(folder / "tensorboard", step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line; columns without a value stay empty."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS).writerow({"step": step, **values})
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is pending."""
        if self._events is not None:
            self._events.close()


def read_log(folder: Path) -> list[dict[str, str]]:
    """Return the lines of a run's ``log.csv`` by column; none if there is no such file."""
    path = folder / CSV_FILE
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        # A process that is killed while it writes leaves half a line.
        return [row for row in csv.DictReader(file) if None not in row.values() and (row["step"] or "").isdigit()]


def _events(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # TensorBoard is an extra; the CSV file has the same figures
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
