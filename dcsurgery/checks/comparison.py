"""What was edited, told from the original and the edited model alone, or from the record that the edited one carries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from dcsurgery.activations import activation_by_name, irelu, name_of
from dcsurgery.census import Census
from dcsurgery.diffing import Node, compare
from dcsurgery.errors import BadInput
from dcsurgery.instance_functions import instance_edits
from dcsurgery.plans import Edit, Plan
from dcsurgery.record import recorded
from dcsurgery.sites import AttributePlace, CallPlace, FusedPlace, ModulePlace, NodePlace, Site
from dcsurgery.subclass import amendments_of, original_class
from dcsurgery.tree import get_path, join

__all__ = ["plan_between"]

_HOLDERS = ("ReplacedActivation", "InPlace", "GatedLinear")


def plan_between(original: nn.Module, edited: nn.Module, census: Census) -> tuple[Plan, str]:
    """Return what was done to the original to get the edited model, and how that is known.

    Parameters
    ----------
    original, edited
        The models.
    census
        The original's.
    """
    plans = recorded(edited)[len(recorded(original)) :]
    if plans:
        edits = {(edit.site, edit.action): edit for plan in plans for edit in plan.edits}
        complete = tuple(_with_module(edited, edit) for edit in edits.values())
        unedited = tuple(name for plan in plans for name in plan.unedited)
        return Plan(complete, census.model, unedited=unedited), "the edited model's own record"
    found = [edit for site in census for edit in _edit_of(site, original, edited)]
    found += _node_edits(original, edited, census)
    return Plan((*found, *_rescale(original, edited)), census.model), "comparing the models"


def _with_module(edited: nn.Module, edit: Edit) -> Edit:
    """Give an edit the user's activation that its record cannot hold; it stands in the edited model."""
    if edit.action != "replace" or _is_name(edit.replacement):
        return edit
    module = _standing_at(edited, edit.place)
    return edit if module is None else replace(edit, settings={**edit.settings, "module": module})


def _is_name(replacement: str | None) -> bool:
    try:
        activation_by_name(replacement or "")
    except BadInput:
        return False
    return True


def _standing_at(edited: nn.Module, place: Any) -> nn.Module | None:
    if isinstance(place, ModulePlace | AttributePlace):
        slot = place.slot if isinstance(place, ModulePlace) else place.attribute
        value = _at(edited, join(place.owner, slot))
        return _inside(value) if isinstance(value, nn.Module) else None
    if isinstance(place, CallPlace):
        replacement = next((e.replacement for e in _call_edits(edited, place)), None)
        return replacement if isinstance(replacement, nn.Module) else None
    if isinstance(place, FusedPlace):
        replacement = dict(_opened(edited, place.owner)).get(place.inside)
        return replacement if isinstance(replacement, nn.Module) else None
    return None


def _at(model: nn.Module, path: str) -> Any:
    try:
        return get_path(model, path) if path else model
    except BadInput:
        return None


def _inside(module: nn.Module) -> nn.Module:
    """Return the activation that a stand-in holds."""
    while type(module).__name__ in _HOLDERS and type(module).__module__.startswith("dcsurgery."):
        held = module._modules["activation"]
        assert held is not None
        module = held
    return module


def _edit_of(site: Site, original: nn.Module, edited: nn.Module) -> Iterator[Edit]:
    match site.place:
        case ModulePlace(owner, slot) | AttributePlace(owner, slot):
            path = join(owner, slot)
            yield from _slot_edit(site, _at(original, path), _at(edited, path))
        case CallPlace():
            for edit in list(_call_edits(edited, site.place))[:1]:
                if edit not in list(_call_edits(original, site.place)):
                    yield _edit(site, edit.replacement)
        case FusedPlace(owner, inside):
            opened = dict(_opened(edited, owner))
            if inside in opened and inside not in dict(_opened(original, owner)):
                yield _edit(site, opened[inside])


def _slot_edit(site: Site, before: Any, after: Any) -> Iterator[Edit]:
    if after is None or _kind(before) == _kind(after):
        return
    if site.role == "normalization":
        if isinstance(after, nn.Identity) or type(after).__name__ == "DeletedNorm":
            yield _edit(site, None)
        return
    if isinstance(after, nn.Module):
        yield _edit(site, _inside(after))
    elif after is irelu:
        yield _edit(site, "irelu")


def _kind(value: Any) -> Any:
    if isinstance(value, nn.Module):
        cls = original_class(value)
        return f"{cls.__module__}.{cls.__qualname__}"
    return getattr(value, "__qualname__", type(value).__qualname__)


def _edit(site: Site, replacement: str | nn.Module | None) -> Edit:
    if replacement is None:
        return Edit(site.name, "delete", site.operator, site.place)
    name = replacement if isinstance(replacement, str) else name_of(replacement)
    settings = {"module": replacement} if isinstance(replacement, nn.Module) and not _is_name(name) else {}
    return Edit(site.name, "replace", site.operator, site.place, name, settings)


def _call_edits(model: nn.Module, place: CallPlace) -> Iterator[Any]:
    owner = _at(model, place.owner)
    if isinstance(owner, nn.Module):
        amended = [edit for a in amendments_of(owner) for edit in getattr(a, "edits", ())]
        yield from (edit for edit in (*amended, *instance_edits(owner)) if set(edit.chains) & set(place.chains))


def _opened(model: nn.Module, path: str) -> Iterator[tuple[str, Any]]:
    module = _at(model, path)
    for amendment in amendments_of(module) if isinstance(module, nn.Module) else ():
        yield from getattr(amendment, "replacements", ())


def _node_edits(original: nn.Module, edited: nn.Module, census: Census) -> Iterator[Edit]:
    """Tell the edits of graphs from their diff: a GraphModule keeps no log, and its nodes are named anew in a file."""
    sites = {site.name: site for site in census if isinstance(site.place, NodePlace)}
    if not sites:
        return
    diff = compare(original, edited)
    for change in diff:
        site = sites.get(change.name)
        if site is None:
            continue
        if change.state == "deleted" and site.role == "normalization":
            yield _edit(site, None)
        elif change.state == "replaced":
            new = _new_activation(edited, diff.after.nodes[change.nodes_after[0]])
            if new is not None:
                yield _edit(site, new)


def _new_activation(edited: nn.Module, node: Node) -> str | nn.Module | None:
    """Return what stands at a node now; None where nothing tells (an activation that was written out in operators)."""
    if node.kind in ("module", "call"):
        module = _at(edited, node.path)
        return _inside(module) if isinstance(module, nn.Module) else None
    return "irelu" if node.label.lower() == "irelu" else None


def _rescale(original: nn.Module, edited: nn.Module) -> Iterator[Edit]:
    scale = edited.state_dict().get("label_scale")
    if scale is None or "label_scale" in original.state_dict():
        return
    settings: dict[str, Any] = {"C": float(scale)}
    for amendment in amendments_of(edited):
        if getattr(amendment, "outputs", None) is not None:
            settings["outputs"] = list(amendment.outputs)  # type: ignore[attr-defined]
    yield Edit("", "rescale", settings=settings)
