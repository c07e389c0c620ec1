"""The exam on the zoo's own models: the fourteen of the coverage table."""

import pytest
import torch
from torch import nn

from dcsurgery.zoo.coverage import CASES as COVERED
from exam.case import Case
from exam.scoring import sit

pytestmark = [
    pytest.mark.exam,
    # Both are about PyTorch's sparse matrices, inside PyG's GraphUNet.
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]

DOUBLE = nn.Linear(1, 1).double()  # what the inputs take their dtype from

CASES = [
    Case("zoo", covered.name, covered.build, lambda covered=covered: covered.inputs(DOUBLE), {"scope": covered.scope})
    for covered in COVERED
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_zoo_model(case):
    assert torch.get_default_dtype() == torch.float32
    sit(case)
