"""What a surgery must leave alone: keys, tensors and what hangs on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dcsurgery.checks.outputs import equal
from dcsurgery.paths import PathSet
from dcsurgery.plans import Edit
from dcsurgery.report import Check
from dcsurgery.surgery import Surgery

__all__ = ["check_keys", "check_shared_tensors"]


def check_keys(original: nn.Module, surgery: Surgery) -> Check:
    """Every surviving tensor has its key and its value; nothing but norms' and replaced activations' tensors went."""
    old, new = original.state_dict(), surgery.model.state_dict()
    folded = {str(e.settings.get("into")) for e in surgery.plan.edits if e.action == "fold"}
    gone = [e for e in surgery.plan.edits if e.action in ("delete", "fold", "replace") and e.place is not None]
    owners = {_slot_path(edit) for edit in gone}
    below = PathSet(owners)
    lost = [key for key in surgery.key_map.deleted if "" not in owners and not below.is_above(key)]
    changed = [
        key
        for key in surgery.key_map.kept
        if key.rpartition(".")[0] not in folded and isinstance(old[key], torch.Tensor) and not equal(old[key], new[key])
    ]
    wrong = lost + changed
    reason = (
        f"lost or changed: {', '.join(wrong[:5])}"
        if wrong
        else (
            f"{len(surgery.key_map.kept)} kept, {len(surgery.key_map.deleted)} deleted, {len(surgery.key_map.added)} added"
        )
    )
    return Check("keys", "fail" if wrong else "pass", len(wrong), 0, reason)


def check_shared_tensors(original: nn.Module, edited: nn.Module) -> Check:
    """Every tensor that both models have under one key is the same."""
    old, new = original.state_dict(), edited.state_dict()
    wrong = [k for k in old if k in new and isinstance(old[k], torch.Tensor) and not equal(old[k], new[k])]
    reason = f"differ: {', '.join(wrong[:5])}" if wrong else f"{len(set(old) & set(new))} shared keys"
    return Check("keys", "fail" if wrong else "pass", len(wrong), 0, reason)


def _slot_path(edit: Edit) -> str:
    place: Any = edit.place
    slot = getattr(place, "slot", getattr(place, "attribute", None))
    return f"{place.owner}.{slot}".lstrip(".") if slot is not None else place.owner
