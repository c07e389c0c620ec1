"""A labelled set of atomic structures of any mix of sizes, elements and cells."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.units import Units, energy_factor, length_factor

if TYPE_CHECKING:
    from torch_geometric.data import Batch

    from dcsurgery.zoo.data.statistics import Statistics

__all__ = ["StructureSet"]

_PER_ATOM = ("numbers", "positions", "forces", "fixed")
_PER_STRUCTURE = ("natoms", "energies", "cells", "pbc", "systems")


@dataclass(frozen=True, eq=False)
class StructureSet:
    """Structures with energies and forces, the atoms of all of them one after the other.

    Attributes
    ----------
    numbers
        Atomic numbers, shape (n_atoms,), int64.
    positions
        Shape (n_atoms, 3), float64, in ``units.length``.
    natoms
        Atoms of each structure, shape (n_structures,), int64.
    energies
        Shape (n_structures,), float64, in ``units.energy``.
    forces
        -dE/dR, shape (n_atoms, 3), float64, in ``units.force``.
    units
        Of positions, cells, energies and forces.
    cells
        Rows are lattice vectors, shape (n_structures, 3, 3), float64; zeros for molecules, which is the default.
    pbc
        Whether each lattice vector repeats, shape (n_structures, 3), bool; False by default.
    fixed
        Atoms that their calculation held in place, shape (n_atoms,), bool; none by default.
    systems
        Number of the system that a structure is a frame of (one for each file of a folder), shape (n_structures,),
        int64; 0 by default.
    name
        What the set is called in tables and records.

    Raises
    ------
    BadInput
        If there is no structure, shapes do not fit together, a value is not finite or an atomic number is impossible.
    """

    numbers: NDArray[Any]
    positions: NDArray[Any]
    natoms: NDArray[Any]
    energies: NDArray[Any]
    forces: NDArray[Any]
    units: Units
    cells: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    pbc: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    fixed: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    systems: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    name: str = "data"

    def __post_init__(self) -> None:
        n, atoms = np.asarray(self.natoms).size, np.asarray(self.numbers).size
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "numbers": ((atoms,), np.int64),
            "positions": ((atoms, 3), np.float64),
            "natoms": ((n,), np.int64),
            "energies": ((n,), np.float64),
            "forces": ((atoms, 3), np.float64),
            "cells": ((n, 3, 3), np.float64),
            "pbc": ((n, 3), np.bool_),
            "fixed": ((atoms,), np.bool_),
            "systems": ((n,), np.int64),
        }
        for key, (shape, dtype) in shapes.items():
            array = np.asarray(getattr(self, key))
            if key in ("cells", "pbc", "fixed", "systems") and array.size == 0:
                array = np.zeros(shape, dtype)
            if array.shape != shape:
                raise BadInput(f"{key} must have shape {shape}, got {array.shape}", where=self.name)
            object.__setattr__(self, key, array.astype(dtype, copy=False))
        if not n or not atoms:
            raise BadInput("no structures in it", where=self.name, fix="give data with at least one structure")
        if (self.natoms < 1).any() or self.natoms.sum() != atoms:
            raise BadInput(f"natoms {self.natoms.sum()} in all, but there are {atoms} atoms", where=self.name)
        if (self.numbers < 1).any() or (self.numbers > 118).any():
            raise BadInput("atomic numbers must lie between 1 and 118", where=self.name)
        for key in ("positions", "energies", "forces", "cells"):
            self._finite(key)

    def _finite(self, key: str) -> None:
        array = getattr(self, key)
        if np.isfinite(array).all():
            return
        first = int(np.argwhere(~np.isfinite(array))[0][0])
        if key in _PER_ATOM:
            first = int(np.searchsorted(self.offsets, first, side="right") - 1)
        raise BadInput(
            f"{key} of structure {first} are not finite",
            where=self.name,
            fix="remove the structures whose calculation failed",
        )

    @classmethod
    def of_molecule(
        cls,
        numbers: ArrayLike,
        positions: ArrayLike,
        energies: ArrayLike,
        forces: ArrayLike,
        units: Units | str,
        **more: Any,
    ) -> StructureSet:
        """Return the set of the frames of one molecule.

        Parameters
        ----------
        numbers
            Shape (n_atoms_of_one,).
        positions, forces
            Shape (n_frames, n_atoms_of_one, 3).
        energies
            Shape (n_frames,).
        units
            Of all of them.
        **more
            Other attributes, such as ``name``.
        """
        coordinates, numbers = np.asarray(positions), np.asarray(numbers)
        frames = len(coordinates)
        return cls(
            np.tile(numbers, frames),
            coordinates.reshape(-1, 3),
            np.full(frames, numbers.size),
            np.asarray(energies).reshape(-1),
            np.asarray(forces).reshape(-1, 3),
            Units.of(units),
            **more,
        )

    def __len__(self) -> int:
        return len(self.natoms)

    def __repr__(self) -> str:
        atoms = sorted({*self.natoms.tolist()})
        size = f"{atoms[0]}" if len(atoms) == 1 else f"{atoms[0]}-{atoms[-1]}"
        return f"StructureSet({self.name!r}, {len(self)} structures of {size} atoms, {self.units})"

    @cached_property
    def offsets(self) -> NDArray[Any]:
        """Where the atoms of each structure begin, and where the last one's end; shape (n_structures + 1,)."""
        return np.concatenate([[0], np.cumsum(self.natoms)])

    def atoms_of(self, indices: ArrayLike) -> NDArray[Any]:
        """Return the rows of the per-atom arrays that belong to some structures, in their order."""
        chosen = self._indices(indices)
        counts = self.natoms[chosen]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(self.offsets[chosen], counts) + within

    def subset(self, indices: ArrayLike | slice) -> StructureSet:
        """Return the set of some structures, in the order of ``indices`` (a slice, or integers, negative ones from the end).

        Raises
        ------
        BadInput
            If an index is out of range, or there is none.
        """
        chosen = np.arange(len(self))[indices] if isinstance(indices, slice) else self._indices(indices)
        rows = self.atoms_of(chosen)
        taken = {key: getattr(self, key)[rows] for key in _PER_ATOM}
        return replace(self, **taken, **{key: getattr(self, key)[chosen] for key in _PER_STRUCTURE})

    def _indices(self, indices: ArrayLike) -> NDArray[Any]:
        chosen = np.atleast_1d(np.asarray(indices))
        if chosen.dtype == np.bool_:
            chosen = np.flatnonzero(chosen)
        if chosen.size and chosen.dtype.kind not in "iu":
            raise BadInput(f"indices must be whole numbers, got {chosen.dtype}", where=self.name)
        if chosen.size and (chosen.max() >= len(self) or chosen.min() < -len(self)):
            raise BadInput(f"no structure {max(chosen.max(), -chosen.min())}: there are {len(self)}", where=self.name)
        return chosen.astype(np.int64) % len(self)

    def batch(
        self, indices: ArrayLike, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> Batch:
        """Return some structures as one PyG batch.

        Parameters
        ----------
        indices
            Which, in this order.
        dtype
            Of ``pos`` and ``cell``; the labels are float64 always.
        device
            Where the tensors go.

        Returns
        -------
        torch_geometric.data.Batch
            ``pos`` (n_atoms, 3), ``atomic_numbers`` (n_atoms,), ``natoms`` (n_structures,), ``batch`` (n_atoms,), ``ptr``,
            ``cell`` (n_structures, 3, 3), ``pbc`` (n_structures, 3), ``energy`` (n_structures,), ``forces``
            (n_atoms, 3), ``fixed`` (n_atoms,); in the set's units.
        """
        from torch_geometric.data import Batch

        chosen = self._indices(indices)
        rows = self.atoms_of(chosen)
        natoms = self.natoms[chosen]
        arrays = {
            "pos": torch.from_numpy(self.positions[rows]).to(dtype),
            "atomic_numbers": torch.from_numpy(self.numbers[rows]),
            "natoms": torch.from_numpy(natoms),
            "cell": torch.from_numpy(self.cells[chosen]).to(dtype),
            "pbc": torch.from_numpy(self.pbc[chosen]),
            "energy": torch.from_numpy(self.energies[chosen]),
            "forces": torch.from_numpy(self.forces[rows]),
            "fixed": torch.from_numpy(self.fixed[rows]),
        }
        n = len(chosen)
        tensors = {key: tensor.to(device) for key, tensor in arrays.items()}
        ends = torch.from_numpy(np.concatenate([[0], np.cumsum(natoms)]))
        batch: Any = Batch(
            **tensors, batch=torch.repeat_interleave(torch.arange(n), arrays["natoms"]).to(device), ptr=ends.to(device)
        )
        # What lets PyG take it apart again into single structures.
        batch._num_graphs = n
        one = torch.arange(n + 1)
        batch._slice_dict = {key: ends if len(arrays[key]) == len(rows) and len(rows) != n else one for key in tensors}
        for key in ("pos", "atomic_numbers", "forces", "fixed"):
            batch._slice_dict[key] = ends
        batch._inc_dict = {key: torch.zeros(n, dtype=torch.int64) for key in tensors}
        return batch

    def to(self, units: Units | str) -> StructureSet:
        """Return the set in other units; itself if they are its own."""
        units = Units.of(units)
        if units == self.units:
            return self
        energy, length = energy_factor(self.units, units), length_factor(self.units, units)
        return replace(
            self,
            units=units,
            positions=self.positions * length,
            cells=self.cells * length,
            energies=self.energies * energy,
            forces=self.forces * (energy / length),
        )

    def statistics(self) -> Statistics:
        """Return counts and sizes of labels: the columns of the paper's Table 6, and more."""
        from dcsurgery.zoo.data.statistics import statistics

        return statistics(self)

    def fingerprint(self) -> str:
        """Return a hash of contents and units, 16 hexadecimal digits; the name does not enter."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(str(self.units).encode())
        for key in ("natoms", "numbers", "positions", "energies", "forces", "cells", "pbc", "fixed"):
            digest.update(np.ascontiguousarray(getattr(self, key)).tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def joined(cls, sets: Sequence[StructureSet], name: str | None = None) -> StructureSet:
        """Return the structures of several sets, each set a system of its own, in the units of the first.

        Raises
        ------
        BadInput
            If there is no set.
        """
        if not sets:
            raise BadInput("no sets to join", where=name, fix="give at least one")
        same = [one.to(sets[0].units) for one in sets]
        counts = [int(one.systems.max()) + 1 for one in same]
        starts = np.cumsum([0, *counts[:-1]])
        arrays = {
            key: np.concatenate([getattr(one, key) for one in same]) for key in (*_PER_ATOM, *_PER_STRUCTURE[:-1])
        }
        systems = np.concatenate([one.systems + start for one, start in zip(same, starts, strict=True)])
        return cls(**arrays, systems=systems, units=sets[0].units, name=name or sets[0].name)
