"""Checkpoints of a training: everything that its next step depends on, written whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dcsurgery.errors import BadInput
from dcsurgery.zoo.writing import replacing

__all__ = ["CHECKPOINT", "State", "random_state", "set_random_state"]

CHECKPOINT = "checkpoint.pt"


@dataclass
class State:
    """A training between two steps.

    Attributes
    ----------
    step
        Steps done; with the seed it gives the position in the epoch (`dcsurgery.zoo.training.order`).
    sums
        Sums of loss, energy term and force term since the last line of the log, and how many steps they hold.
    losses
        Loss of every step.
    wall_time
        Seconds of training so far.
    model, optimizer
        Their state_dicts.
    random
        Random number states, one for each process.
    """

    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    losses: list[float] = field(default_factory=list)
    wall_time: float = 0.0
    model: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    random: list[dict[str, Any]] = field(default_factory=list)

    def save(self, folder: Path) -> Path:
        """Write the checkpoint of a run's folder."""
        path = folder / CHECKPOINT
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        with replacing(path) as file:
            torch.save(content, file)
        return path

    @classmethod
    def load(cls, folder: Path) -> State:
        """Read the checkpoint of a run's folder; tensors come to the CPU.

        Raises
        ------
        BadInput
            If the file is damaged or is no checkpoint of a training.
        """
        path = folder / CHECKPOINT
        fix = f"delete {path.name} to train again from the start"
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 - what reading damaged pickles raises cannot be listed
            reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
            raise BadInput(f"the checkpoint is damaged: {reason}", where=str(path), fix=fix) from None
        names = set(cls.__dataclass_fields__)
        if not isinstance(content, dict) or set(content) != names:
            raise BadInput("not a checkpoint of a training", where=str(path), fix=fix)
        return cls(**content)


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of torch's random numbers in this process, of the CPU and of its GPU."""
    state = {"cpu": torch.random.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Set what `random_state` returned; a state of a GPU is left out on a CPU."""
    torch.random.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
