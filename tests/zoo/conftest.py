"""Settings of the zoo's tests."""

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """The models here are tiny: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
