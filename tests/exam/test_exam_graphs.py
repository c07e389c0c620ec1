"""The exam on PyTorch Geometric's layers, norms and models."""

import pytest

from exam.graph_models import graph_cases
from exam.scoring import sit

pytestmark = [
    pytest.mark.exam,
    # Both are about PyTorch's sparse matrices, inside PyG's GraphUNet.
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]


@pytest.mark.parametrize("case", list(graph_cases()), ids=lambda case: case.name)
def test_graph_model(case):
    sit(case)
