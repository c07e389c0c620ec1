"""A model whose weights are loaded next is built without drawing them, and nothing else differs."""

import threading

import pytest
import torch
from torch import nn

from dcsurgery import zoo
from dcsurgery.zoo import registry
from dcsurgery.zoo.undrawn import undrawn


@pytest.mark.parametrize("name", [entry.name for entry in registry.available()])
def test_loaded_weights_make_it_the_same_model(name):
    torch.manual_seed(0)
    drawn = zoo.build(name)
    loaded = registry.build_to_load(zoo.config_of(drawn))
    loaded.load_state_dict(drawn.state_dict(), strict=True)
    assert [type(m) for m in loaded.modules()] == [type(m) for m in drawn.modules()]
    for (key, mine), (other, theirs) in zip(loaded.named_parameters(), drawn.named_parameters(), strict=True):
        assert key == other
        assert mine.equal(theirs)
        assert mine.requires_grad == theirs.requires_grad
    for mine, theirs in zip(loaded.buffers(), drawn.buffers(), strict=True):
        assert mine.equal(theirs)


def test_parameters_stay_zero_and_other_tables_are_drawn():
    table = torch.empty(50)
    with undrawn():
        linear = nn.Linear(4, 4)
        nn.init.normal_(table)
    assert not linear.weight.any()
    assert table.std() > 0.5


def test_afterwards_and_in_other_threads_weights_are_drawn():
    made = []
    with undrawn():
        thread = threading.Thread(target=lambda: made.append(nn.Linear(4, 4)))
        thread.start()
        thread.join()
    made.append(nn.Linear(4, 4))
    assert all(linear.weight.any() for linear in made)


def test_an_error_inside_puts_torchs_functions_back():
    before = nn.init.orthogonal_
    with pytest.raises(ZeroDivisionError), undrawn():
        raise ZeroDivisionError
    assert nn.init.orthogonal_ is before


def test_two_threads_at_once_leave_torchs_functions_as_they_were():
    before, inside, done = nn.init.orthogonal_, threading.Event(), threading.Event()

    def other():
        inside.wait()
        with undrawn():
            done.wait()

    thread = threading.Thread(target=other)
    thread.start()
    with undrawn():
        inside.set()
        thread.join(0.2)  # long enough to come in, if it could
    done.set()
    thread.join()
    assert nn.init.orthogonal_ is before
