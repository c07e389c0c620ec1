"""``bn(linear(x)) → linear'(x)``: fold a batch norm into the layer before it; the function stays what it was."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import fx, nn

from dcsurgery.capture.graphs import ModuleGraph
from dcsurgery.census import Census
from dcsurgery.errors import Refused
from dcsurgery.folding import Fold, fold_batch_norm
from dcsurgery.passes.base import Pass, PassPlan
from dcsurgery.plans import Edit
from dcsurgery.sites import ModulePlace, Site
from dcsurgery.standins import DeletedNorm, keep_hooks
from dcsurgery.surgeon import Surgeon
from dcsurgery.tree import get_path, join

__all__ = ["FoldBatchNorm"]

_LINEAR = (nn.Linear,)
_CONVOLUTION = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class FoldBatchNorm(Pass):
    """Fold batch norms in evaluation mode: the control for `Denormalize`, which changes the function.

    A batch norm is folded where the captured graph proves that its only input is one linear or convolution layer
    which nothing else uses. A layer without bias gets one (a new key).
    """

    action: ClassVar[str] = "fold"
    preserves: ClassVar[frozenset[str]] = frozenset({"values", "derivatives", "keys"})
    leaves: ClassVar[Literal["new", "input", "operator"]] = "input"

    def plan(self, model: nn.Module, census: Census) -> PassPlan:
        """Plan one fold per batch norm that allows it; the others are noted with the reason."""
        if model.training:
            raise Refused(
                "batch norms can be folded in evaluation mode only: in training they use the batch's statistics",
                where=type(model).__name__,
                fix="call model.eval() first",
            )
        edits, notes = [], []
        captures = {name: capture for capture, _, site in census.nodes() for name in (site.name,)}
        for candidate in self.candidates(census, "normalization"):
            site = candidate.site
            if site.operator != "batch_norm":
                continue
            into, reason = _layer_before(model, site, candidate.node, captures.get(site.name))
            if into is None:
                notes.append(f"{site.name}: not folded: {reason}")
            else:
                edits.append(Edit(site.name, self.action, site.operator, site.place, settings={"into": into}))
        return PassPlan(tuple(edits), tuple(notes))

    @classmethod
    def realise(cls, surgeon: Surgeon, edit: Edit) -> None:
        """Move the norm's scale and shift into the layer and let its input through."""
        if not isinstance(edit.place, ModulePlace) or "into" not in edit.settings:
            raise Refused(
                "the edit names no batch norm module or no layer to fold it into", where=edit.site, fix="plan again"
            )
        norm = get_path(surgeon.model, join(edit.place.owner, edit.place.slot))
        layer = surgeon.module(edit.settings["into"])
        if not isinstance(norm, _BATCH_NORM) or norm.running_mean is None or norm.running_var is None:
            raise Refused("it is no batch norm with running statistics", where=edit.site, fix="plan again")
        before = dict(layer._parameters)
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        if not isinstance(layer, (*_LINEAR, *_CONVOLUTION)):
            raise Refused(f"{type(layer).__name__} takes no batch norm", where=edit.site, fix="plan again")
        layer.weight, layer.bias = fold_batch_norm(layer.weight, layer.bias, *statistics)
        surgeon.remember(lambda: layer._parameters.update(before))
        surgeon.folds.append(Fold(edit.settings["into"], join(edit.place.owner, edit.place.slot), norm.eps))
        surgeon.put(edit.place.owner, edit.place.slot, keep_hooks(norm, DeletedNorm(norm)))


def _layer_before(
    model: nn.Module, site: Site, node: fx.Node | None, capture: ModuleGraph | None
) -> tuple[str | None, str]:
    """Return the path of the layer that a batch norm can be folded into, or None and why not."""
    if not isinstance(site.place, ModulePlace):
        return None, "it is a call, not a module"
    norm: Any = get_path(model, site.name)
    if not isinstance(norm, _BATCH_NORM):
        return None, f"{type(norm).__name__} is not one of torch's own batch norms"
    if norm.running_mean is None:
        return None, "it has no running statistics"
    if norm.training:
        return None, "it is in training mode"
    if node is None or capture is None:
        return None, "no captured graph shows what comes before it: give example inputs"
    if site.shared_with or site.runs not in (None, 1):
        return None, "it is used at several places"
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.op != "call_module":
        return None, "what comes before it is not a layer"
    path = join(capture.path, str(source.target))
    layer = get_path(model, path)
    if not isinstance(layer, (*_LINEAR, *_CONVOLUTION)):
        return None, f"what comes before it is a {type(layer).__name__}"
    shape = source.meta.get("dcs_shape")
    if isinstance(layer, _LINEAR) and (shape is None or len(shape) != 2):
        # On (batch, features, length) a linear layer and a batch norm work along different dimensions.
        known = "has an unknown shape: give example inputs" if shape is None else f"has the shape {list(shape)}"
        return None, f"the output of {path} {known}; (batch, features) is needed"
    if len(source.users) != 1:
        return None, f"the output of {path} is used elsewhere, too"
    uses = sum(n.op == "call_module" and n.target == source.target for n in source.graph.nodes)
    holders = sum(module is layer for _, module in model.named_modules(remove_duplicate=False))
    if uses != 1 or holders != 1:
        return None, f"{path} is used at several places"
    return path, ""
