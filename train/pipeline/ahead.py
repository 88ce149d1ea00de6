"""How much of a pipeline's training is ahead, so that a stage can say when all will be done."""

from train.run.header import counts_by_part
from train.settings.pipeline_config import PipelineConfig
from train.stages.all_stages import STAGES

_EXPERTS = ("text_expert", "code_expert")


def later_tokens(pipeline: PipelineConfig, name: str) -> float:
    """What the stages after a stage take, as that many tokens of the stage itself."""
    names = list(STAGES)
    later = names[names.index(name) + 1 :]
    work = sum(
        pipeline.stage(each).training.tokens * operations_per_token(pipeline, each)
        for each in later
    )
    return work / operations_per_token(pipeline, name)


def operations_per_token(pipeline: PipelineConfig, name: str) -> int:
    """About how many multiplications a stage makes for a token, forward and backward."""
    config = pipeline.stage(name)
    counts, trained = counts_by_part(config, STAGES[name](config))
    has_gradient = counts
    if "lm_head" in counts:  # and so its embedding is a table, in which tokens are looked up
        needed = set(_EXPERTS) if trained.pop("embedding", 0) else set(trained)
        counts = {part: count for part, count in counts.items() if part != "embedding"}
        has_gradient = {
            part: count for part, count in counts.items() if part not in _EXPERTS or part in needed
        }
    again = config.training.remat != "elementwise"  # then the products are computed twice
    return sum(counts.values()) + (1 + again) * sum(has_gradient.values()) + sum(trained.values())
