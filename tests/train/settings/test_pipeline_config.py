"""What the stages of one pipeline must have in common."""

import pytest

from train.settings import cli
from train.settings.pipeline_config import PipelineConfig
from train.system.errors import UserError

STAGE = (
    "{{optimizer: {{warmup_steps: 1}}, "
    "training: {{domain: {}, steps: {}, batch_size: 2, sequence_length: 8, accumulation: {}}}}}"
)


def parse(tmp_path, steps, accumulation=1):
    """A config whose parts have 4, 3 and 2 steps of 16 tokens, and the control these."""
    stages = {
        "base": ("mixed", 9, 1),
        "text": ("text", 4, 1),
        "code": ("code", 3, 1),
        "fusion": ("mixed", 2, 1),
        "continued": ("mixed", steps, accumulation),
    }
    lines = [f"  {name}: {STAGE.format(*values)}" for name, values in stages.items()]
    path = tmp_path / "p.yaml"
    path.write_text("\n".join(["data_dir: a", "run_dir: b", "stages:", *lines]) + "\n")
    return cli.parse_command(["--config", str(path)], "", PipelineConfig)[0]


@pytest.mark.parametrize(
    ("steps", "accumulation", "advice"),
    [
        (8, 1, "set its steps to 9$"),
        (9, 3, "set its steps to 3$"),
        (4, 2, "no number of steps of 32 tokens has as many: change its batch_size or accum"),
    ],
)
def test_the_controls_steps_are_said(tmp_path, steps, accumulation, advice):
    message = f"p.yaml line 8: stages.continued.training must have as many .* 144, not .*: {advice}"
    with pytest.raises(UserError, match=message):
        parse(tmp_path, steps, accumulation)
    right = 144 // 16 // accumulation
    if right * 16 * accumulation == 144:
        assert parse(tmp_path, right, accumulation).stages.continued.training.steps == right
