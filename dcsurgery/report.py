"""What was done, what was left alone and why, and every check with its figure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Check", "Report"]

Status = Literal["pass", "fail", "skip"]


@dataclass(frozen=True)
class Check:
    """One check of an edited model.

    Attributes
    ----------
    name
        What was checked, for instance ``residual``.
    status
        ``pass``, ``fail`` or ``skip``.
    figure
        The number that was measured, if there is one.
    limit
        What the figure was compared with.
    reason
        Why it failed or was skipped, or what the figure counts; names the place.
    sites
        Site and figure, of checks that have one for each site: how many old kernels still run there, how often it ran.
    """

    name: str
    status: Status
    figure: float | None = None
    limit: float | None = None
    reason: str = ""
    sites: tuple[tuple[str, float], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the check as plain JSON types."""
        entry: dict[str, Any] = {
            "name": self.name,
            "status": self.status,
            "figure": self.figure,
            "limit": self.limit,
            "reason": self.reason,
        }
        return {**entry, "sites": dict(self.sites)} if self.sites else entry

    def __str__(self) -> str:
        figure = "" if self.figure is None else f" {self.figure:.3g}"
        limit = "" if self.limit is None else f" (limit {self.limit:.3g})"
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.status:4} {self.name}{figure}{limit}{reason}"


@dataclass(frozen=True)
class Report:
    """The outcome of a surgery or of a verification.

    Attributes
    ----------
    checks
        Every check, in the order in which it ran.
    done
        One line per edit that was made.
    left_alone
        One line per site that was found and not edited, with the reason.
    warnings
        What the user should know although nothing failed.
    """

    checks: tuple[Check, ...] = ()
    done: tuple[str, ...] = ()
    left_alone: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """True when no check failed."""
        return all(check.status != "fail" for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == "fail")

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        """What checks measured at single sites: site to check to figure."""
        found: dict[str, dict[str, float]] = {}
        for check in self.checks:
            for site, figure in check.sites:
                found.setdefault(site, {})[check.name] = figure
        return found

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Report:
        """Read what `to_dict` wrote.

        Raises
        ------
        KeyError, TypeError, ValueError, AttributeError
            If it is something else.
        """
        checks = [Check(**{**entry, "sites": tuple(entry.get("sites", {}).items())}) for entry in raw["checks"]]
        return Report(tuple(checks), tuple(raw["done"]), tuple(raw["left_alone"]), tuple(raw["warnings"]))

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def __getitem__(self, name: str) -> Check:
        """Return the check called ``name``."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check {name!r}; there are: {', '.join(c.name for c in self.checks) or 'none'}")

    def extended(self, checks: Iterable[Check] = (), warnings: Iterable[str] = ()) -> Report:
        """Return a report with further checks and warnings at the end."""
        return Report((*self.checks, *checks), self.done, self.left_alone, (*self.warnings, *warnings))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        return {
            "ok": self.ok,
            "checks": [check.to_dict() for check in self.checks],
            "done": list(self.done),
            "left_alone": list(self.left_alone),
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        lines = [str(check) for check in self.checks]
        lines += [f"done {line}" for line in self.done]
        lines += [f"left alone {line}" for line in self.left_alone]
        lines += [f"warning {line}" for line in self.warnings]
        return "\n".join(lines)
