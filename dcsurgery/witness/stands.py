"""What has to stand at a site of the original model, and by which means it can be put there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dcsurgery.capture.graphs import Key
from dcsurgery.catalog import OPERATORS, operator_named
from dcsurgery.census import site_key
from dcsurgery.passes.base import pass_for
from dcsurgery.plans import Edit
from dcsurgery.witness.references import Reference, gated, reference_of

__all__ = ["SINGLE_KERNELS", "Stand", "devices_of", "kernel_names", "stands_for"]

# Operators that run several kernels, or none of their own: those are replaced as a whole.
_COMPOSED = frozenset({"tanhshrink", "softsign"})
_NORMS = frozenset({"batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm"})
#: Operators that are one kernel: what the kernel computes is what the site computes.
SINGLE_KERNELS = frozenset(
    row.name
    for row in OPERATORS
    if row.kernels
    and (
        row.name in _NORMS
        or (row.role in ("activation", "gate") and row.reference is not None and row.name not in _COMPOSED)
        or row.name in ("prelu", "rrelu", "threshold", "glu")
    )
) - {"siqu"}


@dataclass(frozen=True)
class Stand:
    """What the witness puts at one site.

    Attributes
    ----------
    name
        The site's name.
    operator
        What is there in the original.
    reference
        The function that takes its place; None where the site's input is passed on.
    """

    name: str
    operator: str
    reference: Reference | None

    @property
    def returns(self) -> int:
        """Position of the argument that the site works on."""
        return operator_named(self.operator).returns

    @property
    def role(self) -> str:
        """The role of the operator that is there."""
        return operator_named(self.operator).role

    def value(self, x: Any, *, operator: str = "", dim: int = -1, inplace: bool = False) -> Any:
        """Return what the site returns for an input.

        Parameters
        ----------
        x
            The input.
        operator
            The operator that is applied, where one site applies several.
        dim
            The dimension along which a GLU halves its input.
        inplace
            Write the result into ``x``.
        """
        if not isinstance(x, Tensor):
            return x
        if self.reference is None:
            return x.clone()  # a norm returns a new tensor: whoever writes into it leaves the norm's input alone
        if (operator or self.operator) == "glu":
            return gated(x, self.reference, dim)
        return x.copy_(self.reference(x.clone())) if inplace else self.reference(x)


def stands_for(edits: Collection[Edit]) -> tuple[dict[Key, Stand], dict[str, str]]:
    """Return what stands at every edited site, and for the edits that nobody can repeat the reason."""
    stands: dict[Key, Stand] = {}
    unknown: dict[str, str] = {}
    for edit in edits:
        if edit.place is None or _keeps_values(edit):
            continue
        reference: Reference | None = None
        if edit.action == "replace":
            replacement: str | nn.Module = edit.settings.get("module", edit.replacement or "")
            reference = reference_of(replacement)
            if reference is None:
                unknown[edit.site] = f"no second formula for {edit.replacement} is known"
                continue
        elif not _passes_on(edit):
            unknown[edit.site] = f"what the edit {edit.action!r} computes is not known"
            continue
        stands[site_key(edit.place)] = Stand(edit.site, edit.operator, reference)
    return stands, unknown


def _keeps_values(edit: Edit) -> bool:
    owner = pass_for(edit.action)
    return owner is not None and "values" in owner.preserves


def _passes_on(edit: Edit) -> bool:
    owner = pass_for(edit.action)
    return owner is not None and owner.leaves == "input"


def kernel_names(stands: Mapping[Key, Stand]) -> set[str]:
    """Return every kernel that a site may run, for the roles that are edited: one call may apply several activations."""
    roles = {stand.role for stand in stands.values()}
    rows = [row for row in OPERATORS if row.role in roles and row.name in SINGLE_KERNELS]
    return {kernel for row in rows for kernel in row.kernels}


def devices_of(model: nn.Module, inputs: Any) -> set[str]:
    """Return the types of the devices that a model and its inputs are on."""
    tensors = [*model.parameters(), *model.buffers(), *pytree.tree_leaves(inputs)]
    return {t.device.type for t in tensors if isinstance(t, torch.Tensor)} or {"cpu"}
