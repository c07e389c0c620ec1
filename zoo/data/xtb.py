"""Molecular dynamics labelled with GFN2-xTB: ``python -m dcsurgery.zoo.data.xtb ethanol --frames 600 --seed 0 -o FILE``.

Langevin dynamics at constant temperature, one frame kept every ``interval`` steps, so that frames are weakly
correlated. Energies and forces come from the same calculation, so F = -dE/dR holds to the accuracy of the
self-consistent field; a few displaced frames are stored with which that can be checked without xTB.

Every kept frame restarts the calculator and is saved together with the momenta and the state of the random numbers:
an interrupted run goes on where it stopped and ends in the same file, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcsurgery.errors import BadInput, SurgeryError
from dcsurgery.zoo.data.systems import starting_structure
from dcsurgery.zoo.writing import replacing

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Settings", "generate", "main"]

DISPLACED_FRAMES = 6
DISPLACEMENT = 2e-3  # Å; central differences are then good to about 2e-3 kcal/mol/Å
SECONDS_BETWEEN_SAVES = 5.0


@dataclass(frozen=True)
class Settings:
    """What determines a trajectory.

    Attributes
    ----------
    molecule
        Name of the molecule or slab, as `dcsurgery.zoo.data.systems.starting_structure` knows it.
    frames
        Number of frames to keep.
    seed
        Seed of the velocities and of the thermostat.
    temperature
        Temperature in kelvin.
    timestep
        Time step in fs.
    interval
        Steps between two frames.
    equilibration
        Steps before the first frame's interval begins.
    friction
        Friction of the thermostat in 1/fs.
    method
        Method name as tblite knows it (GFN2-xTB, GFN1-xTB), or EMT, which is ASE's effective medium theory.
    size
        Of a slab: repeats along the surface, and layers.
    chain
        Number of the trajectory, of several with one seed.
    """

    molecule: str
    frames: int = 600
    seed: int = 0
    temperature: float = 500.0
    timestep: float = 0.5
    interval: int = 400
    equilibration: int = 4000
    friction: float = 0.01
    method: str = "GFN2-xTB"
    size: tuple[int, int, int] = (2, 2, 3)
    chain: int = 0

    def __post_init__(self) -> None:
        for name in ("frames", "interval"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "equilibration", "chain"):
            if getattr(self, name) < 0:
                raise BadInput(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("temperature", "timestep", "friction"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise BadInput(f"{name} must be a positive number, got {getattr(self, name)}")


def generate(
    settings: Settings,
    output: str | os.PathLike[str],
    *,
    calculator: Callable[[], Any] | None = None,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
    alive: Callable[[], None] | None = None,
) -> Path:
    """Run the dynamics and write the labelled frames.

    Parameters
    ----------
    settings
        What to run.
    output
        The npz file to write: ``R`` (n_frames, n_atoms, 3) in Å, ``E`` (n_frames,) in kcal/mol, ``F`` (n_frames,
        n_atoms, 3) in kcal/mol/Å, ``z`` (n_atoms,), ``provenance`` (JSON), and pairs of displaced frames ``fd_R``,
        ``fd_E`` with the index ``fd_frame`` of the frame they surround. Next to it, ``NAME.partial`` holds an
        unfinished run.
    calculator
        Makes the ASE calculator that labels; tblite's by default.
    force
        Replace an existing output file.
    progress
        Called with the number of finished frames.
    alive
        Called every few steps, between frames too; what it raises ends the run, which can be continued.

    Raises
    ------
    BadInput
        If tblite or ASE is missing, the molecule is unknown, the output exists or cannot be written, or an
        unfinished run with other settings lies next to it.
    """
    output = Path(output)
    if output.exists() and not force:
        raise BadInput("the file exists", where=str(output), fix="choose another name or add --force")
    if not output.parent.is_dir():
        raise BadInput(f"no folder {output.parent}", where=str(output), fix="make the folder first")
    atoms = starting_structure(settings.molecule, settings.size)
    make = calculator if calculator is not None else _calculator(settings.method)
    run = _Run(settings, atoms, make, output.with_name(output.name + ".partial"))
    run.alive = alive
    run.resume()
    if progress is not None:
        progress(len(run.energies))
    saved = time.monotonic()
    try:
        while len(run.energies) < settings.frames:
            run.advance()
            if progress is not None:
                progress(len(run.energies))
            if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                run.save()
                saved = time.monotonic()
    except BaseException:
        run.save()  # also on Ctrl-C: the last finished frame is where the next call goes on
        raise
    _write_npz(output, run.result())
    run.partial.unlink(missing_ok=True)
    return output


class _Run:
    """A trajectory in progress; its state is that of the last finished frame."""

    def __init__(self, settings: Settings, atoms: Atoms, calculator: Callable[[], Any], partial: Path) -> None:
        from ase import units

        self.settings = settings
        self.atoms = atoms
        self.calculator = calculator
        self.partial = partial
        self.alive: Callable[[], None] | None = None
        self.kcal = units.kcal / units.mol
        seed = [settings.seed, settings.chain] if settings.chain else settings.seed
        self.generator = np.random.Generator(np.random.PCG64(seed))
        masses = atoms.get_masses()[:, None]  # momenta from the Maxwell-Boltzmann distribution
        normal = self.generator.standard_normal((len(atoms), 3))
        atoms.set_momenta(np.sqrt(masses * units.kB * settings.temperature) * normal)
        self.positions: list[NDArray[Any]] = []
        self.energies: list[float] = []
        self.forces: list[NDArray[Any]] = []
        self._remember()

    def advance(self) -> None:
        """Run to the next frame and keep it."""
        from ase import units
        from ase.md.langevin import Langevin

        settings = self.settings
        # A fresh calculator forgets its last density: the frame depends on the saved state alone.
        self.atoms.calc = self.calculator()
        dynamics = Langevin(
            self.atoms,
            settings.timestep * units.fs,
            temperature_K=settings.temperature,
            friction=settings.friction / units.fs,
            fixcm=False,
            rng=self.generator,
        )
        if self.alive is not None:
            dynamics.attach(self.alive, interval=10)
        dynamics.run(settings.interval + (settings.equilibration if not self.energies else 0))
        energy = self.atoms.get_potential_energy() / self.kcal
        forces = self.atoms.get_forces(apply_constraint=False) / self.kcal
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise BadInput(
                f"the dynamics became unstable at frame {len(self.energies)}", fix="take a smaller time step"
            )
        # Of a molecule the centre of mass drifts and means nothing: it is put at the origin.
        centre = 0.0 if self.atoms.pbc.any() else self.atoms.get_center_of_mass()
        self.positions.append(self.atoms.get_positions() - centre)
        self.energies.append(float(energy))
        self.forces.append(forces)
        self._remember()

    def _remember(self) -> None:
        self.state = {
            "positions": self.atoms.get_positions(),
            "momenta": self.atoms.get_momenta(),
            "random": np.array(json.dumps(self.generator.bit_generator.state)),
        }

    def save(self) -> None:
        """Write the unfinished run."""
        if self.energies:
            arrays = {"R": np.array(self.positions), "E": np.array(self.energies), "F": np.array(self.forces)}
            _write_npz(self.partial, {**arrays, **self.state, "settings": np.array(json.dumps(self._continuable()))})

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
            self.positions, self.forces = list(stored["R"]), list(stored["F"])
            self.energies = [float(energy) for energy in stored["E"]]
            self.atoms.set_positions(stored["positions"], apply_constraint=False)
            self.atoms.set_momenta(stored["momenta"])
            self.generator.bit_generator.state = json.loads(str(stored["random"]))
        except BadInput:
            raise
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
            raise BadInput(
                f"not an unfinished run ({type(error).__name__})", where=str(self.partial), fix="remove the file"
            ) from None
        self._remember()

    def _continuable(self) -> dict[str, Any]:
        # The number of frames may grow: it changes nothing in the frames before.
        return {key: value for key, value in _plain(self.settings).items() if key != "frames"}

    def result(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of the finished file."""
        frames = self.settings.frames
        positions = np.array(self.positions[:frames])
        chosen = np.linspace(0, frames - 1, min(DISPLACED_FRAMES, frames)).round().astype(int)
        displaced, energies = [], []
        directions = np.random.Generator(np.random.PCG64([self.settings.seed, 1]))
        for index in chosen:
            step = directions.standard_normal(positions[index].shape)
            step *= DISPLACEMENT / np.linalg.norm(step)
            for sign in (1.0, -1.0):
                displaced.append(positions[index] + sign * step)
                self.atoms.calc = self.calculator()
                self.atoms.set_positions(displaced[-1], apply_constraint=False)
                energies.append(self.atoms.get_potential_energy() / self.kcal)
        periodic: dict[str, NDArray[Any]] = {}
        if self.atoms.pbc.any():
            fixed = np.isin(np.arange(len(self.atoms)), [i for c in self.atoms.constraints for i in c.index])
            periodic = {"cell": np.asarray(self.atoms.cell), "pbc": self.atoms.pbc, "fixed": fixed}
        return {
            **periodic,
            "R": positions,
            "E": np.array(self.energies[:frames]),
            "F": np.array(self.forces[:frames], dtype=np.float32),
            "z": self.atoms.get_atomic_numbers().astype(np.int64),
            "fd_frame": np.repeat(chosen, 2),
            "fd_R": np.array(displaced),
            "fd_E": np.array(energies),
            "provenance": np.array(json.dumps(self._provenance(), sort_keys=True)),
        }

    def _provenance(self) -> dict[str, Any]:
        from importlib.metadata import PackageNotFoundError, version

        versions = {}
        for package in ("ase", "tblite", "numpy"):
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                versions[package] = "not installed"
        return {
            "generator": "dcsurgery.zoo.data.xtb",
            "settings": _plain(self.settings),
            "calculator": type(self.atoms.calc).__name__,
            "units": {"R": "Angstrom", "E": "kcal/mol", "F": "kcal/mol/Angstrom", "timestep": "fs"},
            "versions": versions,
        }


def _plain(settings: Settings) -> dict[str, Any]:
    values = asdict(settings)
    return {**values, "size": list(settings.size)}  # as JSON gives it back


def _calculator(method: str) -> Callable[[], Any]:
    if method.upper() == "EMT":
        from ase.calculators.emt import EMT

        return EMT
    return _xtb(method)


def _xtb(method: str) -> Callable[[], Any]:
    try:
        from tblite.ase import TBLite
    except ImportError:
        raise BadInput("tblite is not installed", fix='pip install "dcsurgery[zoo]"') from None
    return lambda: TBLite(method=method, accuracy=0.1, verbosity=0)


def _write_npz(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    with replacing(path) as file:
        save: Any = np.savez_compressed  # its type is another one in NumPy 1 and 2
        save(file, **arrays)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the generator as a program; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dcsurgery.zoo.data.xtb", description="Molecular dynamics labelled with GFN2-xTB."
    )
    parser.add_argument("molecule", help="one of MD17's molecules, or a name of ASE's G2 set")
    parser.add_argument("--frames", type=int, default=600, help="frames to keep (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of velocities and thermostat (%(default)s)")
    parser.add_argument("--temperature", type=float, default=500.0, help="kelvin (%(default)s)")
    parser.add_argument("--timestep", type=float, default=0.5, help="fs (%(default)s)")
    parser.add_argument("--interval", type=int, default=400, help="steps between frames (%(default)s)")
    parser.add_argument("--equilibration", type=int, default=4000, help="steps before the first (%(default)s)")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_argument("-o", "--output", required=True, help="npz file to write")
    values = vars(parser.parse_args(arguments))
    output, force = values.pop("output"), values.pop("force")
    # Threads only slow down a calculation of nine atoms.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        settings = Settings(**values)
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(f"{settings.molecule}, {settings.method}", total=settings.frames)
            path = generate(settings, output, force=force, progress=lambda done: bar.update(task, completed=done))
    except SurgeryError as error:
        console.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        console.print(f"interrupted; the same command goes on from {output}.partial", markup=False, soft_wrap=True)
        return 130
    console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
