"""The exam on what PyTorch is tested with: every nn module, every activation, norm and pointwise operator."""

import pytest

from exam.scoring import sit
from exam.torch_tables import module_cases, operator_cases

pytestmark = [
    pytest.mark.exam,
    # What torch says of its own samples.
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True, but:UserWarning"),
    pytest.mark.filterwarnings("ignore:linear_cross_entropy:UserWarning"),
]


@pytest.mark.parametrize("case", list(module_cases()), ids=lambda case: case.name)
def test_torch_module(case):
    sit(case)


@pytest.mark.parametrize("case", list(operator_cases()), ids=lambda case: case.name)
def test_torch_operator(case):
    sit(case)
