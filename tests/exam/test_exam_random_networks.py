"""The exam on 2 000 random networks: none may disagree with its reference or with the value witness."""

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from models.random_networks import DESCRIPTIONS

from exam.networks import judge_network
from exam.scoring import SCORES

pytestmark = pytest.mark.exam

CHUNKS, EACH = 20, 100


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_networks(chunk):
    verdicts = []

    @seed(chunk)
    @settings(
        max_examples=EACH,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(DESCRIPTIONS)
    def judged(description):
        verdict = judge_network(description)
        verdicts.append(verdict)
        assert not verdict.failures, "\n".join(f"{j.name}: {j.reason}" for j in verdict.failures)

    try:
        judged()
    finally:
        for verdict in verdicts[:EACH]:  # what follows a failure is its shrinking
            SCORES.add(verdict)
    assert len({verdict.case.name for verdict in verdicts}) > 0.95 * EACH
