"""What may be handed in as a model, and the module that is looked at, run and edited for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dcsurgery.errors import BadInput

__all__ = ["as_module"]


def as_module(model: Any, *, inplace: bool = False) -> nn.Module:
    """Return a model as a plain module.

    Parameters
    ----------
    model
        An nn.Module stays what it is, but for TorchScript inside it: then it is a copy with plain modules there.
        TorchScript is imported (`dcsurgery.torchscript`), an ExportedProgram becomes the GraphModule of its program
        (`dcsurgery.exported`).
    inplace
        Whether the model itself is to be edited; then TorchScript inside it is left to `dcsurgery.surgery`.

    Raises
    ------
    BadInput
        If it is no model, or one that cannot be edited in place.
    """
    if isinstance(model, torch.jit.ScriptModule):
        _refuse(inplace, "TorchScript")
        from dcsurgery.torchscript import import_module

        return import_module(model)
    if isinstance(model, nn.Module):
        from dcsurgery.torchscript.fragments import has_fragments, with_fragments_imported

        return with_fragments_imported(model) if not inplace and has_fragments(model) else model
    if type(model).__module__ == "torch.export.exported_program":
        _refuse(inplace, "an ExportedProgram")
        from dcsurgery.exported import module_of

        return module_of(model)
    raise BadInput(
        f"not a model: {type(model).__name__}",
        fix="pass a torch.nn.Module, a ScriptModule, an ExportedProgram or a GraphModule; dcs.load reads a file",
    )


def _refuse(inplace: bool, what: str) -> None:
    if inplace:
        raise BadInput(f"{what} cannot be edited in place", fix="leave inplace out and use the result's model")
