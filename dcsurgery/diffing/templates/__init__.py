"""Jinja2 templates of the pictures."""

from __future__ import annotations

import functools
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["render"]


@functools.cache
def _environment() -> Environment:
    # Names come from models: everything is escaped unless a template says otherwise.
    return Environment(
        loader=PackageLoader("dcsurgery.diffing"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(name: str, **values: Any) -> str:
    """Return a template filled with values."""
    return _environment().get_template(name).render(**values)
