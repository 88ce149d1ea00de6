"""What a pipeline's scores are said to show."""

import pytest

from train.pipeline.scores import claims
from train.scoring.score import Score

NAMES = ("base", "continued base", "text expert", "code expert", "fusion", "fusion at step 0")


def found(**losses):
    """Claims about models that all have a loss of 2, but for those given on every domain."""
    scores = {name: Score(losses.get(name.replace(" ", "_"), 2.0), 1, 1, 1) for name in NAMES}
    return claims(dict.fromkeys(("text", "code", "mixed"), scores))


@pytest.mark.parametrize(
    ("losses", "name", "holds"),
    [
        ({"fusion": 1.9}, "fusion beats base on mixed", True),
        ({"fusion": 2.1}, "fusion does not beat base on mixed", False),
        ({}, "text expert does not beat base on text", False),
        ({"code_expert": 1.9}, "code expert beats base on code", True),
        ({"fusion_at_step_0": 2.01}, "is at most 0.02 above the code expert, the better", True),
        ({"fusion_at_step_0": 2.03}, "is more than 0.02 above the code expert, the better", False),
    ],
)
def test_a_claim_that_fails_is_a_plain_sentence(losses, name, holds):
    sentences = {(claim.text if claim.holds else claim.denial): claim for claim in found(**losses)}
    (said,) = [sentence for sentence in sentences if name in sentence]
    assert sentences[said].holds == holds
