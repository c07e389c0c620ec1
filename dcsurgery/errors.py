"""The one exception family: every message says what was wrong, where, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dcsurgery.report import Report

__all__ = [
    "BadInput",
    "CheckFailed",
    "NothingMatched",
    "PlanMismatch",
    "Refused",
    "SurgeryError",
    "UnsafeFile",
]


class SurgeryError(Exception):
    """Base of every error that dcsurgery raises on purpose.

    Parameters
    ----------
    message
        What was wrong.
    where
        Module path, ``file:line`` or file name, if there is one.
    fix
        What the user can do about it.
    """

    exit_code = 2

    def __init__(self, message: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.message = message
        self.where = where
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} ({self.fix})" if self.fix else text


class BadInput(SurgeryError):
    """A file, an argument or a model that cannot be used as it was given."""


class UnsafeFile(BadInput):
    """A pickle that names globals which are not on the list of known-safe ones."""


class PlanMismatch(BadInput):
    """A plan that was made for another model."""


class Refused(BadInput):
    """An edit that a pass will not make, with the reason."""


class NothingMatched(SurgeryError):
    """Edits were asked for and no site matched any of them."""

    exit_code = 3


class CheckFailed(SurgeryError):
    """A check of the edited model failed; ``report`` has every figure."""

    exit_code = 1

    def __init__(self, message: str, report: Report, *, where: str | None = None, fix: str | None = None) -> None:
        self.report = report
        super().__init__(message, where=where, fix=fix)
