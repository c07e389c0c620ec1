"""The exam on model families of the transformers library."""

import pytest

from exam.scoring import sit
from exam.transformers_models import transformers_cases

pytestmark = [
    pytest.mark.exam,
    # The new name, activation_checkpointing_enable, is younger than the oldest transformers that the exam runs with.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
]


@pytest.mark.parametrize("case", list(transformers_cases()), ids=lambda case: case.name)
def test_transformers_model(case):
    sit(case)
