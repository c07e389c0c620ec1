"""The training loop: Adam on energies and forces, on one device or several, resumable after a kill."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.structures import StructureSet
from dcsurgery.zoo.training.checkpoints import CHECKPOINT, State, random_state, set_random_state
from dcsurgery.zoo.training.devices import Fabric, peak_memory, telling_memory, tf32
from dcsurgery.zoo.training.errors import evaluate
from dcsurgery.zoo.training.interrupts import held_back
from dcsurgery.zoo.training.logs import Log
from dcsurgery.zoo.training.loss import DerivativeLoss
from dcsurgery.zoo.training.nonfinite import diverged, save_batch
from dcsurgery.zoo.training.order import step_indices
from dcsurgery.zoo.training.scale import default_dtype, label_scale
from dcsurgery.zoo.training.settings import Settings

__all__ = ["Pace", "Speed", "Trainer"]


@dataclass(frozen=True)
class Pace:
    """How often a training logs, measures and saves; none of it changes the weights.

    Attributes
    ----------
    log_every
        Steps between lines of the log.
    evaluate_every
        Epochs between measurements on the validation set; 0 for never.
    checkpoint_every
        Steps between checkpoints. One is also written when the training ends or is interrupted.
    """

    log_every: int = 50
    evaluate_every: int = 1
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name, least in (("log_every", 1), ("evaluate_every", 0), ("checkpoint_every", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Speed:
    """How fast a training was, without its first step, measurements and checkpoints.

    Attributes
    ----------
    steps, structures
        Per second.
    memory
        Peak memory in MiB: allocated tensors on CUDA, the whole process on a CPU.
    """

    steps: float
    structures: float
    memory: float

    def to_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return {"steps_per_s": self.steps, "structures_per_s": self.structures, "peak_memory_mib": self.memory}


@dataclass
class _Clock:
    """Times steps; the first one of a process warms up and is left out."""

    seconds: float = 0.0
    steps: int = 0
    structures: int = 0
    warm: bool = False
    since_log: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def count(self, seconds: float, structures: int) -> None:
        self.since_log[0] += seconds
        self.since_log[1] += structures
        if self.warm:
            self.seconds += seconds
            self.steps += 1
            self.structures += structures
        self.warm = True

    def rate_since_log(self) -> float:
        seconds, structures = self.since_log
        self.since_log = [0.0, 0.0]
        return structures / seconds if seconds else 0.0


class Trainer:
    """Fits one model, in place.

    Parameters
    ----------
    fabric
        Launched Fabric; see `dcsurgery.zoo.training.devices`.
    model
        Any potential that `dcsurgery.zoo.potentials` can call. One whose labels were rescaled learns labels / C.
    data
        Training set, positions in Å.
    settings
        What decides the result.
    valid
        Set to measure errors on meanwhile.
    C
        Label scale of a model whose labels were not rescaled by surgery.
    folder
        Where log and checkpoint go; None keeps nothing.
    resume
        Go on from the checkpoint in the folder, if there is one.
    pace
        How often to log, measure and save.
    progress
        Called after every step with steps done, steps in all and the loss.

    Attributes
    ----------
    losses
        Loss of every step, of the scaled labels.
    reference
        Energy that was subtracted from the labels, in their unit.
    scale
        Label scale C.

    Raises
    ------
    BadInput
        If the data cannot be trained on, or the checkpoint is damaged or of another model.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        data: StructureSet,
        settings: Settings,
        *,
        valid: StructureSet | None = None,
        C: float | None = None,
        folder: Path | None = None,
        resume: bool = False,
        pace: Pace | None = None,
        progress: Callable[[int, int, float], object] | None = None,
    ) -> None:
        self.fabric, self.settings, self.pace, self.progress = fabric, settings, pace or Pace(), progress
        self.data, self.valid, self.folder = data, valid, folder
        self.scale = label_scale(model, C)
        self.reference = float(data.energies.mean()) if settings.reference == "mean" else 0.0
        self.total = settings.total_steps(len(data))
        self.model = model.to(device=fabric.device, dtype=settings.dtype)
        self.state = State()
        self._clock = _Clock()
        if folder is not None and resume and (folder / CHECKPOINT).exists():
            self.state = State.load(folder)
            _load_weights(self.model, self.state, folder)
        self._mode = model.training
        optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.lr)
        loss = DerivativeLoss(self.model, settings, self.scale, self.reference)
        self._loss, self._optimizer = fabric.setup(loss, optimizer)
        if self.state.optimizer:
            optimizer.load_state_dict(self.state.optimizer)

    @property
    def losses(self) -> tuple[float, ...]:
        """Loss of every step, of the scaled labels."""
        return tuple(self.state.losses)

    def speed(self) -> Speed:
        """Return how fast this process trained, and the memory it took."""
        clock = self._clock
        rate = 1.0 / clock.seconds if clock.seconds else 0.0
        return Speed(clock.steps * rate, clock.structures * rate, peak_memory(self.fabric.device))

    def run(self) -> None:
        """Train to the end.

        Raises
        ------
        Diverged
            If the loss is not finite; the batch is then saved in the folder, and the first module named.
        BadInput
            If the memory does not suffice or the model's output has a wrong shape.
        KeyboardInterrupt
            When interrupted; the checkpoint is then up to date.
        """
        log = self._open_log()
        self._loss.train()
        try:
            with (
                torch.random.fork_rng(),
                tf32(self.settings.tf32),
                default_dtype(self.settings.dtype),
                held_back() as interrupt,
            ):
                self._seed()
                while self.state.step < self.total:
                    self._step(log)
                    if interrupt.asked:
                        self._save()
                        raise KeyboardInterrupt
                self._save()
        finally:
            self.model.train(self._mode)
            # The force term leaves no gradients that a later caller could add to by mistake.
            self._optimizer.zero_grad()
            if log is not None:
                log.close()

    def _open_log(self) -> Log | None:
        if self.folder is None or not self.fabric.is_global_zero:
            return None
        return Log(self.folder, self.state.step)

    def _seed(self) -> None:
        rank = self.fabric.global_rank
        if len(self.state.random) > rank:
            set_random_state(self.state.random[rank], self.fabric.device)
        else:
            torch.manual_seed(self.settings.seed + rank)

    def _step(self, log: Log | None) -> None:
        state, settings, device = self.state, self.settings, self.fabric.device
        begun = time.perf_counter()
        chosen = step_indices(len(self.data), settings.batch_size, settings.seed, state.step)
        mine = chosen[self.fabric.global_rank :: self.fabric.world_size]
        # A process that the last batch of an epoch leaves without structures takes part with weight 0.
        share = self.fabric.world_size if len(mine) else 0.0
        mine = mine if len(mine) else chosen[:1]
        batch = self.data.batch(mine, dtype=settings.dtype, device=device)
        with telling_memory(settings.batch_size):
            terms = self._loss(batch, len(chosen), 3 * int(self.data.natoms[chosen].sum()))
            # Gradients are averaged over processes, and here they must be added.
            terms = [term * share for term in terms]
            energy_term, force_term = (self._over_processes(term) for term in terms)
            value = energy_term + force_term
            if not math.isfinite(value):
                saved = None if self.folder is None else save_batch(batch, mine, self.folder)
                raise diverged(self.model, batch, state.step, value, saved)
            self._optimizer.zero_grad()
            self.fabric.backward(terms[0] + terms[1])
            self._optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        state.step += 1
        state.losses.append(value)
        state.sums = [a + b for a, b in zip(state.sums, (value, energy_term, force_term, 1.0), strict=True)]
        seconds = time.perf_counter() - begun
        self._clock.count(seconds, len(chosen))
        state.wall_time += seconds
        self._after_step(log)

    def _after_step(self, log: Log | None) -> None:
        state, pace = self.state, self.pace
        per_epoch = self.settings.steps_per_epoch(len(self.data))
        measure = bool(pace.evaluate_every) and state.step % (pace.evaluate_every * per_epoch) == 0
        if measure or state.step % pace.log_every == 0 or state.step == self.total:
            values = self._measured() if measure and self.valid is not None and self.fabric.is_global_zero else {}
            self._write(log, values, state.step / per_epoch)
            self.fabric.barrier()
        if state.step % pace.checkpoint_every == 0 and state.step < self.total:
            self._save()
        if self.progress is not None and self.fabric.is_global_zero:
            self.progress(state.step, self.total, state.losses[-1])

    def _over_processes(self, term: torch.Tensor) -> float:
        if self.fabric.world_size == 1:
            return term.item()
        mean = self.fabric.all_reduce(term.detach(), reduce_op="mean")
        assert isinstance(mean, torch.Tensor)
        return mean.item()

    def _measured(self) -> dict[str, float]:
        assert self.valid is not None
        begun = time.perf_counter()
        errors = evaluate(
            self.model,
            self.valid,
            C=self.scale,
            reference=self.reference,
            batch_size=self.settings.batch_size,
            device=self.fabric.device,
        )
        self.state.wall_time += time.perf_counter() - begun
        return errors.to_dict("valid_")

    def _write(self, log: Log | None, values: dict[str, float], epoch: float) -> None:
        loss, energy_term, force_term, steps = self.state.sums
        self.state.sums = [0.0] * 4
        if log is None or not steps:
            return
        means = {"loss": loss / steps, "energy_term": energy_term / steps, "force_term": force_term / steps}
        rate = {"structures_per_s": round(self._clock.rate_since_log(), 3)}
        wall = {"wall_time": round(self.state.wall_time, 3)}
        log.write(self.state.step, {"epoch": round(epoch, 6), **means, **values, **rate, **wall})

    def _save(self) -> None:
        if self.folder is None:
            return
        state = self.state
        mine = random_state(self.fabric.device)
        everyone: list[Any] = [mine]
        if self.fabric.world_size > 1:
            everyone = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(everyone, mine)
        if self.fabric.is_global_zero:
            state.random = everyone
            state.model = self.model.state_dict()
            state.optimizer = self._optimizer.optimizer.state_dict()
            state.save(self.folder)
        self.fabric.barrier()


def _load_weights(model: nn.Module, state: State, folder: Path) -> None:
    try:
        model.load_state_dict(state.model)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(
            f"the checkpoint is of another model: {reason}",
            where=str(folder / CHECKPOINT),
            fix="resume with the model it was made with, or choose another folder",
        ) from None
