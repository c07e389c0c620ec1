"""Where molecular dynamics begins: molecules by name, and slabs with an adsorbate such as ``Cu111+CO`` or ``MgO100``."""

from __future__ import annotations

import difflib
import json
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dcsurgery.errors import BadInput

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["MD17_MOLECULES", "starting_structure"]

#: Names that people use, for the names under which ASE keeps the G2 geometries.
G2_NAMES = {"ethanol": "CH3CH2OH", "benzene": "C6H6", "water": "H2O", "methane": "CH4", "methanol": "CH3OH"}
#: The paper's Table 6.
MD17_MOLECULES = (
    *("aspirin", "benzene", "ethanol", "malonaldehyde", "naphthalene", "salicylic acid", "toluene", "uracil"),
)
_FCC = ("Al", "Cu", "Ag", "Au", "Ni", "Pd", "Pt")
#: Rock salt oxides and their lattice constants in Å.
_OXIDES = {"MgO": 4.21, "CaO": 4.81, "NiO": 4.18}
_ADSORBATES = ("H", "C", "N", "O", "CO", "OH", "H2O")
_VACUUM = 10.0
_HEIGHT = 1.8


def starting_structure(name: str, size: tuple[int, int, int] = (2, 2, 3)) -> Atoms:
    """Return the structure from which dynamics start.

    Parameters
    ----------
    name
        One of MD17's molecules; a molecule of ASE's G2 set; or a slab, ``METAL FACET [+ADSORBATE]``, written together:
        ``Cu111``, ``Pt111+CO``, ``Al100+O``, ``MgO100+CO``.
    size
        Of a slab: repeats along the surface, and layers. Its lower half is held fixed.

    Raises
    ------
    BadInput
        If ASE is missing or the name is unknown.
    """
    try:
        from ase.build import molecule
        from ase.collections import g2
    except ImportError:
        raise BadInput("ASE is not installed", fix='pip install "dcsurgery[zoo]"') from None
    slab = re.fullmatch(r"([A-Z][A-Za-z]*?)(111|100|110)(?:\+(\w+))?", name)
    if slab:
        return _slab(slab[1], slab[2], slab[3], size, name)
    plain = name.lower().replace("_", " ").replace("-", " ")
    packaged = json.loads((files("dcsurgery.zoo") / "data" / "geometries.json").read_text("utf-8"))["molecules"]
    if plain in packaged:
        from ase import Atoms

        return Atoms(packaged[plain]["numbers"], packaged[plain]["positions"])
    known = G2_NAMES.get(plain, name)
    if known not in g2.names:
        names = [*G2_NAMES, *packaged, *g2.names]
        near = difflib.get_close_matches(name, names, n=3) or sorted({*G2_NAMES, *packaged})
        raise BadInput(f"unknown molecule {name!r}", fix=f"did you mean {', '.join(near)}? Slabs are written Cu111+CO")
    return molecule(known)


def _slab(bulk: str, facet: str, adsorbate: str | None, size: tuple[int, int, int], name: str) -> Atoms:
    from ase import build
    from ase.constraints import FixAtoms

    if len(size) != 3 or min(size) < 1:
        raise BadInput(
            f"a slab's size must be three numbers of at least 1, got {size}", where=name, fix="such as 2x2x3"
        )
    if bulk in _FCC:
        atoms: Any = getattr(build, f"fcc{facet}")(bulk, size, vacuum=_VACUUM)
        site: Any = "ontop"
    elif bulk in _OXIDES and facet == "100":
        layer = build.surface(build.bulk(bulk, "rocksalt", a=_OXIDES[bulk], cubic=True), (1, 0, 0), 1)
        repeats = (size[0], size[1], max(1, size[2] // 2))
        atoms = layer.repeat(repeats)
        atoms.center(vacuum=_VACUUM, axis=2)
        top = max((atom for atom in atoms if atom.symbol != "O"), key=lambda atom: atom.z)
        site = (top.x, top.y)
    else:
        raise BadInput(
            f"no slab of {bulk}{facet}",
            where=name,
            fix=f"there are {', '.join(_FCC)} with 111, 100, 110, and {', '.join(_OXIDES)} with 100",
        )
    atoms.pbc = True
    heights = atoms.positions[:, 2]
    atoms.set_constraint(FixAtoms(mask=heights < (heights.min() + heights.max()) / 2 - 0.1))
    if adsorbate is not None:
        if adsorbate not in _ADSORBATES:
            raise BadInput(f"unknown adsorbate {adsorbate!r}", where=name, fix=f"there are {', '.join(_ADSORBATES)}")
        build.add_adsorbate(atoms, _adsorbate(adsorbate), _HEIGHT, site)
    return atoms


def _adsorbate(name: str) -> Any:
    from ase import Atoms
    from ase.build import molecule

    if name in ("H", "C", "N", "O"):
        return name
    if name == "CO":
        return Atoms("CO", [(0, 0, 0), (0, 0, 1.15)])  # carbon down
    if name == "OH":
        return Atoms("OH", [(0, 0, 0), (0.7, 0, 0.68)])
    water = molecule("H2O")
    water.rotate(180, "x")  # hydrogens up
    return water
