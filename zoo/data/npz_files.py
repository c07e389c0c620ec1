"""npz files of one molecule, in the layouts of MD17, sGDML and rMD17."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.units import KCAL, Units

__all__ = ["read_frames", "stored_units"]

#: Positions, energies, forces, atomic numbers.
LAYOUTS = {"MD17": ("R", "E", "F", "z"), "rMD17": ("coords", "energies", "forces", "nuclear_charges")}
_PERIODIC = ("cell", "pbc", "fixed")  # one of each for all frames, where the generator of slabs wrote them
_SGDML_MODEL = ("Rt_desc", "Rt_d_desc_alpha", "R_desc", "R_d_desc_alpha")
_NEEDED = (
    "needed are R (positions), E (energies), F (forces) and z (atomic numbers), as in MD17,"
    " or coords, energies, forces and nuclear_charges, as in rMD17"
)
_MESSAGE = "give an npz file with R, E, F and z, or with coords, energies, forces and nuclear_charges"


def read_frames(path: Path) -> tuple[dict[str, NDArray[Any]], Units | None]:
    """Read a molecule's frames.

    Parameters
    ----------
    path
        An npz file with the arrays of one of `LAYOUTS`; others are left alone.

    Returns
    -------
    dict, Units or None
        ``R`` (n_frames, n_atoms, 3) float64, ``E`` (n_frames,) float64, ``F`` (n_frames, n_atoms, 3) float64, ``z``
        (n_atoms,) int64, and of slabs ``cell`` (3, 3), ``pbc`` (3,), ``fixed`` (n_atoms,); and the units that the file states; None if it states none.

    Raises
    ------
    BadInput
        If the file is missing or is not an npz file, an array is missing, shapes do not fit together, or a value is
        not finite; the message names the array.
    """
    where = str(path)
    if not path.is_file():
        raise BadInput("is a directory" if path.is_dir() else "no such file", where=where, fix=_MESSAGE)
    try:
        # NumPy leaves a damaged file open that it opened itself.
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise BadInput("a single array, not an npz file", where=where, fix=_MESSAGE)
            names = _layout(file.files, where)
            arrays = {key: file[name] for key, name in zip("REFz", names, strict=True)}
            periodic = {key: file[key] for key in _PERIODIC if key in file.files}
            units = stored_units({key: file[key] for key in ("e_unit", "r_unit", "provenance") if key in file.files})
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"not a readable npz file ({error})", where=where, fix=_MESSAGE) from None
    checked = _checked(arrays, dict(zip("REFz", names, strict=True)), where)
    for key, array in periodic.items():
        if array.shape != (shape := {"cell": (3, 3), "pbc": (3,), "fixed": (len(checked["z"]),)}[key]):
            raise BadInput(f"{key} must have shape {shape}, got {array.shape}", where=where)
    return {**checked, **periodic}, units


def stored_units(extra: dict[str, NDArray[Any]]) -> Units | None:
    """Return the units that a file states: sGDML's ``e_unit`` and ``r_unit``, or our own ``provenance``."""
    if "provenance" in extra:
        stated = json.loads(str(extra["provenance"])).get("units", {})
        return Units(stated.get("E", KCAL.energy), stated.get("R", KCAL.length))
    if "e_unit" in extra:
        return Units(str(extra["e_unit"]), str(extra.get("r_unit", KCAL.length)))
    return None


def _layout(present: list[str], where: str) -> tuple[str, ...]:
    if any(key in present for key in _SGDML_MODEL):
        raise BadInput(
            "an sGDML force field, not a data set", where=where, fix="dcsurgery zoo data sgdml makes data from it"
        )
    names = max(LAYOUTS.values(), key=lambda layout: sum(name in present for name in layout))
    missing = [name for name in names if name not in present]
    if missing:
        raise BadInput(
            f"no array {', '.join(missing)}; present: {', '.join(present) or 'none'}", where=where, fix=_NEEDED
        )
    return names


def _checked(arrays: dict[str, NDArray[Any]], named: dict[str, str], where: str) -> dict[str, NDArray[Any]]:
    for key, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise BadInput(f"{named[key]} must hold real numbers, got {array.dtype}", where=where)
        if not np.isfinite(array).all():
            bad = np.argwhere(~np.isfinite(array))[0].tolist()
            raise BadInput(
                f"{named[key]} is not finite at index {bad}",
                where=where,
                fix="remove the frames whose calculation failed",
            )
    positions, energies, forces, numbers = (arrays[key] for key in "REFz")
    R, E, F, z = (named[key] for key in "REFz")
    if positions.ndim != 3 or positions.shape[-1] != 3:
        raise BadInput(f"{R} must have shape (n_frames, n_atoms, 3), got {positions.shape}", where=where)
    frames, atoms, _ = positions.shape
    if not frames or not atoms:
        raise BadInput(f"{R} holds no positions: shape {positions.shape}", where=where)
    if energies.size != frames or energies.ndim > 2:
        raise BadInput(f"{E} must have shape ({frames},) as {R} has {frames} frames, got {energies.shape}", where=where)
    if forces.shape != positions.shape:
        raise BadInput(f"{F} must have the shape of {R}, {positions.shape}, got {forces.shape}", where=where)
    if numbers.shape != (atoms,):
        raise BadInput(f"{z} must have shape ({atoms},) as {R} has {atoms} atoms, got {numbers.shape}", where=where)
    if (numbers != np.round(numbers)).any() or (numbers < 1).any():
        raise BadInput(f"{z} must hold atomic numbers, whole and at least 1", where=where)
    return {
        "R": positions.astype(np.float64),
        "E": energies.reshape(frames).astype(np.float64),
        "F": forces.astype(np.float64),
        "z": numbers.astype(np.int64),
    }
