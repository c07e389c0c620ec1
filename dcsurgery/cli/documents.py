"""JSON documents: what ``--json`` prints and ``--report`` writes."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcsurgery import __version__

if TYPE_CHECKING:
    from dcsurgery.census import Census
    from dcsurgery.diffing import Diff
    from dcsurgery.plans import Plan
    from dcsurgery.report import Report
    from dcsurgery.surgery import Surgery

__all__ = [
    "census_document",
    "diff_document",
    "failure_document",
    "plan_document",
    "surgery_document",
    "to_json",
    "verification_document",
    "zoo_document",
]


def to_json(document: Any) -> str:
    """Return a document as JSON text that every parser accepts."""
    return json.dumps(_plain(document), indent=2, allow_nan=False)


def census_document(census: Census, file: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``inspect`` found."""
    return {**_head("inspect", 0), "file": file, **census.to_dict()}


def plan_document(command: str, plan: Plan, census: Census, file: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan and what it was made from; nothing has been done yet."""
    return {**_head(command, 0), "file": file, "census": _counts(census), "plan": plan.to_dict()}


def surgery_document(
    command: str, code: int, surgery: Surgery, census: Census, file: Mapping[str, Any]
) -> dict[str, Any]:
    """Return everything about a surgery: plan, report, key map, versions."""
    return {
        **_head(command, code),
        "file": file,
        "census": _counts(census),
        "plan": surgery.plan.to_dict(),
        "report": surgery.report.to_dict(),
        "key_map": surgery.key_map.to_dict(),
    }


def diff_document(diff: Diff, files: Mapping[str, Any]) -> dict[str, Any]:
    """Return what changed from one model to another."""
    return {**_head("diff", 0), "files": files, **diff.to_dict()}


def verification_document(code: int, report: Report, files: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checks of one model against another."""
    return {**_head("verify", code), "files": files, "report": report.to_dict()}


def zoo_document(command: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a command of the zoo found or did."""
    return {**_head(f"zoo {command}", 0), **values}


def failure_document(message: str, code: int) -> dict[str, Any]:
    """Return an error; without the versions, since whatever failed may be one of the packages."""
    return {"dcsurgery": __version__, "ok": False, "exit_code": code, "error": message}


def _head(command: str, code: int) -> dict[str, Any]:
    versions = {"dcsurgery": __version__, "torch": metadata.version("torch"), "python": platform.python_version()}
    return {"dcsurgery": __version__, "command": command, "ok": code == 0, "exit_code": code, "versions": versions}


def _counts(census: Census) -> dict[str, Any]:
    return {"model": census.model, "inputs_given": census.inputs_given, "counts": census.counts}


def _plain(value: Any) -> Any:
    """Return a value as plain JSON types; NaN and infinity, which JSON does not have, become null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case Path():
            return str(value)
        case _:
            return repr(value)
