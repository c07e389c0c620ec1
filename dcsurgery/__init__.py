"""Surgery on PyTorch models whose derivatives are fitted.

``inspect`` finds every activation and normalization, ``transform`` replaces and deletes them, ``plan`` and ``apply`` do
so in two steps with a file in between. Names are imported on first use, so that ``import dcsurgery`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcsurgery.api import apply as apply
    from dcsurgery.api import diff as diff
    from dcsurgery.api import inspect as inspect
    from dcsurgery.api import load as load
    from dcsurgery.api import plan as plan
    from dcsurgery.api import rescale_constant as rescale_constant
    from dcsurgery.api import save as save
    from dcsurgery.api import transform as transform
    from dcsurgery.api import verify as verify
    from dcsurgery.census import Census as Census
    from dcsurgery.diffing import Diff as Diff
    from dcsurgery.errors import BadInput as BadInput
    from dcsurgery.errors import CheckFailed as CheckFailed
    from dcsurgery.errors import NothingMatched as NothingMatched
    from dcsurgery.errors import SurgeryError as SurgeryError
    from dcsurgery.plans import Plan as Plan
    from dcsurgery.report import Report as Report
    from dcsurgery.sites import Site as Site
    from dcsurgery.surgery import Surgery as Surgery

__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(
        ("apply", "diff", "inspect", "load", "plan", "rescale_constant", "save", "transform", "verify"), "dcsurgery.api"
    ),
    **dict.fromkeys(("BadInput", "CheckFailed", "NothingMatched", "SurgeryError"), "dcsurgery.errors"),
    "Census": "dcsurgery.census",
    "Diff": "dcsurgery.diffing",
    "Plan": "dcsurgery.plans",
    "Report": "dcsurgery.report",
    "Site": "dcsurgery.sites",
    "Surgery": "dcsurgery.surgery",
}
_SUBMODULES = ("activations", "passes", "zoo")
__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _SUBMODULES:
        return import_module(f"dcsurgery.{name}")
    raise AttributeError(f"module 'dcsurgery' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_SUBMODULES]
