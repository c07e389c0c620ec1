"""The loss of Eq. 2 and 5: alpha |E/C - f(x)|^p + beta |F/C + df/dx|^p with p = 2, or 1 as in the published programs.

Source: Lo & Huang, arXiv:2310.01649. Forces are F = -dE/dx. Energy and force terms are means over structures and over
force components, so that alpha and beta do not depend on the size of batch and molecule.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dcsurgery.zoo.potentials import energy_and_forces
from dcsurgery.zoo.training.settings import Settings

__all__ = ["DerivativeLoss"]


class DerivativeLoss(nn.Module):
    """Energy and force terms of a batch; one module, so that several processes synchronize one forward pass.

    Parameters
    ----------
    model
        The potential.
    settings
        Weights and kind of the loss.
    scale, reference
        Label scale C, and the energy that is subtracted from the labels, in their unit.
    """

    def __init__(self, model: nn.Module, settings: Settings, scale: float, reference: float) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.scale = scale
        self.reference = reference

    def forward(self, batch: Any, structures: int, components: int) -> tuple[Tensor, Tensor]:
        """Return the weighted energy and force term, scalars.

        Parameters
        ----------
        batch
            Labelled structures.
        structures, components
            What the sums are divided by: numbers of structures and of force components in the whole batch, of which
            this process may have a part.
        """
        energy, forces = energy_and_forces(self.model, batch, create_graph=True, scaled=True)
        # Divided in float64: float32 spacing at the raw energies is of the size of their errors.
        energy_label = ((batch.energy - self.reference) / self.scale).to(energy.dtype)
        force_label = (batch.forces / self.scale).to(forces.dtype)
        energy_term = self._distance(energy - energy_label) / structures
        force_term = self._distance(forces - force_label) / components
        return self.settings.alpha * energy_term, self.settings.beta * force_term

    def _distance(self, difference: Tensor) -> Tensor:
        return difference.abs().sum() if self.settings.loss == "absolute" else difference.square().sum()
