"""Langevin dynamics of many copies of a molecule at once, driven by an sGDML force field, on a CPU or a GPU.

Every walker starts at one of the geometries that the force field was trained on and is independent of the others.
The integrator is BAOAB (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013)), whose configurations carry almost no
error of the time step. Random numbers are seeded anew for every round, so that an interrupted run goes on from its last
round and ends in the same data.

A force field knows nothing far from where it was trained. A walker that gets there, or whose atoms come apart, goes on
as a copy of a walker that did not, with new velocities; how often that happened is written into the file.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.sgdml import ForceField
from dcsurgery.zoo.data.units import Units, energy_factor, length_factor
from dcsurgery.zoo.writing import replacing

__all__ = ["WalkerSettings", "run_walkers"]

_BOLTZMANN = 8.617333262e-5  # eV/K
_ACCELERATION = 9.64853321e-3  # Å/fs² of 1 eV/Å on 1 atomic mass unit
_EV = Units("eV")
SECONDS_BETWEEN_SAVES = 10.0
_STRETCHED = 1.7  # of its length in the first geometries: a bond that is broken
_FAR = 8.0  # times as far from the training geometries as they are from each other


@dataclass(frozen=True)
class WalkerSettings:
    """What determines a run.

    Attributes
    ----------
    frames
        Number of frames to keep, over all walkers.
    walkers
        Copies of the molecule.
    seed
        Seed of start geometries, velocities and thermostat.
    temperature
        In kelvin.
    timestep
        In fs.
    interval
        Steps between two frames of one walker.
    equilibration
        Steps before the first interval.
    friction
        Of the thermostat, in 1/fs.
    """

    frames: int = 50_000
    walkers: int = 500
    seed: int = 0
    temperature: float = 500.0
    timestep: float = 0.5
    interval: int = 100
    equilibration: int = 2000
    friction: float = 0.01

    def __post_init__(self) -> None:
        for name in ("frames", "walkers", "interval"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "equilibration"):
            if getattr(self, name) < 0:
                raise BadInput(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("temperature", "timestep", "friction"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise BadInput(f"{name} must be a positive number, got {getattr(self, name)}")


def run_walkers(
    field: ForceField,
    settings: WalkerSettings,
    output: str | Path,
    *,
    device: str = "cpu",
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Run the dynamics and write the labelled frames.

    Parameters
    ----------
    field
        The force field.
    settings
        What to run.
    output
        The npz file to write, in MD17's layout and the force field's units, with ``provenance`` (JSON). Next to it,
        ``NAME.partial`` holds an unfinished run.
    device
        Where to compute; always in float64. Another device gives another trajectory of the same distribution.
    force
        Replace an existing output file.
    progress
        Called with the number of finished frames.

    Raises
    ------
    BadInput
        If the output exists or cannot be written, the device is missing, an unfinished run with other settings lies
        next to it, or most walkers leave what the force field knows.
    """
    output = Path(output)
    if output.exists() and not force:
        raise BadInput("the file exists", where=str(output), fix="choose another name or add --force")
    if not output.parent.is_dir():
        raise BadInput(f"no folder {output.parent}", where=str(output), fix="make the folder first")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise BadInput("there is no CUDA device", where=f"device {device}", fix="use --device cpu")
    run = _Walkers(field.to(device), settings, torch.device(device), output.with_name(output.name + ".partial"))
    run.resume()
    saved = time.monotonic()
    try:
        while run.done < settings.frames:
            if progress is not None:
                progress(run.done)
            run.advance()
            if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                run.save()
                saved = time.monotonic()
    except BaseException:
        run.save()  # also on Ctrl-C: the last finished round is where the next call goes on
        raise
    if progress is not None:
        progress(settings.frames)
    _write(output, run.result())
    run.partial.unlink(missing_ok=True)
    return output


class _Walkers:
    """All walkers; what is kept is their state after the last finished round."""

    def __init__(self, field: ForceField, settings: WalkerSettings, device: torch.device, partial: Path) -> None:
        try:
            from ase.data import atomic_masses
        except ImportError:
            raise BadInput("ASE is not installed", fix='pip install "dcsurgery[zoo]"') from None

        self.field, self.settings, self.device, self.partial = field, settings, device, partial
        self.masses = torch.tensor(atomic_masses[field.numbers], dtype=torch.float64, device=device)[:, None]
        energy, length = energy_factor(field.units, _EV), length_factor(field.units, _EV)
        self.acceleration = _ACCELERATION * energy / length**2
        # Velocities in the field's length per fs: kT / m, with kT in the field's energy.
        self.kT = _BOLTZMANN * settings.temperature / energy
        self.round = 0
        self.replaced = 0
        self.frames: list[dict[str, NDArray[Any]]] = []
        generator = np.random.Generator(np.random.PCG64([settings.seed, 7]))
        start = field.training_geometries(generator.integers(field.n_training, size=settings.walkers))
        self.positions = start.to(device)
        self.velocities = self._thermal(self._random(0), settings.walkers)
        near = field.training_geometries(np.arange(min(200, field.n_training)))
        lengths = self._lengths(near).mean(0)
        self.bonds = lengths < self._reach()
        self.limits = lengths[self.bonds] * _STRETCHED
        self.far = self._spread(near) * _FAR

    @property
    def done(self) -> int:
        """Frames so far, of those that were asked for."""
        return min(self.settings.frames, len(self.frames) * self.settings.walkers)

    def _reach(self) -> Tensor:
        from ase.data import covalent_radii

        radii = torch.tensor(covalent_radii[self.field.numbers], dtype=torch.float64, device=self.device)
        reach = 1.3 * (radii[self.field.first] + radii[self.field.second])
        return reach / length_factor(self.field.units, _EV)

    def _lengths(self, positions: Tensor) -> Tensor:
        return (positions[:, self.field.first] - positions[:, self.field.second]).norm(dim=-1)

    def _spread(self, near: Tensor) -> float:
        """Return the typical distance of a training geometry to the nearest other one, in descriptors over sigma."""
        d = 1 / self._lengths(near)
        apart = torch.cdist(d, d)
        apart.fill_diagonal_(float("inf"))
        return float(apart.min(1).values.median()) / self.field.sigma

    def _random(self, number: int) -> torch.Generator:
        seed = int(np.random.SeedSequence([self.settings.seed, number]).generate_state(1, np.uint64)[0]) >> 1
        return torch.Generator(self.device).manual_seed(seed)

    def _thermal(self, generator: torch.Generator, count: int) -> Tensor:
        shape = (count, self.field.n_atoms, 3)
        normal = torch.randn(shape, dtype=torch.float64, device=self.device, generator=generator)
        return normal * (self.kT * self.acceleration / self.masses).sqrt()

    def advance(self) -> None:
        """Run to the next frame of every walker and keep it."""
        settings = self.settings
        generator = self._random(1 + self.round)
        steps = settings.interval + (settings.equilibration if self.round == 0 else 0)
        positions, velocities = self._steps(self.positions, self.velocities, steps, generator)
        energies, forces = self.field(positions)
        bad = self._lost(positions, energies, forces)
        if bool(bad.any()):
            if float(bad.double().mean()) > 0.5:
                raise BadInput(
                    f"{int(bad.sum())} of {len(bad)} walkers left what the force field knows, in round {self.round}",
                    where=self.field.name,
                    fix="take a lower temperature or a smaller time step",
                )
            good = torch.nonzero(~bad)[:, 0]
            pick = torch.randint(len(good), (int(bad.sum()),), generator=generator, device=self.device)
            for tensor in (positions, energies, forces):
                tensor[bad] = tensor[good[pick]]
            velocities[bad] = self._thermal(generator, int(bad.sum()))
            self.replaced += int(bad.sum())
        positions = positions - (positions * self.masses).sum(1, keepdim=True) / self.masses.sum()
        self.positions, self.velocities = positions, velocities
        self.round += 1
        self.frames.append({"R": positions.cpu().numpy(), "E": energies.cpu().numpy(), "F": forces.cpu().numpy()})

    def _steps(self, x: Tensor, v: Tensor, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        settings = self.settings
        half = 0.5 * settings.timestep
        keep = float(np.exp(-settings.friction * settings.timestep))
        noise = (self.kT * self.acceleration / self.masses * (1 - keep**2)).sqrt()
        kick = half * self.acceleration / self.masses
        _, forces = self.field(x)
        for _ in range(steps):
            v = v + kick * forces
            x = x + half * v
            v = keep * v + noise * torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
            x = x + half * v
            _, forces = self.field(x)
            v = v + kick * forces
        return x, v

    def _lost(self, positions: Tensor, energies: Tensor, forces: Tensor) -> Tensor:
        broken = (self._lengths(positions)[:, self.bonds] > self.limits).any(1)
        finite = (
            torch.isfinite(energies)
            & torch.isfinite(forces).all(dim=(1, 2))
            & torch.isfinite(positions).all(dim=(1, 2))
        )
        return broken | ~finite | (self.field.nearness(positions) > self.far)

    def save(self) -> None:
        """Write the unfinished run."""
        if self.frames:
            _write(
                self.partial,
                {
                    **self._arrays(),
                    "positions": self.positions.cpu().numpy(),
                    "velocities": self.velocities.cpu().numpy(),
                    "state": np.array(json.dumps({"round": self.round, "replaced": self.replaced})),
                    "settings": np.array(json.dumps(self._continuable())),
                },
                compress=False,
            )

    def resume(self) -> None:
        """Go on where an unfinished run stopped, if there is one."""
        if not self.partial.exists():
            return
        try:
            with self.partial.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                stored = {key: file[key] for key in file.files}
            if json.loads(str(stored["settings"])) != self._continuable():
                raise BadInput(
                    "an unfinished run with other settings lies here",
                    where=str(self.partial),
                    fix="repeat its settings to finish it, or remove the file",
                )
            state = json.loads(str(stored["state"]))
            parts = {key: np.split(stored[key], state["round"]) for key in "REF"}
            self.positions = torch.from_numpy(stored["positions"]).to(self.device)
            self.velocities = torch.from_numpy(stored["velocities"]).to(self.device)
        except BadInput:
            raise
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
            raise BadInput(
                f"not an unfinished run ({type(error).__name__})", where=str(self.partial), fix="remove the file"
            ) from None
        self.round, self.replaced = state["round"], state["replaced"]
        self.frames = [{key: parts[key][k] for key in "REF"} for k in range(self.round)]

    def _continuable(self) -> dict[str, Any]:
        # The number of frames may grow: it changes nothing in the frames before.
        same = {key: value for key, value in asdict(self.settings).items() if key != "frames"}
        return {**same, "device": self.device.type, "constant": self.field.constant, "sigma": self.field.sigma}

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {key: np.concatenate([frame[key] for frame in self.frames]) for key in "REF"}

    def result(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of the finished file."""
        provenance = {
            "generator": "dcsurgery.zoo.data.walkers",
            "force_field": self.field.name,
            "settings": asdict(self.settings),
            "device": self.device.type,
            "walkers_replaced": self.replaced,
            "units": {"R": self.field.units.length, "E": self.field.units.energy, "F": self.field.units.force},
            "versions": {package: version(package) for package in ("numpy", "torch")},
        }
        arrays = {key: array[: self.settings.frames] for key, array in self._arrays().items()}
        return {
            **arrays,
            "z": self.field.numbers,
            "provenance": np.array(json.dumps(provenance, sort_keys=True)),
        }


def _write(path: Path, arrays: dict[str, NDArray[Any]], *, compress: bool = True) -> None:
    save: Any = np.savez_compressed if compress else np.savez  # their types are others in NumPy 1 and 2
    with replacing(path) as file:
        save(file, **arrays)
