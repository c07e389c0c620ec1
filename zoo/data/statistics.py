"""What a data set holds: the columns of the paper's Table 6, and the labels' size."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

import dcsurgery as dcs
from dcsurgery.zoo.data.structures import StructureSet

__all__ = ["PAPER_TABLE_6", "PaperRow", "Statistics", "formula", "paper_row", "statistics"]


@dataclass(frozen=True)
class PaperRow:
    """A row of Table 6, formula in Hill's order."""

    abbreviation: str
    molecule: str
    formula: str
    atoms: int
    conformations: int


PAPER_TABLE_6 = (
    PaperRow("Asp.", "Aspirin", "C9H8O4", 21, 211762),
    PaperRow("Ben.", "Benzene", "C6H6", 12, 627983),
    PaperRow("Eth.", "Ethanol", "C2H6O", 9, 555092),
    PaperRow("Mal.", "Malonaldehyde", "C3H4O2", 9, 993237),
    PaperRow("Nap.", "Naphthalene", "C10H8", 18, 326250),
    PaperRow("Sal.", "Salicylic acid", "C7H6O3", 16, 320231),
    PaperRow("Tol.", "Toluene", "C7H8", 15, 442790),
    PaperRow("Ura.", "Uracil", "C4H4N2O2", 12, 133770),
)


@dataclass(frozen=True)
class Statistics:
    """Counts and labels of a set.

    Attributes
    ----------
    name
        Of the set; of the molecule, where the paper's Table 6 has its formula.
    abbreviation
        Of the paper, or empty.
    formula
        In Hill's order; empty if structures differ.
    atoms
        Fewest and most atoms of a structure.
    conformations
        Number of structures.
    systems
        Number of systems they are frames of.
    energy_mean, energy_std, energy_min, energy_max
        In ``energy_unit``.
    force_rms, force_max
        Of components; of a component's magnitude. In ``force_unit``.
    rescale
        C of label rescaling, from energies and forces.
    energy_unit, force_unit
        Units.
    fingerprint
        Of the contents.
    """

    name: str
    abbreviation: str
    formula: str
    atoms: tuple[int, int]
    conformations: int
    systems: int
    energy_mean: float
    energy_std: float
    energy_min: float
    energy_max: float
    force_rms: float
    force_max: float
    rescale: float
    energy_unit: str
    force_unit: str
    fingerprint: str


def statistics(data: StructureSet) -> Statistics:
    """Return what a set holds."""
    name, composition = data.name, ""
    counts = np.zeros((len(data), 119), dtype=np.int64)
    np.add.at(counts, (np.repeat(np.arange(len(data)), data.natoms), data.numbers), 1)
    if (counts == counts[0]).all():
        composition = formula(data.numbers[: data.natoms[0]])
    row = paper_row(composition)
    labels: Any = (data.energies, data.forces)
    return Statistics(
        name=row.molecule if row else name,
        abbreviation=row.abbreviation if row else "",
        formula=composition,
        atoms=(int(data.natoms.min()), int(data.natoms.max())),
        conformations=len(data),
        systems=len(np.unique(data.systems)),
        energy_mean=float(data.energies.mean()),
        energy_std=float(data.energies.std()),
        energy_min=float(data.energies.min()),
        energy_max=float(data.energies.max()),
        force_rms=float(np.sqrt((data.forces**2).mean())),
        force_max=float(np.abs(data.forces).max()),
        rescale=dcs.rescale_constant(*labels),
        energy_unit=data.units.energy,
        force_unit=data.units.force,
        fingerprint=data.fingerprint(),
    )


def formula(numbers: Any) -> str:
    """Return the formula of some atomic numbers in Hill's order: carbon, hydrogen, the others by the alphabet."""
    from ase.data import chemical_symbols

    counts = Counter(chemical_symbols[int(z)] for z in numbers)
    first = [symbol for symbol in ("C", "H") if symbol in counts and "C" in counts]
    order = [*first, *sorted(set(counts) - set(first))]
    return "".join(f"{symbol}{counts[symbol] if counts[symbol] > 1 else ''}" for symbol in order)


def paper_row(composition: str) -> PaperRow | None:
    """Return the row of Table 6 with a formula; None if there is none."""
    return next((row for row in PAPER_TABLE_6 if row.formula == composition), None)
