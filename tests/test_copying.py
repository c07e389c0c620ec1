"""Copies of models: equal, apart, and made in time that grows with the model."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import nn

from dcsurgery.collection import uncollected
from dcsurgery.copying import copied


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("whole", torch.arange(6.0))
        self.register_buffer("part", self.whole[2:4])
        self.last = torch.ones(2, requires_grad=True) * 2  # what a run has left


def storages(model):
    return {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers(), model.last]}


def test_a_copy_is_equal_and_shares_nothing_with_its_original():
    model = Tied()
    other = copied(model)
    assert not storages(model) & storages(other)
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)
    assert other.second.weight is other.first.weight
    assert other.part.untyped_storage().data_ptr() == other.whole.untyped_storage().data_ptr()
    assert torch.equal(other.last, model.last)


def test_a_copy_is_what_deepcopy_makes_of_everything_else():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh()).eval()
    model[0].weight.requires_grad_(False)
    model[0].weight.note = "not copied by deepcopy either"
    model[0].register_forward_hook(lambda *_: None)
    model[1].kept = [1, {"a": torch.ones(1)}]
    made, reference = copied(model), copy.deepcopy(model)
    for mine, theirs in zip(made.modules(), reference.modules(), strict=True):
        assert vars(mine).keys() == vars(theirs).keys()
        assert mine.training == theirs.training
        assert all(type(vars(mine)[name]) is type(value) for name, value in vars(theirs).items())
    assert made[0].weight.requires_grad is False
    assert not hasattr(made[0].weight, "note")
    assert len(made[0]._forward_hooks) == 1
    made[1]._forward_hooks[0] = None
    made[1].kept[1]["a"].zero_()
    assert not model[1]._forward_hooks
    assert model[1].kept[1]["a"] == 1


@pytest.mark.parametrize("was_on", [True, False])
def test_garbage_collection_is_left_as_it_was(was_on):
    before = gc.isenabled()
    (gc.enable if was_on else gc.disable)()
    try:
        with pytest.raises(RuntimeError), uncollected():
            assert not gc.isenabled()
            raise RuntimeError
        assert gc.isenabled() is was_on
    finally:
        (gc.enable if before else gc.disable)()
