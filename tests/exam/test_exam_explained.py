"""The list of cases that cannot pass names cases of the exam."""

import itertools

import pytest

from exam.explained import EXPLAINED
from exam.graph_models import graph_cases
from exam.pinn_models import pinn_cases
from exam.test_exam_hard_cases import CASES as HARD
from exam.torch_tables import module_cases, operator_cases
from exam.transformers_models import transformers_cases


@pytest.mark.exam
def test_every_explained_case_exists():
    cases = [
        *itertools.chain(module_cases(), operator_cases(), graph_cases(), pinn_cases(), transformers_cases()),
        *HARD,
    ]
    titles = [case.title for case in cases]
    assert len(titles) == len(set(titles))
    assert set(EXPLAINED) <= set(titles)
