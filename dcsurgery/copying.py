"""Copy a model as a whole, also one that holds tensors with a history."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from dcsurgery.errors import BadInput

__all__ = ["copied"]


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy.

    A tensor that a run has computed (the ``weight`` that ``torch.nn.utils.weight_norm`` leaves on its layer, a cached
    output) is copied without its history, which deepcopy refuses to do.

    Raises
    ------
    BadInput
        If a class of the model does not let itself be copied.
    """
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)
        for value in vars(module).values()
        if isinstance(value, torch.Tensor) and value.grad_fn is not None
    }
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # noqa: BLE001 - user code runs in deepcopy
        raise BadInput(
            f"the model cannot be copied: {type(error).__name__}: {error}",
            where=type(model).__name__,
            fix="edit it with inplace=True, or build it anew",
        ) from None
