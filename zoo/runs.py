"""Run directories: one training in one folder, with a record (``run.json``) of what was run and what came out.

A record is written when a run starts and again when it ends. Tables read only runs that ended, so a run that was
killed counts nowhere until it is resumed and finishes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from dcsurgery.errors import BadInput
from dcsurgery.zoo.writing import replacing

__all__ = [
    "ENDED",
    "RECORD",
    "RunRecord",
    "Status",
    "changed_settings",
    "command_line",
    "describe_device",
    "find_runs",
    "installed_versions",
    "open_run",
]

RECORD = "run.json"
FORMAT = 1

Status = Literal["running", "finished", "diverged"]

#: What a table may count. A diverged run is a result: its errors are reported as NaN.
ENDED = ("finished", "diverged")

_PACKAGES = ("dcsurgery", "torch", "torch-geometric", "numpy", "fairchem-core", "deepxde", "lightning-fabric")


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class RunRecord:
    """What was run and what came out.

    Attributes
    ----------
    name
        Model, for instance ``schnet`` or ``pinn-advection``.
    variant
        What surgery it had: ``original``, ``irelu``, ``denorm+rescale``, ``irelu+denorm+rescale``, ...
    seed
        Seed of weights, batches and dropout.
    settings
        Everything that decides the result: size, recipe, batch, epochs, learning rate, loss, precision, ... A run can
        only be resumed with equal ones, or to become longer.
    data
        ``name``, ``fingerprint``, numbers of structures, units.
    metrics
        Results by name; a number that is not finite is kept as None.
    status
        ``running`` until the run ends; then ``finished``, or ``diverged`` where the loss stopped being finite.
    note
        For a person: why it diverged, for instance.
    device
        Where it ran.
    wall_time
        Seconds of training, all resumed parts together.
    command
        Command line that started the run; file names only, no folders.
    started
        UTC time of the first start, ISO 8601.
    versions
        Versions of Python and the packages that matter.
    """

    name: str
    variant: str
    seed: int
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    status: Status = "running"
    note: str = ""
    device: str = "cpu"
    wall_time: float = 0.0
    command: str = ""
    started: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    versions: Mapping[str, str] = field(default_factory=installed_versions)

    @property
    def ended(self) -> bool:
        """Whether the run came to its end, so that tables may count it."""
        return self.status in ENDED

    def ending(self, status: Status, metrics: Mapping[str, Any], *, wall_time: float, note: str = "") -> RunRecord:
        """Return the record of the same run after it ended."""
        return dataclasses.replace(self, status=status, metrics=metrics, wall_time=wall_time, note=note)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``run.json`` into a run's folder, whole or not at all.

        Raises
        ------
        BadInput
            If the folder cannot be written to.
        """
        path = Path(folder) / RECORD
        document = {"format": FORMAT, **dataclasses.asdict(self)}
        with replacing(path) as file:
            file.write((json.dumps(_plain(document), indent=2, allow_nan=False) + "\n").encode())
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RunRecord:
        """Read a record from its file, or from the folder that holds ``run.json``.

        Raises
        ------
        BadInput
            If there is no readable record.
        """
        path = Path(path)
        path = path / RECORD if path.is_dir() else path
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadInput(f"cannot read the run record: {error.strerror}", where=str(path)) from None
        except ValueError as error:
            raise BadInput(f"not a run record: {error}", where=str(path), fix="delete it and run again") from None
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise BadInput("not a run record of this version", where=str(path), fix="delete it and run again")
        missing = {"name", "variant", "seed", "settings", "data", "status"} - document.keys()
        if missing:
            raise BadInput(f"the run record lacks {', '.join(sorted(missing))}", where=str(path))
        return cls(**{key: value for key, value in document.items() if key in names})


def open_run(
    folder: str | os.PathLike[str], record: RunRecord, *, resume: bool = False, length: Collection[str] = ()
) -> tuple[Path, RunRecord]:
    """Make a run's folder, or find the one that a killed run left, and return the folder with the record to go on with.

    Parameters
    ----------
    folder
        The run's own folder; it is made where it is missing.
    record
        What is about to be run.
    resume
        Go on with a run in that folder. One that ended is returned as it is; look at ``ended``.
    length
        Names of settings that say how long the run is: where one is larger now, a finished run is gone on with.

    Returns
    -------
    folder, record
        The record on disk where there was one, otherwise ``record``, which is then on disk.

    Raises
    ------
    BadInput
        If the folder holds a run and ``resume`` is False, if that run had other settings (they are named), or the
        folder cannot be made.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the run's folder: {error.strerror}", where=str(path)) from None
    if not (path / RECORD).exists():
        record.save(path)
        return path, record
    before = RunRecord.load(path)
    if not resume:
        raise BadInput(
            f"holds a run already ({before.status})",
            where=str(path),
            fix="add --resume to go on with it, or choose --out",
        )
    now, old = record.settings, before.settings
    longer = {name: now[name] for name in length if _is_more(now.get(name), old.get(name))}
    going_on = dataclasses.replace(before, settings={**before.settings, **longer})
    changes = changed_settings(going_on, record)
    if changes:
        raise BadInput(
            f"the run was started with other settings: {'; '.join(changes)}",
            where=str(path),
            fix="resume with the settings it had, or choose another folder with --out",
        )
    if longer and before.status != "diverged":
        before = dataclasses.replace(going_on, status="running", metrics={}, note="", command=record.command)
        before.save(path)
    return path, before


def _is_more(now: Any, before: Any) -> bool:
    return isinstance(now, int) and isinstance(before, int) and now > before


def changed_settings(before: RunRecord, now: RunRecord) -> list[str]:
    """Return what differs between two runs that should be one, each as ``name: before -> now``; empty if nothing."""
    changes = [
        f"{name}: {getattr(before, name)} -> {getattr(now, name)}"
        for name in ("name", "variant", "seed")
        if getattr(before, name) != getattr(now, name)
    ]
    for label, first, second in (("", before.settings, now.settings), ("data ", before.data, now.data)):
        old, new = _plain(first), _plain(second)
        changes += [
            f"{label}{key}: {old.get(key)} -> {new.get(key)}"
            for key in sorted({*old, *new})
            if old.get(key) != new.get(key)
        ]
    return changes


def find_runs(folder: str | os.PathLike[str]) -> Iterator[tuple[Path, RunRecord]]:
    """Yield every run below a folder, sorted by path, also those that have not ended.

    Raises
    ------
    BadInput
        If there is no such folder or a record cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise BadInput("no such folder of runs", where=str(root), fix="train first: dcsurgery zoo train or zoo ablate")
    for path in sorted(root.rglob(RECORD)):
        yield path.parent, RunRecord.load(path)


def describe_device(device: str) -> str:
    """Return a device in words: the name of a GPU, the architecture and thread count of a CPU."""
    import torch

    if torch.device(device).type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"


def command_line() -> str:
    """Return the command that this process runs, with file names instead of paths."""
    program, *words = sys.argv
    # "kcal/mol" has a slash, too.
    names = [Path(word).name if Path(word).is_absolute() or Path(word).exists() else word for word in words]
    return shlex.join([Path(program).name, *names])


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: numbers that are not finite become None, tuples lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
