"""``model(x) → C · model(x)``: let the model learn labels / C and still return physical units."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import fx, nn

from dcsurgery.census import Census
from dcsurgery.errors import Refused
from dcsurgery.labels import check_scale
from dcsurgery.passes.base import Pass, PassPlan
from dcsurgery.plans import Edit
from dcsurgery.rescale import rescale_graph, rescale_labels
from dcsurgery.surgeon import Surgeon

__all__ = ["RescaleLabels"]


class RescaleLabels(Pass):
    """Rescale labels by one constant (the paper's Sec. 4.3, Eq. 4 and 5).

    Parameters
    ----------
    C
        Label scale in units of the labels, see `rescale_constant`; energies and forces share it.
    outputs
        Which outputs are labels, see `rescale_labels`.
    """

    action: ClassVar[str] = "rescale"
    preserves: ClassVar[frozenset[str]] = frozenset({"keys"})

    def __init__(self, C: float, outputs: Any = None) -> None:
        super().__init__()
        self.C = check_scale(C)
        self.outputs = outputs

    def plan(self, model: nn.Module, census: Census) -> PassPlan:
        """Plan the one edit; refuses a model that is rescaled already."""
        del census
        if "label_scale" in model.state_dict():
            raise Refused(
                "its outputs are rescaled already (it has a label_scale)",
                where=type(model).__name__,
                fix="leave the rescale out, or start from the model before it",
            )
        settings: dict[str, Any] = {"C": self.C}
        if self.outputs is not None:
            settings["outputs"] = list(self.outputs) if isinstance(self.outputs, tuple | list) else self.outputs
        return PassPlan((Edit("", self.action, settings=settings),))

    @classmethod
    def realise(cls, surgeon: Surgeon, edit: Edit) -> None:
        """Multiply the model's labels by C."""
        if "C" not in edit.settings:
            raise Refused("the rescale has no C", where="settings", fix="write settings: {C: …}, or plan again")
        surgeon.finish()  # amendments of the root come before the rescale, which wraps its forward
        model, C, outputs = surgeon.model, edit.settings["C"], edit.settings.get("outputs")
        if isinstance(model, fx.GraphModule):
            surgeon.remember(rescale_graph(model, C, outputs))
        else:
            surgeon.remember(rescale_labels(model, C, outputs))
