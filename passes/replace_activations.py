"""``act(x) → IReLU(x)``: replace activations by the integral of ReLU, or by another activation."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from dcsurgery.activations import activation_by_name, name_of
from dcsurgery.census import Census
from dcsurgery.errors import BadInput, Refused
from dcsurgery.passes.base import Pass, PassPlan
from dcsurgery.plans import Edit
from dcsurgery.surgeon import Surgeon

__all__ = ["ReplaceActivations"]


class ReplaceActivations(Pass):
    """Replace activations (the paper's Sec. 4.1, Eq. 3).

    A recognised compound (shifted softplus, scaled SiLU, ``x * sigmoid(x)`` in a function) is replaced whole. Gates
    and bases are left alone unless ``gates`` is set.

    Parameters
    ----------
    activation
        A name (see `ACTIVATION_NAMES`) or a module; each site gets a copy of its own.
    where, exclude
        Selectors, see `Pass`.
    gates
        Also replace sigmoid, hard-sigmoid and GLU gates.
    """

    action: ClassVar[str] = "replace"
    preserves: ClassVar[frozenset[str]] = frozenset({"keys"})

    def __init__(
        self, activation: str | nn.Module = "irelu", where: Any = None, exclude: Any = None, *, gates: bool = False
    ) -> None:
        super().__init__(where, exclude)
        if isinstance(activation, str):
            activation_by_name(activation)  # an unknown name is an error now, not while editing
        elif not isinstance(activation, nn.Module):
            raise BadInput(f"not an activation: {activation!r}", fix="give a name or a torch.nn.Module")
        self.activation = activation
        self.gates = gates

    @property
    def name(self) -> str:
        """The activation's name as plans write it."""
        return self.activation if isinstance(self.activation, str) else name_of(self.activation)

    def plan(self, model: nn.Module, census: Census) -> PassPlan:
        """Plan one edit per selected activation; a user's module travels in the edit itself."""
        del model
        edits, notes, unedited = [], [], []
        settings = {} if isinstance(self.activation, str) or self._has_name() else {"module": self.activation}
        found = list(self.candidates(census, "activation"))
        if self.gates:
            found += list(self.candidates(census, "gate"))
        for candidate in found:
            site = candidate.site
            if not site.editable:
                notes.append(f"{site.name}: {site.operator} left as it is: {site.reason}")
                unedited.append(site.name)
                continue
            edits.append(Edit(site.name, self.action, site.operator, site.place, self.name, settings))
        return PassPlan(tuple(edits), tuple(notes), tuple(unedited))

    def _has_name(self) -> bool:
        try:
            activation_by_name(self.name)
        except BadInput:
            return False
        return True

    @classmethod
    def realise(cls, surgeon: Surgeon, edit: Edit) -> None:
        """Put the replacement where the edit says."""
        if edit.place is None or edit.replacement is None:
            raise Refused("the edit names no place or no activation", where=edit.site, fix="plan again")
        surgeon.replace(edit.place, edit.operator, edit.settings.get("module", edit.replacement))
