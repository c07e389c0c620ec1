"""An ASE calculator of any potential: energies in eV, forces in eV/Å, stress in eV/Å³ where the structure is periodic."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor, nn

from dcsurgery.errors import BadInput
from dcsurgery.zoo.data.units import Units, energy_factor
from dcsurgery.zoo.potentials import energy, energy_and_forces
from dcsurgery.zoo.runs import RunRecord
from dcsurgery.zoo.training.scale import default_dtype, dtype_of

__all__ = ["PotentialCalculator"]


class PotentialCalculator(Calculator):
    """Energies, forces and stress of a trained model, for molecular dynamics, relaxations and whatever else ASE does.

    A model whose labels were rescaled is asked for physical energies. Forces are -dE/dx; the stress is the derivative
    with respect to a strain of positions and cell, divided by the volume.

    Parameters
    ----------
    model
        Any potential that `dcsurgery.zoo.potentials` can call, for positions in Å.
    units
        Energy unit of the labels that it was trained on, for instance ``kcal/mol``.
    reference
        Energy that was taken off the labels in training, in that unit.
    consistent
        The true gradient also for models that leave a part of it out (`dcsurgery.zoo.potentials.energy_and_forces`).
    device
        Where it is computed.

    Raises
    ------
    BadInput
        If the units are unknown.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]

    def __init__(
        self,
        model: nn.Module,
        *,
        units: str = "eV",
        reference: float = 0.0,
        consistent: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        self.model = model.to(device).eval()
        self.factor = energy_factor(Units.of(units), Units.of("eV"))
        self.reference = reference
        self.consistent = consistent
        self.device = torch.device(device)

    @classmethod
    def of_run(cls, folder: str | os.PathLike[str], device: str = "cpu") -> PotentialCalculator:
        """Return the calculator of a training's last weights, with its units and reference energy.

        Raises
        ------
        BadInput
            If the run has not ended well, or its checkpoint is missing or damaged.
        """
        from dcsurgery.zoo.training.jobs import restore

        record = RunRecord.load(folder)
        if record.status != "finished":
            raise BadInput(f"the run is {record.status}", where=str(Path(folder)), fix="use a run that finished")
        model, record = restore(folder)
        return cls(model, units=record.data["units"]["energy"], reference=record.metrics["reference"], device=device)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute the properties of a structure; ASE calls this.

        Raises
        ------
        PropertyNotImplementedError
            If the stress of a structure that is not periodic in all directions is asked for, or of a model that does
            not use the cell.
        """
        super().calculate(atoms, properties, system_changes)
        batch = self._batch()
        with default_dtype(dtype_of(self.model)):
            energies, forces = energy_and_forces(self.model, batch, consistent=self.consistent)
            if "stress" in properties:
                self.results["stress"] = self._stress(batch)
        self.results["energy"] = (float(energies.detach().double()) + self.reference) * self.factor
        self.results["free_energy"] = self.results["energy"]
        self.results["forces"] = forces.detach().double().cpu().numpy() * self.factor

    def _batch(self) -> Any:
        from torch_geometric.data import Batch

        atoms, dtype = self.atoms, dtype_of(self.model)
        assert atoms is not None
        n = len(atoms)
        tensors = {
            "pos": torch.as_tensor(atoms.positions, dtype=dtype),
            "atomic_numbers": torch.as_tensor(atoms.numbers, dtype=torch.int64),
            "natoms": torch.tensor([n]),
            "batch": torch.zeros(n, dtype=torch.int64),
            "ptr": torch.tensor([0, n]),
            "cell": torch.as_tensor(np.asarray(atoms.cell), dtype=dtype)[None],
            "pbc": torch.as_tensor(atoms.pbc)[None],
        }
        batch: Any = Batch(**{key: tensor.to(self.device) for key, tensor in tensors.items()})
        batch._num_graphs = 1
        return batch

    def _stress(self, batch: Any) -> Any:
        """Return the stress (6,) in Voigt order, in eV/Å³."""
        assert self.atoms is not None
        if not self.atoms.pbc.all():
            raise PropertyNotImplementedError("the stress of a structure that is not periodic in all directions")
        strain = torch.zeros(3, 3, dtype=batch.pos.dtype, device=self.device, requires_grad=True)
        symmetric = 0.5 * (strain + strain.T)
        strained = batch.clone()
        strained.pos = batch.pos + batch.pos @ symmetric
        strained.cell = batch.cell + batch.cell @ symmetric
        with torch.enable_grad():
            value = energy(self.model, strained).sum()
            derivative = _gradient(value, strain)
        stress = derivative.double().cpu().numpy() * self.factor / self.atoms.get_volume()
        return full_3x3_to_voigt_6_stress(stress)


def _gradient(value: Tensor, strain: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(value, strain, allow_unused=True)
    if gradient is None:
        raise PropertyNotImplementedError("the stress of a model whose energy does not depend on the cell")
    return gradient
