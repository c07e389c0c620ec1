"""All hard cases of the default suite by name."""

from __future__ import annotations

from exam.hard_cases import classes, control_flow, data, held, state, transforms

from models import applied, attributes, calls, compounds, helpers, idioms, messages, norms, structure

CALLS = calls.CASES
ATTRIBUTES = attributes.CASES
HELPERS = helpers.CASES
STRUCTURE = structure.CASES
NORMS = norms.CASES
MESSAGES = messages.CASES
COMPOUNDS = compounds.CASES
IDIOMS = idioms.CASES
APPLIED = applied.CASES
#: Cases of the exam that once failed.
FINDINGS = {
    name: kind.CASES[name]
    for kind, names in (
        (classes, ("diamond", "metaclass", "thread")),
        (control_flow, ("single dispatch", "until converged", "adaptive computation")),
        (data, ("dict with attributes", "dataclass", "sparse")),
        (held, ("partialmethod", "Enum member that is called", "partial in an Enum", "other containers")),
        (state, ("kept hidden state",)),
        (transforms, ("ensemble by vmap", "reentrant checkpoint")),
    )
    for name in names
}
ALL = {**CALLS, **ATTRIBUTES, **HELPERS, **STRUCTURE, **NORMS, **MESSAGES, **COMPOUNDS, **IDIOMS, **APPLIED, **FINDINGS}
