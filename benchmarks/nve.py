"""Molecular dynamics at constant energy with a trained run: energy drift, and forces against finite differences.

python benchmarks/nve.py RUN [--steps 1500] [--timestep 0.5]
"""

from __future__ import annotations

import argparse

import numpy as np
from ase import Atoms, units
from ase.calculators.fd import calculate_numerical_forces
from ase.md.verlet import VelocityVerlet

from dcsurgery import zoo
from dcsurgery.zoo.calculator import PotentialCalculator


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="folder of a run on ethanol")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--timestep", type=float, default=0.5, help="in fs (%(default)s)")
    options = parser.parse_args()
    data = zoo.ethanol()
    atoms = Atoms(numbers=data.numbers, positions=data.positions[0], calculator=PotentialCalculator.of_run(options.run))
    forces = atoms.get_forces()
    difference = np.abs(forces - calculate_numerical_forces(atoms, eps=1e-6)).max()
    print(f"forces: largest {np.abs(forces).max():.3g} eV/Å, finite differences differ by {difference:.2g} eV/Å")
    normal = np.random.default_rng(0).normal(size=(len(atoms), 3))
    atoms.set_momenta(normal * np.sqrt(atoms.get_masses() * units.kB * 300.0)[:, None])
    dynamics = VelocityVerlet(atoms, options.timestep * units.fs)
    energies, temperatures = [], []
    for _ in range(options.steps):
        dynamics.run(1)
        energies.append(1e3 * atoms.get_total_energy() / len(atoms))  # meV/atom
        temperatures.append(atoms.get_temperature())
    times = options.timestep * 1e-3 * np.arange(options.steps)  # ps
    drift = np.polyfit(times, energies, 1)[0]
    print(
        f"{options.steps} steps of {options.timestep} fs at {np.mean(temperatures):.0f} K: drift {drift:.2g} meV/atom/ps, "
        f"fluctuation {np.std(energies):.2g} meV/atom"
    )


if __name__ == "__main__":
    main()
