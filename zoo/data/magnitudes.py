"""Ask whether numbers can be in the units that are said.

Energies have no natural zero, so their size alone tells little. Four things do tell, and none needs to know how the
data was made:

* distances between neighbours are those of bonds;
* a total energy cannot lie below that of all electrons of the atoms (Schwinger's expansion);
* between two near frames the energy changes by the work of the forces, ΔE = -(F₁ + F₂)/2 · ΔR, so energies and
  forces that disagree by a factor are in different units;
* for the thermal motion of a molecule, the forces and the spread of the energy give a mean bond stiffness,
  Σ⟨F²⟩ / kT with kT = sqrt(2 var(E) / n), n vibrations: a few tens of eV/Å² at any temperature.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.structures import StructureSet
from dcsurgery.zoo.data.units import Units, energy_factor, length_factor

__all__ = ["check_magnitudes"]

_EV = Units("eV", "Angstrom")
_CANDIDATES = tuple(
    Units(energy, length)
    for length in ("Angstrom", "bohr")
    for energy in ("eV", "kcal/mol", "meV", "kJ/mol", "hartree")
)
_SAMPLE = 100  # structures looked at
_ATOMS = 4000  # and atoms at most
_NEIGHBOUR = (0.6, 1.6)  # nearest distance over the sum of covalent radii, median; bohr taken for Å gives 1.9
_DEEPER = 1.1  # than all electrons; heavy elements are deeper than Schwinger's expansion by relativity
_WORK = (0.35, 3.0)  # work of the forces over the change of energy
_STIFFNESS = (6.0, 160.0)  # eV/Å²; harmonic molecules have 20 to 60
_HARTREE = 27.211386245988


def check_magnitudes(data: StructureSet, *, where: str | None = None) -> None:
    """Refuse a set whose numbers cannot be in its units.

    Raises
    ------
    BadInput
        If they cannot; the message says why, and which units would fit.
    """
    problem = _problem(data)
    if problem is None:
        return
    fitting = [f'"{units}"' for units in _CANDIDATES if units != data.units and _problem(data, units) is None]
    advice = f"say units {' or '.join(fitting[:3])}, which fit" if fitting else "no unit known here fits all of them"
    raise BadInput(
        f"these can hardly be {data.units}: {problem}",
        where=where or data.name,
        fix=f"{advice}, or trust the file: --trust-units, check_units=False",
    )


def _problem(data: StructureSet, units: Units | None = None) -> str | None:
    sample = _sampled(data)
    stated = units or data.units
    energy, length = energy_factor(stated, _EV), length_factor(stated, _EV)
    for answer in (
        _distances(sample, length),
        _depth(sample, energy),
        _work(sample),
        _stiffness(sample, energy, length),
    ):
        if answer is not None:
            return answer
    return None


def _sampled(data: StructureSet) -> StructureSet:
    """Return a part, each structure with one that follows it: in trajectories, a near one."""
    many = int(min(_SAMPLE, max(2, _ATOMS // data.natoms.max())))
    if len(data) <= many:
        return data
    first = np.linspace(0, len(data) - 2, many // 2).astype(int)
    return data.subset(np.unique(np.concatenate([first, first + 1])))


def _distances(data: StructureSet, length: float) -> str | None:
    ratios = []
    for index in range(len(data)):
        rows = slice(data.offsets[index], data.offsets[index + 1])
        if data.natoms[index] < 2:
            continue
        positions, radii = data.positions[rows] * length, _RADII[data.numbers[rows]]
        apart = np.linalg.norm(positions[:, None] - positions, axis=-1)
        np.fill_diagonal(apart, np.inf)
        ratios.append((apart / (radii[:, None] + radii)).min(axis=1))
    if not ratios:
        return None
    median = float(np.median(np.concatenate(ratios)))
    if _NEIGHBOUR[0] <= median <= _NEIGHBOUR[1]:
        return None
    return f"neighbours are {median:.2f} of the length of a bond apart"


def _depth(data: StructureSet, energy: float) -> str | None:
    Z = data.numbers.astype(np.float64)
    single = -0.768745 * Z ** (7 / 3) + 0.5 * Z**2 - 0.2699 * Z ** (5 / 3)
    lowest = np.add.reduceat(single, data.offsets[:-1]) * _HARTREE
    ratio = data.energies * energy / lowest
    worst = int(ratio.argmax())
    if ratio[worst] < _DEEPER:
        return None
    return (
        f"energy {data.energies[worst]:.6g} is {ratio[worst]:.3g} times the total energy of all electrons of the atoms"
    )


def _work(data: StructureSet) -> str | None:
    """Compare energies with the work of the forces; the units' names do not matter, only that they belong together."""
    changes, works = [], []
    for one in range(len(data) - 1):
        a, b = (slice(data.offsets[k], data.offsets[k + 1]) for k in (one, one + 1))
        if data.systems[one] != data.systems[one + 1] or not np.array_equal(data.numbers[a], data.numbers[b]):
            continue
        start, end = data.positions[a], data.positions[b]
        forces, later = data.forces[a], data.forces[b]
        if not data.pbc[one].any():
            turn = _rotation(end - end.mean(0), start - start.mean(0))
            end, start, later = (end - end.mean(0)) @ turn, start - start.mean(0), later @ turn
        change = float(data.energies[one + 1] - data.energies[one])
        moved = end - start
        if np.linalg.norm(moved, axis=1).max() > 0.5 * _shortest(start) or not change:
            continue  # too far for the trapezoid, or an atom that crossed the cell's border
        changes.append(change)
        works.append(-float(((forces + later) / 2 * moved).sum()))
    if len(changes) < 4:
        return None
    x, y = np.array(changes), np.array(works)
    large = np.abs(x) >= np.median(np.abs(x))  # small changes are differences of large works
    ratios = y[large] / x[large]
    slope = float(np.median(ratios))
    if np.mean(np.abs(ratios - slope) < 0.5 * abs(slope)) < 0.6:
        return None  # no clear relation: these frames lie too far apart to judge
    if _WORK[0] <= slope <= _WORK[1]:
        return None
    return (
        f"between near frames the work of the forces is {slope:.3g} times the change of the energy, and should equal it"
    )


def _stiffness(data: StructureSet, energy: float, length: float) -> str | None:
    first = data.numbers[: data.natoms[0]]
    if len(data) < 20 or data.pbc.any() or (data.natoms != len(first)).any() or len(first) < 3:
        return None
    if not np.array_equal(data.numbers, np.tile(first, len(data))):
        return None
    vibrations = 3 * len(first) - 6
    kT = float(np.std(data.energies)) * energy * np.sqrt(2 / vibrations)
    square = float((data.forces**2).sum() / len(data)) * (energy / length) ** 2
    if kT < 1e-6 or not square:
        return None
    stiffness = square / (vibrations * kT)
    if _STIFFNESS[0] <= stiffness <= _STIFFNESS[1]:
        return None
    return (
        f"forces and the spread of the energies give a mean bond stiffness of {stiffness:.3g} eV/Å²;"
        f" molecules have {_STIFFNESS[0]:.0f} to {_STIFFNESS[1]:.0f}"
    )


def _rotation(moving: NDArray[Any], fixed: NDArray[Any]) -> NDArray[Any]:
    """Return the rotation that brings ``moving`` closest to ``fixed`` (Kabsch), to be applied from the right."""
    left, _, right = np.linalg.svd(moving.T @ fixed)
    sign = np.sign(np.linalg.det(left @ right))
    return left @ np.diag([1.0, 1.0, sign]) @ right


def _shortest(positions: NDArray[Any]) -> float:
    apart = np.linalg.norm(positions[:, None] - positions, axis=-1)
    np.fill_diagonal(apart, np.inf)
    return float(apart.min())


# Single-bond covalent radii in Å by atomic number, to a tenth and coarse on purpose: only factors of 1.6 are told apart.
_RADII = np.full(119, 1.5)
_RADII[[1, 2]] = 0.32
_RADII[3:11] = (1.3, 1.0, 0.8, 0.75, 0.7, 0.65, 0.6, 0.7)
_RADII[11:19] = (1.6, 1.4, 1.3, 1.1, 1.1, 1.0, 1.0, 1.0)
_RADII[19:37] = (2.0, 1.7, 1.5, 1.4, 1.3, 1.3, 1.3, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.1, 1.1)
