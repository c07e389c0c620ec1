"""Models, data and training that put the edits to the test."""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: Where each public name lives; PyG is imported when the first of them is used.
_HOMES = {
    "Entry": "registry",
    "available": "registry",
    "build": "registry",
    "build_from_config": "registry",
    "config_of": "registry",
    "energy": "potentials",
    "energy_and_forces": "potentials",
    "entries": "registry",
    "example_batch": "examples",
    "example_inputs": "potentials",
    "recipe": "recipes",
    "save_checkpoint": "registry",
    "StructureSet": "data.structures",
    "load_data": "data.loading",
    "load_npz": "data.molecules",
    "random_split": "data.molecules",
    "ethanol": "data.molecules",
    "train": "training",
}

#: Names that are longer here than in their own module.
_INSIDE = {"load_data": "load"}

__all__ = [
    "Entry",
    "StructureSet",
    "available",
    "build",
    "build_from_config",
    "config_of",
    "energy",
    "energy_and_forces",
    "entries",
    "ethanol",
    "example_batch",
    "example_inputs",
    "load_data",
    "load_npz",
    "random_split",
    "recipe",
    "save_checkpoint",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module = import_module(f"{__name__}.{_HOMES[name]}")
        return getattr(module, _INSIDE.get(name, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
