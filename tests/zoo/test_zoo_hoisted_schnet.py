"""The SchNet whose edges are an input is PyG's SchNet, and every capture of a whole model takes it."""

import pytest
import torch
from torch import fx

from dcsurgery import zoo
from dcsurgery.zoo.ocp.graph import radius_graph


def molecules(sizes=(5, 7), seed=0):
    generator = torch.Generator().manual_seed(seed)
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    z = torch.randint(1, 9, (sum(sizes),), generator=generator)
    pos = 2 * torch.randn(sum(sizes), 3, generator=generator, dtype=torch.float64)
    return z, pos, batch, radius_graph(pos, 5.0, batch), torch.tensor(sizes)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    pyg = zoo.build("schnet", "small").double()
    hoisted = zoo.build("schnet-hoisted", "small").double()
    hoisted.load_state_dict(pyg.state_dict(), strict=True)
    return pyg, hoisted


def test_keys_energies_and_forces_are_those_of_pyg(pair):
    pyg, hoisted = pair
    assert list(hoisted.state_dict()) == list(pyg.state_dict())
    z, pos, batch, edge_index, natoms = molecules()
    one, two = pos.clone().requires_grad_(), pos.clone().requires_grad_()
    theirs, mine = pyg(z, one, batch), hoisted(z, two, batch, edge_index, natoms)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(mine.sum(), two)[0], torch.autograd.grad(theirs.sum(), one)[0], rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize(
    "capture",
    [
        torch.jit.script,
        lambda model: torch.jit.trace(model, molecules()),
        fx.symbolic_trace,
        lambda model: torch.export.export(
            model,
            molecules(),
            dynamic_shapes=(
                {0: torch.export.Dim.DYNAMIC},
                {0: torch.export.Dim.DYNAMIC},
                {0: torch.export.Dim.DYNAMIC},
                {1: torch.export.Dim.DYNAMIC},
                {0: torch.export.Dim.DYNAMIC},
            ),
        ).module(),
    ],
    ids=["script", "trace", "fx", "export"],
)
def test_a_capture_of_the_whole_model_is_right_on_other_sizes(pair, capture):
    _, hoisted = pair
    captured = capture(hoisted)
    other = molecules((3, 4, 9), seed=1)
    torch.testing.assert_close(captured(*other), hoisted(*other))
