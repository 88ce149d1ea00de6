"""How much of a pipeline is ahead of each stage."""

import itertools

import pytest
from helpers.paths import ROOT

from train.pipeline.ahead import later_tokens, operations_per_token
from train.settings.cli import parse_command
from train.settings.pipeline_config import PipelineConfig
from train.stages.all_stages import STAGES


@pytest.fixture(scope="module")
def pipeline():
    config = ["--config", str(ROOT / "configs" / "demo.yaml")]
    return parse_command(config, "", PipelineConfig)[0]


def test_what_is_ahead_of_a_stage_is_what_the_next_takes_and_what_is_ahead_of_that(pipeline):
    work = {name: operations_per_token(pipeline, name) for name in STAGES}
    ahead = {name: later_tokens(pipeline, name) * work[name] for name in STAGES}
    for name, following in itertools.pairwise(STAGES):
        tokens = pipeline.stage(following).training.tokens
        assert ahead[name] == pytest.approx(tokens * work[following] + ahead[following])
    assert ahead["continued"] == 0 and min(work.values()) > 0


def test_a_frozen_part_costs_less(pipeline):
    work = {name: operations_per_token(pipeline, name) for name in STAGES}
    parameters = 141_536
    # Forward, the same again for the backward pass, whose products are two.
    assert work["base"] == work["continued"] == 4 * parameters
    assert work["text"] == 4 * parameters - 65_536  # its embedding has no gradient of its own
    with_both = 4 * (354_912 - 65_536)  # all parts trained but the table of tokens
    assert 2 * 75_968 < work["fusion"] < with_both
