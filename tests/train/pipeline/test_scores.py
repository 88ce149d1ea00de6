"""What a pipeline's scores are said to show."""

from types import SimpleNamespace

import pytest

from train.pipeline.record import RECORD, PipelineRecord
from train.pipeline.scores import claims, read_scores
from train.scoring.score import Score
from train.scoring.scoreboard import write_scores
from train.system.errors import UserError

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


DAMAGED = ("", "\0", "5", "[]", '{"scores": 5}', '{"scores": {"text": 3}}', "[" * 5000)


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_scores_and_records_are_one_line(tmp_path, content):
    for name in ("evaluation-test.json", RECORD):
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=r"^cannot read .*evaluation-test\.json: "):
        read_scores(tmp_path, "test")
    with pytest.raises(UserError, match=r"^cannot read .*pipeline.json: remove it to rerun all"):
        PipelineRecord(SimpleNamespace(run_dir=str(tmp_path)), overwrite=False)


def test_scores_whose_picture_cannot_be_written_are_not_there(tmp_path):
    scores = {"base": Score(1.0, 1.0, 1.0, 1)}
    (tmp_path / "evaluation-test.png").mkdir()
    with pytest.raises(UserError, match=r"^cannot write .*evaluation-test: "):
        write_scores(tmp_path, "evaluation-test", dict.fromkeys(("text", "code"), scores))
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation-test.png"]
