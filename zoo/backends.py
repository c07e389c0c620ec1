"""The libraries that models are made of: which are installed, and how to get the others."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from types import MappingProxyType

from dcsurgery.errors import BadInput
from dcsurgery.zoo.ocp import fairchem

__all__ = ["BACKENDS", "missing", "require"]

#: Every backend, and what it is.
BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "torch": "plain torch",
        "pyg": "torch-geometric",
        "fairchem": "fairchem-core 1.x, the classes of OCP",
        "fairchem2": "fairchem-core 2.x",
        "deepxde": "DeepXDE on PyTorch",
    }
)
_INSTALL = {"1": 'pip install "dcsurgery[ocp]"', "2": 'pip install "dcsurgery[uma]"'}
_MAJOR = {"fairchem": "1", "fairchem2": "2"}


def missing(backend: str) -> str | None:
    """Return what to do before models of a backend can be built; None if it is there. Nothing is imported."""
    if backend == "pyg":
        # PyG wants both for its DimeNet++.
        absent = [name for name in ("sympy", "scipy") if importlib.util.find_spec(name) is None]
        return f"pip install {' '.join(absent)}" if absent else None
    if backend == "deepxde":
        return None if importlib.util.find_spec("deepxde") is not None else 'pip install "dcsurgery[pde]"'
    major = _MAJOR.get(backend)
    if major is None:
        return None
    found = fairchem.version()
    if found is None:
        return _INSTALL[major]
    if found.partition(".")[0] == major:
        return None
    return f"{_INSTALL[major]} in an environment of its own: fairchem-core {found} is installed here"


def require(backend: str) -> None:
    """Make a backend importable.

    Raises
    ------
    BadInput
        If it is not installed; the message says how to get it.
    """
    if backend == "fairchem":
        fairchem.require()
    fix = missing(backend)
    if fix is not None:
        raise BadInput(f"this needs {BACKENDS[backend]}, which is not installed", fix=fix)
