"""Errors of energies and forces on a set of structures, summed in float64: MAE of both, and EFwT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.structures import StructureSet
from dcsurgery.zoo.data.units import Units, energy_factor
from dcsurgery.zoo.potentials import energy_and_forces
from dcsurgery.zoo.training.scale import default_dtype, dtype_of, label_scale

__all__ = ["EFWT_ENERGY", "EFWT_FORCE", "Errors", "evaluate"]

#: Open Catalyst's thresholds: eV, and eV/Å for the worst force component of a structure.
EFWT_ENERGY, EFWT_FORCE = 0.02, 0.03


@dataclass(frozen=True)
class Errors:
    """Errors on a set of structures.

    Attributes
    ----------
    energy
        Mean absolute error, in the labels' energy unit.
    force
        Mean absolute error over force components, in the labels' force unit.
    efwt
        Share of structures whose energy is right to 0.02 eV and every force component to 0.03 eV/Å ("energy and forces
        within threshold" of the Open Catalyst Project).
    structures
        How many structures were measured.
    units
        Of energy and force.
    """

    energy: float
    force: float
    efwt: float
    structures: int
    units: Units

    def __str__(self) -> str:
        return f"energy {self.energy:.4g} {self.units.energy}, force {self.force:.4g} {self.units.force}"

    def to_dict(self, prefix: str = "") -> dict[str, float]:
        """Return the figures by name: ``energy_mae``, ``force_mae``, ``efwt``."""
        return {f"{prefix}energy_mae": self.energy, f"{prefix}force_mae": self.force, f"{prefix}efwt": self.efwt}


def evaluate(
    model: nn.Module,
    data: StructureSet,
    *,
    C: float | None = None,
    reference: float = 0.0,
    batch_size: int = 50,
    device: str | torch.device = "cpu",
    progress: Any = None,
) -> Errors:
    """Measure errors of energies and forces, in eval mode, summed in float64.

    Parameters
    ----------
    model
        Any model that `dcsurgery.zoo.potentials.energy_and_forces` can call.
    data
        Labelled structures.
    C
        Label scale: the model's raw output times C is the energy. By default that of a model whose labels were rescaled,
        otherwise 1.
    reference
        Energy that is added to the model's, in the labels' unit.
    batch_size
        Structures per call.
    device
        Where the model is.
    progress
        Called with the number of structures done after every call.

    Raises
    ------
    BadInput
        If there are no structures or the model's output has a wrong shape.
    """
    data = structures_of(data)
    if not len(data):
        raise BadInput("no structures to measure errors on")
    scale = label_scale(model, C)
    dtype = dtype_of(model)
    to_ev = energy_factor(data.units, Units.of("eV"))
    energy_sum = torch.zeros((), dtype=torch.float64)
    force_sum, within = torch.zeros((), dtype=torch.float64), 0
    mode = model.training
    model.eval()
    try:
        for start in range(0, len(data), batch_size):
            indices = range(start, min(start + batch_size, len(data)))
            batch = data.batch(list(indices), dtype=dtype, device=device)
            with default_dtype(dtype):
                energy, force = energy_and_forces(model, batch, scaled=True)
            energy_error = (energy.detach().double() * scale + reference - batch.energy).abs().cpu()
            force_error = (force.detach().double() * scale - batch.forces).abs().cpu()
            energy_sum += energy_error.sum()
            force_sum += force_error.sum()
            worst = _worst(force_error, batch.batch.cpu(), len(indices))
            within += int(((energy_error * to_ev <= EFWT_ENERGY) & (worst * to_ev <= EFWT_FORCE)).sum())
            if progress is not None:
                progress(len(indices))
    finally:
        model.train(mode)
    n, components = len(data), data.forces.size
    return Errors(float(energy_sum) / n, float(force_sum) / components, within / n, n, data.units)


def structures_of(data: Any) -> StructureSet:
    """Return a data set as structures; older callers have the frames of one molecule."""
    if isinstance(data, StructureSet):
        return data
    if not len(data.energies):
        raise BadInput("no structures to measure errors on")
    units = Units.of(data.units[1])
    return StructureSet.of_molecule(data.numbers, data.positions, data.energies, data.forces, units)


def _worst(force_error: Tensor, index: Tensor, structures: int) -> Tensor:
    """Return the largest component (n_structures,) of errors (n_atoms, 3)."""
    per_atom = force_error.amax(dim=1)
    return per_atom.new_zeros(structures).scatter_reduce(0, index, per_atom, "amax")
