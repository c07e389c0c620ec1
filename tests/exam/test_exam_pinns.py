"""The exam on DeepXDE's networks."""

import pytest

from exam.pinn_models import pinn_cases
from exam.scoring import sit

pytestmark = [pytest.mark.exam]


@pytest.mark.parametrize("case", list(pinn_cases()), ids=lambda case: case.name)
def test_pinn(case):
    sit(case)
