"""All hard cases by name."""

from __future__ import annotations

from models import attributes, calls, compounds, helpers, messages, norms, structure

CALLS = calls.CASES
ATTRIBUTES = attributes.CASES
HELPERS = helpers.CASES
STRUCTURE = structure.CASES
NORMS = norms.CASES
MESSAGES = messages.CASES
COMPOUNDS = compounds.CASES
ALL = {**CALLS, **ATTRIBUTES, **HELPERS, **STRUCTURE, **NORMS, **MESSAGES, **COMPOUNDS}
