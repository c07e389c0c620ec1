"""The three PINNs as entries of the registry."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

__all__ = ["PINN_ENTRIES"]

_CLASS = "dcsurgery.zoo.pde.network:PINN"
# Inputs and outputs of the network, and its number of parameters in both sizes.
_NETWORKS = {
    "advection": (2, 1, {"small": 609, "paper": 8_361}),
    "cfd": (2, 3, {"small": 643, "paper": 8_443}),
    "diffusion-reaction": (3, 2, {"small": 642, "paper": 8_442}),
}
_TITLES = {
    "advection": "advection in one dimension: (x, t) -> u",
    "cfd": "compressible flow in one dimension: (x, t) -> density, velocity, pressure",
    "diffusion-reaction": "diffusion-reaction in two dimensions: (x, y, t) -> u, v",
}


def _sizes(inputs: int, outputs: int) -> MappingProxyType[str, dict[str, Any]]:
    ends = {"inputs": inputs, "outputs": outputs}
    return MappingProxyType({"small": {**ends, "width": 16, "depth": 3}, "paper": {**ends, "width": 40, "depth": 6}})


#: Arguments of each entry.
PINN_ENTRIES: tuple[dict[str, Any], ...] = tuple(
    {
        "name": f"pinn-{name}",
        "backend": "deepxde",
        "class_path": _CLASS,
        "description": f"PINN, fully connected tanh network for {_TITLES[name]}",
        "sizes": _sizes(inputs, outputs),
        "counts": MappingProxyType(counts),
        "force": "none",
        "recipe": MappingProxyType({"irelu": True, "denorm": True, "scope": "all"}),
    }
    for name, (inputs, outputs, counts) in _NETWORKS.items()
)
