"""``norm(x) → x``: delete normalization layers."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from dcsurgery.census import Census
from dcsurgery.errors import Refused
from dcsurgery.passes.base import Pass, PassPlan
from dcsurgery.plans import Edit
from dcsurgery.surgeon import Surgeon

__all__ = ["Denormalize"]


class Denormalize(Pass):
    """Delete normalizations (the paper's Sec. 4.2).

    What a fused layer does besides, for instance the activation of a ``BatchNormAct2d``, stays. The norm's tensors
    leave the state_dict; checkpoints that still have them load.
    """

    action: ClassVar[str] = "delete"
    preserves: ClassVar[frozenset[str]] = frozenset({"keys"})
    leaves: ClassVar[Literal["new", "input", "operator"]] = "input"

    def plan(self, model: nn.Module, census: Census) -> PassPlan:
        """Plan one deletion per selected normalization."""
        del model
        edits, notes, unedited = [], [], []
        # A norm returns a new tensor; where somebody writes into that, the norm's input must not be written into.
        for candidate in self.candidates(census, "normalization"):
            site = candidate.site
            if site.editable:
                unknown = site.runs is None and site.how != "node"  # a graph shows who writes where
                settings = {"copy": True} if site.overwritten or unknown else {}
                edits.append(Edit(site.name, self.action, site.operator, site.place, settings=settings))
            else:
                notes.append(f"{site.name}: {site.operator} left as it is: {site.reason}")
                unedited.append(site.name)
        if not census.inputs_given and any(edit.settings.get("copy") for edit in edits):
            notes.append("no example inputs: deleted norms copy their input, which may be overwritten later")
        return PassPlan(tuple(edits), tuple(notes), tuple(unedited))

    @classmethod
    def realise(cls, surgeon: Surgeon, edit: Edit) -> None:
        """Let the norm's input through."""
        if edit.place is None:
            raise Refused("the edit names no place", where=edit.site, fix="plan again")
        surgeon.delete(edit.place, edit.operator, copied=bool(edit.settings.get("copy")))
