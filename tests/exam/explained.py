"""The cases that cannot pass, and why: the same reasons stand in docs/limits.md."""

from __future__ import annotations

__all__ = ["EXPLAINED"]

#: ``family: name`` of a case -> why it cannot pass. A listed case that passes fails the exam.
EXPLAINED: dict[str, str] = {}
