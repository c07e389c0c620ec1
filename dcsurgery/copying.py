"""Copy a model as a whole, also one that holds tensors with a history."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from dcsurgery.collection import uncollected
from dcsurgery.compiling_later import copies_compile_later
from dcsurgery.errors import BadInput
from dcsurgery.tree import Tree

__all__ = ["copied", "in_double", "without_torch_warnings"]


@uncollected()
def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy.

    A tensor that a run has computed (the ``weight`` that ``torch.nn.utils.weight_norm`` leaves on its layer, a cached
    output) is copied without its history, which deepcopy refuses to do.

    Raises
    ------
    BadInput
        If a class of the model does not let itself be copied.
    """
    memo: dict[int, Any] = {}
    scripted = False
    try:
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                scripted = True
            else:
                _begin(module, memo)
        # A copy of a TorchScript module is computed from it: with a history its parameters would be no leaves.
        history = torch.no_grad() if scripted else contextlib.nullcontext()
        with history, without_torch_warnings(), copies_compile_later(model):
            duplicate = copy.deepcopy(model, memo)
    except Exception as error:  # noqa: BLE001 - user code runs in deepcopy
        raise BadInput(
            f"the model cannot be copied: {type(error).__name__}: {error}",
            where=type(model).__name__,
            fix="edit it with inplace=True, or build it anew",
        ) from None
    if scripted:
        for before, after in zip(model.parameters(), duplicate.parameters(), strict=True):
            after.requires_grad_(before.requires_grad)
    return duplicate


def _begin(module: nn.Module, memo: dict[int, Any]) -> None:
    """Copy what can be copied without asking its class: tensors with a history, and what every module is full of.

    A module has ten tables of hooks and the like, nearly all of them empty, which deepcopy takes apart and puts together
    one by one; with its parameters they are most of its work.
    """
    for value in vars(module).values():
        if isinstance(value, torch.Tensor) and value.grad_fn is not None:
            memo[id(value)] = value.detach().clone()
        elif type(value) is OrderedDict and not value:
            memo[id(value)] = OrderedDict()
        items = value.values() if type(value) is dict else value if type(value) in (list, tuple) else (value,)
        # Scripted functions have no state, and refuse to be copied.
        memo.update((id(item), item) for item in items if isinstance(item, torch.jit.ScriptFunction))
    for parameter in module._parameters.values():
        if type(parameter) is nn.Parameter and id(parameter) not in memo:
            parameter.__deepcopy__(memo)  # leaves its copy in the memo


@contextlib.contextmanager
def without_torch_warnings() -> Iterator[None]:
    """Silence what torch warns itself about: copies of an exported graph use a class that torch has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        yield


def in_double(model: nn.Module) -> nn.Module:
    """Return a deep copy in float64, modules in plain containers included, which torch's own ``double`` does not see."""
    double = copied(model).double()
    registered = set(map(id, double.modules()))
    for module in Tree.of(double).modules.values():
        if id(module) not in registered:
            module.double()
    return double
