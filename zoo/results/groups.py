"""Runs that differ only by their seed, taken together: mean and standard deviation of their errors."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dcsurgery.zoo.runs import RunRecord

__all__ = ["Cell", "Setting", "Statistic", "cells_of", "figure", "power", "setting_of"]

#: Numbers of structures and other facts that a setting says in words.
_DATA = ("name", "fingerprint", "train", "valid", "test", "split", "by_system", "periodic", "references")


@dataclass(frozen=True)
class Setting:
    """What runs must share to be compared: model, data and all settings but the surgery.

    Attributes
    ----------
    model
        Name in the registry.
    data
        ``name``, ``fingerprint``, ``train``, ``test``, ... of the run records.
    settings
        The settings of the run records.
    key
        Equal for equal settings.
    """

    model: str
    data: dict[str, Any]
    settings: dict[str, Any]
    key: str

    @property
    def note(self) -> str:
        """Equal for settings that differ only by the model and its library."""
        settings = {key: value for key, value in self.settings.items() if key != "backend"}
        return json.dumps([self.data, settings], sort_keys=True, default=str)

    @property
    def budget(self) -> str:
        """How long was trained, in words."""
        steps, batch = self.settings.get("steps"), self.settings.get("batch_size")
        length = f"{self.settings.get('epochs')} epochs" if steps is None else f"{steps} steps"
        return f"{length} of batch {batch}, {self.settings.get('size')} size"

    @property
    def reduced(self) -> bool:
        """Whether less was trained than in the paper: a smaller model, fewer structures, fewer epochs."""
        steps, batch = self.settings.get("steps"), self.settings.get("batch_size") or 1
        train = int(self.data.get("train") or 0)
        epochs = self.settings.get("epochs", 0) if steps is None else steps * batch / max(train, 1)
        return self.settings.get("size") != "paper" or train < 50_000 or epochs < 50

    def __str__(self) -> str:
        data = self.data
        cells = ", periodic" if data.get("periodic") else ""
        energies = "raw energies" if self.settings.get("reference") == "none" else "energies less their mean"
        return (
            f"{data.get('name')} ({data.get('train')} train, {data.get('test')} test{cells}); {self.budget}, lr "
            f"{self.settings.get('lr'):g}, {self.settings.get('loss')} loss, beta {self.settings.get('beta'):g}, {energies}"
        )


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation over seeds.

    Attributes
    ----------
    mean, std
        NaN if a run diverged; std is NaN for one run, too.
    n
        Runs.
    """

    mean: float
    std: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Statistic:
        """Take values together; None and what is not finite make everything NaN."""
        numbers = [math.nan if value is None else float(value) for value in values]
        if not numbers or not all(math.isfinite(number) for number in numbers):
            return cls(math.nan, math.nan, len(numbers))
        return cls(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else math.nan, len(numbers))

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "NaN"
        return figure(self.mean) if math.isnan(self.std) else f"{figure(self.mean)} ± {figure(self.std, 2)}"


@dataclass(frozen=True)
class Cell:
    """The runs of one variant in one setting.

    Attributes
    ----------
    setting, variant
        Which.
    energy, force, efwt
        Errors on the test set over the seeds.
    seeds
        Of the runs that ended.
    diverged
        Seeds whose loss stopped being finite.
    steps_per_s, memory
        Means, steps per second and MiB.
    C
        Label scale.
    devices
        Where they ran.
    """

    setting: Setting
    variant: str
    energy: Statistic
    force: Statistic
    efwt: Statistic
    seeds: tuple[int, ...]
    diverged: tuple[int, ...]
    steps_per_s: float
    memory: float
    C: float
    devices: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the cell as plain JSON types; NaN is None."""

        def plain(number: float) -> float | None:
            return number if math.isfinite(number) else None

        return {
            "model": self.setting.model,
            "variant": self.variant,
            "energy_mae": plain(self.energy.mean),
            "energy_mae_std": plain(self.energy.std),
            "force_mae": plain(self.force.mean),
            "force_mae_std": plain(self.force.std),
            "efwt": plain(self.efwt.mean),
            "seeds": list(self.seeds),
            "diverged": list(self.diverged),
            "C": plain(self.C),
            "steps_per_s": plain(self.steps_per_s),
            "peak_memory_mib": plain(self.memory),
            "devices": list(self.devices),
            "data": self.setting.data,
            "settings": self.setting.settings,
        }


def figure(value: float, digits: int = 4) -> str:
    """Return a number with so many digits, and without an exponent where it has at most seven places."""
    if not math.isfinite(value) or not 1e-3 <= abs(value) < 1e7:
        return f"{value:.{digits}g}"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):g}" if abs(value) < 1e5 else f"{round(value, places):.0f}"


def power(value: float) -> str:
    """Return a label scale: powers of 10 as ``1e5``."""
    text = f"{value:.0e}"
    return text.replace("e+0", "e").replace("e-0", "e-") if float(text) == value and abs(value) >= 1e3 else f"{value:g}"


def setting_of(record: RunRecord) -> Setting:
    """Return what a run shares with those it is compared with."""
    data = {key: record.data.get(key) for key in _DATA}
    units = record.data.get("units")
    settings = dict(record.settings)
    key = json.dumps([record.name, data, settings], sort_keys=True, default=str)
    return Setting(record.name, {**data, "units": units}, settings, key)


def cells_of(records: Iterable[RunRecord]) -> list[Cell]:
    """Take runs together that differ only by their seed; runs that have not ended are left out.

    Returns
    -------
    list of Cell
        Sorted by setting, then variant.
    """
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    settings: dict[str, Setting] = {}
    for record in records:
        if not record.ended:
            continue
        setting = setting_of(record)
        settings[setting.key] = setting
        groups.setdefault((setting.key, record.variant), []).append(record)
    return [
        _cell(settings[key], variant, runs) for (key, variant), runs in sorted(groups.items(), key=lambda item: item[0])
    ]


def _cell(setting: Setting, variant: str, runs: list[RunRecord]) -> Cell:
    # The same seed twice, in two folders, is one run.
    by_seed = {run.seed: run for run in runs}
    ordered = [by_seed[seed] for seed in sorted(by_seed)]

    def over(name: str) -> Statistic:
        return Statistic.of(run.metrics.get(name) if run.status == "finished" else None for run in ordered)

    finished = [run for run in ordered if run.status == "finished"]
    return Cell(
        setting,
        variant,
        over("energy_mae"),
        over("force_mae"),
        over("efwt"),
        tuple(run.seed for run in ordered),
        tuple(run.seed for run in ordered if run.status == "diverged"),
        Statistic.of(run.metrics.get("steps_per_s") for run in finished).mean,
        Statistic.of(run.metrics.get("peak_memory_mib") for run in finished).mean,
        Statistic.of(run.metrics.get("C") for run in ordered).mean,
        tuple(sorted({run.device for run in ordered})),
    )
