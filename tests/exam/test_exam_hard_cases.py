"""The exam on hard cases: small models that hide their activations, each with a formula of what it must become."""

import importlib
import pkgutil

import pytest
from models import hard_cases as default_suite
from models import properties
from models.case import Case as HardCase

from exam import hard_cases
from exam.case import Case
from exam.scoring import sit

pytestmark = [
    pytest.mark.exam,
    # A case that hides its activation in a coroutine leaves coroutines to the collector, which tells any later test.
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KINDS = {
    **{
        kind: importlib.import_module(f"exam.hard_cases.{kind}").CASES
        for _, kind, _ in pkgutil.iter_modules(hard_cases.__path__)
    },
    "default suite": default_suite.ALL,
}


def _by_hand(case: HardCase) -> None:
    properties.follows_the_hand_written_model(case)
    if case.static:
        properties.is_read_off_the_source(case)


CASES = [
    Case(
        f"hard: {kind.replace('_', ' ')}",
        name,
        case.model,
        lambda case=case: case.inputs,
        case.options,
        case.edits,
        by_hand=lambda case=case: _by_hand(case),
    )
    for kind, cases in KINDS.items()
    for name, case in cases.items()
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_hard_case(case):
    sit(case)
