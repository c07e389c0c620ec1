"""What the exam's hard cases found stays found: those that once failed are part of the default suite."""

import pytest
from models import properties
from models.hard_cases import FINDINGS


@pytest.mark.parametrize("name", FINDINGS)
class TestFindings:
    def test_computes_what_the_hand_written_model_computes(self, name):
        properties.follows_the_hand_written_model(name)

    def test_leaves_the_original_alone(self, name):
        properties.leaves_the_original_alone(name)

    def test_survives_copies_and_files(self, name):
        properties.survives_copies_and_files(name)

    def test_the_plan_edits_another_instance_and_back(self, name):
        properties.replays_on_other_weights(name)

    def test_an_empty_plan_is_the_identity(self, name):
        properties.empty_plan_is_the_identity(name)
