"""Of a random network and its edited self, the diff is the plan; of a network and itself, there is none."""

from __future__ import annotations

import random

import pytest
import torch
from test_random_networks import NORMS, WAYS, WIDTH, Network, Spec

import dcsurgery as dcs

STATE = {"replace": "replaced", "delete": "deleted"}


def random_network(seed):
    """Return a network and example inputs, or None for a static comparison, from one seed."""
    rng = random.Random(seed)
    specs = tuple(Spec(rng.choice(WAYS), rng.choice(NORMS), rng.random() < 0.5) for _ in range(rng.randint(1, 4)))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(specs).double().eval()
        inputs = (torch.randn(4, WIDTH, dtype=torch.float64),)
    return network, inputs if rng.random() < 0.7 else None


def disagreement(seed):
    """Return what a diff says that the plan does not, or the other way round."""
    network, inputs = random_network(seed)
    plan = dcs.plan(network, example_inputs=inputs, allow_empty=True)
    edited = dcs.apply(network, plan).model
    own = [str(change) for change in dcs.diff(network, network, inputs)]
    found = sorted((change.name, change.state) for change in dcs.diff(network, edited, inputs))
    planned = sorted((edit.site, STATE[edit.action]) for edit in plan.edits)
    return own, [entry for entry in found if entry not in planned], [entry for entry in planned if entry not in found]


@pytest.mark.parametrize("seed", range(20))
def test_the_diff_of_a_random_network_is_its_plan(seed):
    assert disagreement(seed) == ([], [], [])


@pytest.mark.exam
def test_the_diffs_of_500_random_networks_are_their_plans():
    wrong = {seed: found for seed in range(500) if (found := disagreement(seed)) != ([], [], [])}
    assert not wrong
