"""Units of energy and length, and what one is in another."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dcsurgery.errors import BadInput

__all__ = ["KCAL", "Units", "energy_factor", "length_factor"]

#: CODATA 2018: one of each in eV.
_ELECTRONVOLTS = {
    "eV": 1.0,
    "meV": 1e-3,
    "kcal/mol": 4184.0 / 96485.33212331001,
    "kJ/mol": 1000.0 / 96485.33212331001,
    "hartree": 27.211386245988,
    "rydberg": 13.605693122994,
}
_ANGSTROMS = {"Angstrom": 1.0, "bohr": 0.529177210903, "nm": 10.0}
_SPELLINGS = {
    "ev": "eV",
    "electronvolt": "eV",
    "kcal/mol": "kcal/mol",
    "kcal mol-1": "kcal/mol",
    "kcal": "kcal/mol",
    "kj/mol": "kJ/mol",
    "kj mol-1": "kJ/mol",
    "kj": "kJ/mol",
    "hartree": "hartree",
    "ha": "hartree",
    "eh": "hartree",
    "rydberg": "rydberg",
    "ry": "rydberg",
    "angstrom": "Angstrom",
    "ang": "Angstrom",
    "a": "Angstrom",
    "å": "Angstrom",
    "bohr": "bohr",
    "a0": "bohr",
    "nm": "nm",
}

_EXAMPLES = 'write "kcal/mol", "eV", "meV" or "hartree, bohr"'


def _known(name: str, table: dict[str, float], kind: str) -> str:
    # "meV" and "MeV" differ by nine powers of ten: only spellings without that risk are folded.
    found = name if name in table else _SPELLINGS.get(name.lower(), "")
    if found not in table or (name.lower() == "mev" and name != "meV"):
        raise BadInput(f"unknown unit of {kind} {name!r}", fix=f"known are {', '.join(table)}")
    return found


@dataclass(frozen=True)
class Units:
    """The units of a data set; a force has ``energy/length``.

    Attributes
    ----------
    energy
        ``eV``, ``meV``, ``kcal/mol``, ``kJ/mol``, ``hartree`` or ``rydberg``.
    length
        ``Angstrom``, ``bohr`` or ``nm``.

    Raises
    ------
    BadInput
        If one is not known.
    """

    energy: str = "eV"
    length: str = "Angstrom"

    def __post_init__(self) -> None:
        object.__setattr__(self, "energy", _known(self.energy, _ELECTRONVOLTS, "energy"))
        object.__setattr__(self, "length", _known(self.length, _ANGSTROMS, "length"))

    @property
    def force(self) -> str:
        """Unit of forces."""
        return f"{self.energy}/{self.length}"

    def __str__(self) -> str:
        return f"{self.energy}, {self.length}"

    @classmethod
    def of(cls, units: Units | str) -> Units:
        """Return the units that ``"kcal/mol"``, ``"hartree, bohr"`` or ``"eV, Angstrom"`` names; Å if none is named.

        Raises
        ------
        BadInput
            If a name is not known.
        """
        if isinstance(units, Units):
            return units
        if not isinstance(units, str):
            raise BadInput(f"units must be text, got {type(units).__name__}", fix=_EXAMPLES)
        parts = [part.strip() for part in re.split(r"[,;]", units)]
        if len(parts) > 2 or not parts[0]:
            raise BadInput(f"cannot read units {units!r}", fix=_EXAMPLES)
        return cls(*parts)


KCAL = Units("kcal/mol")


def energy_factor(old: Units, new: Units) -> float:
    """Return what an energy in ``old`` is multiplied by to be in ``new``."""
    return _ELECTRONVOLTS[old.energy] / _ELECTRONVOLTS[new.energy]


def length_factor(old: Units, new: Units) -> float:
    """Return what a length in ``old`` is multiplied by to be in ``new``."""
    return _ANGSTROMS[old.length] / _ANGSTROMS[new.length]
