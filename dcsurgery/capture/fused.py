"""Activations and norms inside kernels and code that is not opened call by call."""

from __future__ import annotations

import re
from collections import Counter

import torch

from dcsurgery.capture.places import Places
from dcsurgery.capture.recorded import Recording
from dcsurgery.catalog import match_kernel, operator_named
from dcsurgery.recurrent import inner_operators
from dcsurgery.sites import FusedPlace, Site
from dcsurgery.subclass import original_class

__all__ = ["fused_sites"]

_ATEN_CALL = re.compile(r"aten::(\w+)\(")


def fused_sites(places: Places, recording: Recording | None) -> list[Site]:
    """Return the sites of recurrent kernels, TorchScript children and whatever ran where no edit can reach."""
    sites = []
    for path, module in places.tree.modules.items():
        if isinstance(module, torch.jit.ScriptModule):
            if not isinstance(places.tree.modules.get(path.rpartition(".")[0]), torch.jit.ScriptModule):
                sites += _scripted(path, module)
        else:
            sites += [_recurrent(path, module, name, recording) for name in inner_operators(module)]
    for event in recording.events.values() if recording is not None else ():
        if event.key[0] == "fused":
            owner, inside = str(event.key[1]), str(event.key[2])
            operator = event.match.operator
            sites.append(
                Site(
                    name=f"{owner}@{inside}",
                    role=operator.role,
                    operator=operator.name,
                    how="fused",
                    place=FusedPlace(owner, inside),
                    match=event.match.match,
                    file=event.file,
                    line=event.line,
                    runs=event.runs,
                    reason=f"not yet edited: {event.reason}",
                    editable=False,
                )
            )
    return sites


def _recurrent(path: str, module: torch.nn.Module, name: str, recording: Recording | None) -> Site:
    operator = operator_named(name)
    return Site(
        name=f"{path}@{name}",
        role=operator.role,
        operator=name,
        how="fused",
        place=FusedPlace(path, name),
        match=f"inside {original_class(module).__name__}",
        runs=recording.fused_calls[path] if recording is not None else None,
        reason=operator.reason,
    )


def _scripted(path: str, module: torch.jit.ScriptModule) -> list[Site]:
    try:
        kernels = Counter(_ATEN_CALL.findall(str(module.inlined_graph)))
    except RuntimeError:  # an interface or a module without forward
        return []
    sites = []
    for kernel, count in kernels.items():
        operator = match_kernel(kernel.rstrip("_"))
        if operator is not None:
            sites.append(
                Site(
                    name=f"{path}@{operator.name}",
                    role=operator.role,
                    operator=operator.name,
                    how="fused",
                    place=FusedPlace(path, f"TorchScript, {count} calls"),
                    reason=operator.reason or "not edited: this TorchScript cannot be imported",
                    editable=False,
                )
            )
    return sites
