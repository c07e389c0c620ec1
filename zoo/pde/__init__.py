"""Physics-informed networks of PDEBench: three problems, their data, training, metrics and tables."""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: Where each public name lives; DeepXDE is imported when it is first needed.
_HOMES = {
    "Field": "fields",
    "PINN": "network",
    "PROBLEMS": "problems",
    "Problem": "problems",
    "deepxde": "backend",
    "evaluate": "metrics",
    "generate": "generators",
    "problem": "problems",
    "read": "hdf5",
    "train": "training",
}

__all__ = ["PINN", "PROBLEMS", "Field", "Problem", "deepxde", "evaluate", "generate", "problem", "read", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
