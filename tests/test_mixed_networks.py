"""A few of the exam's random networks, and every way of writing an activation alone, in the default suite."""

import pytest
from exam.networks import judge_network
from hypothesis import HealthCheck, Phase, given, seed, settings
from models.random_networks import DESCRIPTIONS, NORMS, Attention, Description, Held, Plain, Recurrent, reference
from models.random_networks import build as built
from models.ways import WAYS

import dcsurgery as dcs


def failures(description):
    return [f"{j.name}: {j.reason}" for j in judge_network(description).judgements if j.status == "fail"]


@seed(2026)
@settings(
    max_examples=25,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow],
)
@given(DESCRIPTIONS)
def test_a_random_network_follows_its_reference_and_the_value_witness(description):
    assert failures(description) == []


@pytest.mark.parametrize(("number", "way"), list(enumerate(WAYS)), ids=list(WAYS))
def test_every_way_of_writing_is_edited_in_some_blocks_and_left_in_others(number, way):
    trunk = (Plain(way, NORMS[number % len(NORMS)], residual=True), Plain(way))
    description = Description(trunk, inputs="two", outputs="forces", selection="include", chosen=1, seed=number)
    assert failures(description) == []


@pytest.mark.parametrize("cell", ["gru", "rnn", "lstm", "by hand"])
def test_every_cell_is_opened(cell):
    assert failures(Description((Recurrent(cell),), (Recurrent(cell),), training=True, rescale=10.0)) == []


def test_the_reference_tells_a_wrong_edit():
    """What the judgement compares with is no copy of what it judges."""
    description = Description((Plain("Functional"), Held((Attention("Method"),))))
    network, inputs = built(description)
    edited = dcs.transform(network, example_inputs=inputs, exclude="blocks.0").model
    assert not edited(*inputs).isclose(reference(description, network, *inputs)[0]).any()


def test_modules_out_of_torchs_sight_keep_their_statistics():
    """A hidden batch norm in train mode is not moved by the runs that look at the model."""
    description = Description((Held((Plain("Functional", "batch"),)),), training=True)
    network, inputs = built(description)
    (hidden,) = network.blocks[0].block.kept["blocks"]
    before = hidden.norm.running_mean.clone()
    dcs.transform(network, irelu=False, example_inputs=inputs, allow_empty=True)
    assert hidden.norm.running_mean.equal(before)
    assert int(hidden.norm.num_batches_tracked) == 0
