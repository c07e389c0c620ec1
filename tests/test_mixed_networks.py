"""A few of the exam's random networks, and every way of writing an activation alone, in the default suite."""

import pytest
from exam.networks import judge_network
from hypothesis import HealthCheck, Phase, given, seed, settings
from models.random_networks import (
    DESCRIPTIONS,
    NORMS,
    Attention,
    Branches,
    Description,
    Held,
    Plain,
    Recurrent,
    Repeated,
    reference,
)
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


_ONCE_WRONG = {
    "forces far smaller than the energy": Description(
        (Attention("MappedFunction"), Plain("InlineShiftedSoftplus"), Recurrent("lstm")),
        (Branches((Plain("Attribute"),), (Recurrent("gru"),), "multiply"),),
        outputs="forces",
    ),
    "derivatives that cancel": Description(
        (Recurrent("gru"), Held((Recurrent("gru"), Plain("Attribute", "rms")))), edits="activations"
    ),
    "rounding that grows": Description(
        (Recurrent("gru"),),
        (Held((Attention("Attribute"), Plain("Attribute", "batch"))),),
        training=True,
        selection="include",
    ),
    "a view changed in place in a checkpoint": Description(
        (Recurrent("gru"), Repeated(Plain("InplaceView"), checkpointed=True)), selection="include"
    ),
    "third derivatives of a norm of rows that are nearly the same": Description(
        (Attention("Attribute"), Plain("Attribute", "functional instance")),
        inputs="dict",
        edits="activations",
        seed=55,
    ),
    "statistics in a checkpoint": Description(
        (Attention("Closure"), Repeated(Plain("Attribute", "batch"), checkpointed=True)), inputs="two", seed=1
    ),
    "a checkpoint of the trunk that runs again for forces": Description(
        (Plain("Attribute"), Repeated(Recurrent("gru"), checkpointed=True)),
        (Plain("Attribute"),),
        outputs="forces",
        selection="output-blocks",
    ),
}


@pytest.mark.parametrize("what", list(_ONCE_WRONG))
def test_networks_that_once_were_edited_or_judged_wrongly(what):
    assert failures(_ONCE_WRONG[what]) == []


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
