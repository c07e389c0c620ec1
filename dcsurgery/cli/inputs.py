"""What commands read: the model, example inputs, a plan."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcsurgery.errors import BadInput
from dcsurgery.fresh_process import FreshProcess

if TYPE_CHECKING:
    from dcsurgery.files import ModelFile
    from dcsurgery.plans import Plan
    from dcsurgery.report import Report

__all__ = ["Source", "read_plan", "read_report"]


@dataclass(frozen=True)
class Source:
    """The files that a command reads."""

    model: Path
    inputs: Path | None
    trust: bool
    imports: tuple[Path, ...]

    def check(self) -> None:
        """Raise BadInput if the model's file is missing or cannot be opened, before anything else is done."""
        from dcsurgery.files.kinds import open_model_file

        open_model_file(self.model).close()

    def fresh_process(self) -> FreshProcess:
        """Return the process, not started yet, that will read what is made of the model."""
        return FreshProcess(self.model, trust=self.trust, imports=self.imports)

    def read_model(self) -> ModelFile:
        """Read the model."""
        from dcsurgery import files

        return files.read(self.model, trust=self.trust, imports=self.imports)

    def read_inputs(self) -> Any:
        """Read the example inputs; None if there are none."""
        from dcsurgery import files

        return None if self.inputs is None else files.read_inputs(self.inputs, self.trust, self.imports)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read: none of them may be written."""
        return (self.model, *self.imports, *([self.inputs] if self.inputs is not None else []))

    def describe(self, kind: str) -> dict[str, Any]:
        """Return what documents say about the files."""
        return {"path": self.model, "kind": kind, "inputs": self.inputs}


def read_report(path: Path) -> Report:
    """Read the report in a document that ``--report`` wrote.

    Raises
    ------
    BadInput
        If it is missing, cannot be read, or holds no report.
    """
    from dcsurgery.report import Report

    fix = "give what dcsurgery transform --report FILE.json wrote"
    try:
        return Report.from_dict(json.loads(path.read_text(encoding="utf-8"))["report"])
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=str(path), fix=fix) from None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadInput("is no report", where=str(path), fix=fix) from None


def read_plan(path: Path) -> Plan:
    """Read a plan's file.

    Raises
    ------
    BadInput
        If it is missing, cannot be read, or is not a plan.
    """
    from dcsurgery.plans import Plan

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput("no such file", where=str(path), fix="make a plan with dcsurgery plan") from None
    except IsADirectoryError:
        raise BadInput("is a directory, not a plan", where=str(path), fix="give the file inside it") from None
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=str(path), fix="make it readable") from None
    except UnicodeDecodeError:
        raise BadInput("is not a text file", where=str(path), fix="give a plan that dcsurgery plan wrote") from None
    return Plan.from_yaml(text, source=str(path))
