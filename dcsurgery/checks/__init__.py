"""Checks: nothing selected still runs, nothing else changed, values and derivatives are right. One file per subject."""

from __future__ import annotations

from dcsurgery.checks.surgical import check_surgery
from dcsurgery.checks.verifying import verify

__all__ = ["check_surgery", "verify"]
