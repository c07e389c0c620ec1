"""One run from beginning to end: data, model, surgery, training, test errors, record."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import dcsurgery as dcs
from dcsurgery.errors import BadInput, SurgeryError
from dcsurgery.zoo.registry import build, entry_of
from dcsurgery.zoo.runs import RunRecord, Status, describe_device, open_run
from dcsurgery.zoo.training.devices import Fabric, fabric_for, launch
from dcsurgery.zoo.training.display import bar
from dcsurgery.zoo.training.errors import evaluate
from dcsurgery.zoo.training.nonfinite import Diverged
from dcsurgery.zoo.training.parts import DataChoice, Parts, load_parts
from dcsurgery.zoo.training.settings import Settings
from dcsurgery.zoo.training.trainer import Pace, Trainer
from dcsurgery.zoo.training.variants import ORIGINAL, Variant, operate
from dcsurgery.zoo.writing import replacing

__all__ = ["Job", "restore", "run_job"]

PLAN_FILE = "plan.yaml"
MODEL_FILE = "model.pt"
_EXAMPLE = 2  # structures that a surgery is checked on


@dataclass(frozen=True)
class Job:
    """What to run; plain values, so that it can go to another process.

    Attributes
    ----------
    model, size, backend
        Name, size and library in the registry.
    variant
        What surgery it gets before it is trained.
    settings, data
        How, and on what.
    folder
        The run's own folder.
    recipe
        ``paper`` or ``all``: which sites the surgery edits.
    scale
        Label scale C of variants that rescale; None takes it from the labels of the training set.
    device, devices
        ``cpu``, ``cuda`` or ``auto``, and how many processes with one each.
    pace
        How often to log, measure and save.
    keep_model
        Write ``model.pt``, which `dcsurgery.load` reads, at the end.
    shown
        Show a progress bar.
    command
        Command line, for the record.
    """

    model: str
    variant: Variant
    settings: Settings
    data: DataChoice
    folder: str
    size: str = "small"
    backend: str = "auto"
    recipe: str = "paper"
    scale: float | None = None
    device: str = "cpu"
    devices: int = 1
    pace: Pace = field(default_factory=Pace)
    keep_model: bool = True
    shown: bool = True
    command: str = ""


_LENGTH = ("epochs", "steps")  # nothing else in a training depends on its length


def run_job(job: Job, *, resume: bool = False) -> RunRecord:
    """Do a run, or go on with one that was killed, or that had fewer epochs or steps; else what has ended is not done again.

    Returns
    -------
    RunRecord
        With ``metrics``: ``energy_mae``, ``force_mae`` and ``efwt`` of the test set, the same of the validation set with
        the prefix ``valid_``, the label scale ``C``, the energy ``reference``, ``loss`` of the last step, ``steps``,
        ``parameters``, ``steps_per_s``, ``structures_per_s``, ``peak_memory_mib``. A run whose loss stopped being finite
        has the status ``diverged`` and no errors.

    Raises
    ------
    SurgeryError
        If something it needs cannot be used, or the folder holds another run.
    """
    fabric = fabric_for(job.device, job.devices)
    parts = load_parts(job.data)
    folder, record = open_run(job.folder, _record(job, parts, fabric), resume=resume, length=_LENGTH)
    if record.ended:
        return record
    status, metrics, wall_time, note = launch(fabric, _in_process, job)
    ended = record.ending(status, metrics, wall_time=wall_time, note=note)
    ended.save(folder)
    return ended


def restore(folder: str | os.PathLike[str]) -> tuple[nn.Module, RunRecord]:
    """Return the model of a run as its last checkpoint has it, and the run's record.

    Raises
    ------
    BadInput
        If the run has no checkpoint, or it is damaged.
    """
    from dcsurgery.zoo.training.checkpoints import CHECKPOINT, State

    path = Path(folder)
    record = RunRecord.load(path)
    if not (path / CHECKPOINT).exists():
        raise BadInput("the run has no checkpoint", where=str(path), fix="train it again")
    state = State.load(path)
    model = _built(record.name, record.settings["size"], record.settings["backend"], record.seed)
    if (path / PLAN_FILE).exists():
        model = dcs.apply(model, dcs.Plan.from_yaml((path / PLAN_FILE).read_text(encoding="utf-8"))).model
    model = model.to(torch.float64 if record.settings["precision"] == "float64" else torch.float32)
    model.load_state_dict(state.model)
    return model.eval(), record


def _record(job: Job, parts: Parts, fabric: Fabric) -> RunRecord:
    settings = job.settings.to_dict()
    seed = settings.pop("seed")
    more = {
        "size": job.size,
        "backend": entry_of(job.model, job.backend).backend,
        "recipe": job.recipe,
        "C": job.scale or "auto",
    }
    # Several processes divide a batch, which only rounding can tell; so they may change when a run is resumed.
    device = describe_device(fabric.device.type) + (f" x {job.devices}" if job.devices > 1 else "")
    return RunRecord(
        job.model, job.variant.name, seed, {**more, **settings}, parts.description, device=device, command=job.command
    )


def _built(name: str, size: str, backend: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(name, size, backend)


def _in_process(fabric: Fabric, job: Job) -> tuple[Status, dict[str, Any], float, str]:
    """Train; return status, metrics, seconds, note. In each process of a Fabric; the first one's result counts."""
    parts = load_parts(job.data)
    folder = Path(job.folder)
    model = _built(job.model, job.size, job.backend, job.settings.seed)
    surgery = None
    if job.variant != ORIGINAL:
        batch = parts.train.batch(range(min(_EXAMPLE, len(parts.train))))
        surgery = operate(model, job.model, job.variant, job.recipe, job.scale or _scale(job, parts), batch)
        model = surgery.model
        if fabric.is_global_zero:
            with replacing(folder / PLAN_FILE) as file:
                file.write(surgery.plan.to_yaml().encode())
    label = f"{job.model} {job.variant.name} seed {job.settings.seed}"
    with bar(label, shown=job.shown and fabric.is_global_zero) as told:
        trainer = Trainer(
            fabric,
            model,
            parts.train,
            job.settings,
            valid=parts.valid,
            folder=folder,
            resume=True,
            pace=job.pace,
            progress=told,
        )
        try:
            trainer.run()
        except Diverged as error:
            return "diverged", {"steps": trainer.state.step, "C": trainer.scale}, trainer.state.wall_time, str(error)
    metrics = _metrics(job, parts, trainer) if fabric.is_global_zero else {}
    note = _keep_model(job, model if surgery is None else surgery) if job.keep_model and fabric.is_global_zero else ""
    fabric.barrier()
    return "finished", metrics, trainer.state.wall_time, note


def _keep_model(job: Job, model: Any) -> str:
    """Write ``model.pt``; return why not, where it cannot be written: the checkpoint has the weights anyway."""
    try:
        dcs.save(model, Path(job.folder) / MODEL_FILE, force=True)
    except SurgeryError as error:
        return f"model.pt was not written: {error}"
    return ""


def _scale(job: Job, parts: Parts) -> float:
    """Return C of Eq. 4: of all labels of the training set together."""
    reference = float(parts.train.energies.mean()) if job.settings.reference == "mean" else 0.0
    return dcs.rescale_constant(parts.train.energies - reference, parts.train.forces)


def _metrics(job: Job, parts: Parts, trainer: Trainer) -> dict[str, Any]:
    measured: dict[str, Any] = {
        "C": trainer.scale,
        "reference": trainer.reference,
        "batch_size": job.settings.batch_size,
        "device": trainer.fabric.device,
    }
    errors = evaluate(trainer.model, parts.test, **measured).to_dict()
    if parts.valid is not None:
        errors |= evaluate(trainer.model, parts.valid, **measured).to_dict("valid_")
    steps = trainer.state.step
    return {
        **errors,
        "C": trainer.scale,
        "reference": trainer.reference,
        "loss": trainer.losses[-1] if steps else None,
        "steps": steps,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        **trainer.speed().to_dict(),
    }
