"""Traces that share one patch of torch.nn.Module are those that patch it themselves, and leave nothing behind."""

from __future__ import annotations

import pytest
from torch import fx, nn

from dcsurgery.capture.module_patches import patched_once


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 2), nn.SiLU())
        self.scale = nn.Parameter(nn.Linear(2, 2).weight.detach()[0])

    def forward(self, x):
        return self.inner(x) * self.scale


def test_traces_are_the_same_and_the_class_is_patched_once_for_all():
    before = nn.Module.__call__, nn.Module.__getattr__
    expected = str(fx.symbolic_trace(Nested()).graph)
    with patched_once():
        during = nn.Module.__call__, nn.Module.__getattr__
        assert [str(fx.symbolic_trace(Nested()).graph) for _ in range(2)] == [expected] * 2
        assert (nn.Module.__call__, nn.Module.__getattr__) == during != before
    assert (nn.Module.__call__, nn.Module.__getattr__) == before
    assert str(fx.symbolic_trace(Nested()).graph) == expected


def test_everything_is_put_back_after_an_error():
    before = nn.Module.__call__, fx._symbolic_trace._Patcher
    with pytest.raises(ValueError, match="stop"), patched_once():
        raise ValueError("stop")
    assert (nn.Module.__call__, fx._symbolic_trace._Patcher) == before
