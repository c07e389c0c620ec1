"""The exam on what PyTorch is tested with: every nn module, every activation, norm and pointwise operator."""

import pytest

from exam.scoring import sit
from exam.torch_tables import module_cases, operator_cases

pytestmark = [
    pytest.mark.exam,
]


@pytest.mark.parametrize("case", list(module_cases()), ids=lambda case: case.name)
def test_torch_module(case):
    sit(case)


@pytest.mark.parametrize("case", list(operator_cases()), ids=lambda case: case.name)
def test_torch_operator(case):
    sit(case)
