"""What a surgery must leave alone: keys and values of tensors, who shares them, and what hangs on modules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dcsurgery.checks.outputs import equal
from dcsurgery.paths import PathSet
from dcsurgery.plans import Edit
from dcsurgery.report import Check

__all__ = ["check_keys", "check_structure"]

_GONE = ("delete", "fold", "replace")
_HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def check_keys(original: nn.Module, edited: nn.Module, edits: Collection[Edit]) -> Check:
    """Every surviving tensor has its key and its value; nothing but norms' and replaced activations' tensors went."""
    old, new = original.state_dict(), edited.state_dict()
    folded = {str(e.settings.get("into")) for e in edits if e.action == "fold"}
    owners = PathSet(_slot_path(edit) for edit in edits if edit.action in _GONE and edit.place is not None)
    missing = [key for key in old if key not in new]
    lost = [key for key in missing if not (owners.is_above(key) or owners.covers(""))]
    kept = [key for key in old if key in new]
    changed = [
        key
        for key in kept
        if key.rpartition(".")[0] not in folded and isinstance(old[key], Tensor) and not _same(old[key], new[key])
    ]
    wrong = lost + changed
    added = sum(key not in old for key in new)
    reason = f"{len(kept)} kept, {len(missing)} deleted, {added} added"
    if wrong:
        reason = f"lost or changed: {', '.join(wrong[:5])}"
    return Check("keys", "fail" if wrong else "pass", len(wrong), 0, reason)


def _same(a: Any, b: Any) -> bool:
    if not isinstance(b, Tensor) or a.is_meta or b.is_meta:
        return isinstance(b, Tensor) and a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
    return equal(a, b.to(a.device))


def _slot_path(edit: Edit) -> str:
    place: Any = edit.place
    slot = getattr(place, "slot", getattr(place, "attribute", None))
    return f"{place.owner}.{slot}".lstrip(".") if slot is not None else place.owner


def check_structure(original: nn.Module, edited: nn.Module) -> Check:
    """Surviving tensors are shared, placed, typed and trained as before; surviving modules keep hooks and mode."""
    wrong = [*_tensors(original, edited), *_sharing(original, edited), *_modules(original, edited)]
    both = set(dict(original.named_modules())) & set(dict(edited.named_modules()))
    reason = "; ".join(wrong[:5]) if wrong else f"{len(both)} modules: sharing, dtypes, devices, gradients, hooks, mode"
    return Check("structure", "fail" if wrong else "pass", len(wrong), 0, reason)


def _all_tensors(model: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    return found | dict(model.named_buffers(remove_duplicate=False))


def _tensors(original: nn.Module, edited: nn.Module) -> Iterator[str]:
    new = _all_tensors(edited)
    for name, tensor in _all_tensors(original).items():
        other = new.get(name)
        for what in ("dtype", "device", "requires_grad") if other is not None else ():
            before, after = getattr(tensor, what), getattr(other, what)
            if before != after:
                yield f"{what} of {name}: {before} became {after}"
        if other is not None and isinstance(tensor, nn.Parameter) != isinstance(other, nn.Parameter):
            yield f"{name}: a {type(tensor).__name__} became a {type(other).__name__}"


def _sharing(original: nn.Module, edited: nn.Module) -> Iterator[str]:
    old, new = _all_tensors(original), _all_tensors(edited)
    groups: defaultdict[int, list[str]] = defaultdict(list)
    for name, tensor in old.items():
        if name in new:
            groups[id(tensor)].append(name)
    home: dict[int, str] = {}
    for first, *others in groups.values():
        for name in others:
            if new[name] is not new[first]:
                yield f"{first} and {name} were one tensor and are two"
        if new[first] is not None and home.setdefault(id(new[first]), first) != first:
            yield f"{home[id(new[first])]} and {first} were two tensors and are one"


def _modules(original: nn.Module, edited: nn.Module) -> Iterator[str]:
    new = dict(edited.named_modules(remove_duplicate=False))
    for path, module in original.named_modules(remove_duplicate=False):
        other = new.get(path)
        if other is None or isinstance(module, torch.jit.ScriptModule):
            continue
        where = path or "the model"
        if module.training != other.training:
            yield f"{where}: {'train' if module.training else 'eval'} mode became the other"
        for name in _HOOKS:
            before, after = len(getattr(module, name, ())), len(getattr(other, name, ()))
            if after < before:
                yield f"{where}: {before} {name.strip('_').replace('_', ' ')} became {after}"
