"""The files of a training that can be resumed: ``checkpoint.pt`` and ``losses.csv``."""

from __future__ import annotations

import csv
import io
import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.writing import replacing

__all__ = ["CHECKPOINT", "LOSSES", "Clock", "Store"]

CHECKPOINT = "checkpoint.pt"
LOSSES = "losses.csv"


class Clock:
    """Seconds of a training, those before an interruption included, and since the last checkpoint."""

    def __init__(self, before: float) -> None:
        self._before, self._begun = before, time.perf_counter()
        self._saved = self._begun

    def seconds(self) -> float:
        """Return the seconds of all parts."""
        return self._before + time.perf_counter() - self._begun

    def since_saved(self) -> float:
        """Return the seconds since the last checkpoint."""
        return time.perf_counter() - self._saved

    def saved(self) -> None:
        """Start to count anew from a checkpoint."""
        self._saved = time.perf_counter()


class Store:
    """The two files of a run; without a folder nothing is kept."""

    def __init__(self, folder: str | os.PathLike[str] | None, names: tuple[str, ...]) -> None:
        self.folder = None if folder is None else Path(folder)
        self.names = names

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, table: Tensor, seconds: float) -> None:
        """Write the checkpoint, and the losses up to it."""
        if self.folder is None:
            return
        with replacing(self.folder / CHECKPOINT) as file:
            torch.save(
                {
                    "names": list(self.names),
                    "losses": table.cpu(),
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "seconds": seconds,
                },
                file,
            )
        self.write(table)

    def write(self, table: Tensor) -> None:
        """Write the losses, one row for each step."""
        if self.folder is None:
            return
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["step", *self.names])
        for step, row in enumerate(table.tolist()):
            rows.writerow([step, *(f"{value:.6g}" for value in row)])
        with replacing(self.folder / LOSSES) as file:
            file.write(text.getvalue().encode())

    def load(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, device: str | torch.device
    ) -> tuple[int, Tensor | None, float]:
        """Restore model and optimizer; return the steps that are done, their losses, and their seconds.

        Raises
        ------
        BadInput
            If the checkpoint is damaged or of another training.
        """
        if self.folder is None or not (self.folder / CHECKPOINT).exists():
            return 0, None, 0.0
        where = str(self.folder / CHECKPOINT)
        try:
            kept = torch.load(self.folder / CHECKPOINT, map_location=device, weights_only=True)
            losses = kept["losses"]
            if tuple(kept["names"]) != self.names or len(losses) > steps:
                raise BadInput(
                    f"is of a training of {len(losses)} steps with the terms {', '.join(kept['names'])}; asked for are "
                    f"{steps} steps with {', '.join(self.names)}",
                    where=where,
                    fix="resume with the settings it had, or choose another folder",
                )
            model.load_state_dict(kept["model"])
            optimizer.load_state_dict(kept["optimizer"])
        except BadInput:
            raise
        except Exception as error:  # noqa: BLE001 - a damaged or foreign file may fail in any way
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadInput(
                f"is no checkpoint of this training ({reason})", where=where, fix="delete it to start anew"
            ) from None
        return len(losses), losses, float(kept["seconds"])
