"""Training with derivative constraints: `train` in memory, `Trainer` with checkpoints, logs and several processes."""

from dcsurgery.zoo.training.errors import Errors, evaluate
from dcsurgery.zoo.training.in_memory import History, train
from dcsurgery.zoo.training.settings import Loss, Reference, Settings
from dcsurgery.zoo.training.trainer import Pace, Speed, Trainer

__all__ = ["Errors", "History", "Loss", "Pace", "Reference", "Settings", "Speed", "Trainer", "evaluate", "train"]
