"""The settings of a pipeline: those of every stage in one file."""

import dataclasses

from mmrec_jax.config import ModelConfig
from train.settings.config import (
    Config,
    EvaluateConfig,
    ExpertConfig,
    FusionConfig,
    MeshConfig,
    OptimizerConfig,
    TrainingConfig,
)
from train.settings.prepare_config import PrepareConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of a pipeline; the sections are those of `Config`."""

    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """The training stages of a pipeline.

    Attributes:
        base: trains the base, on mixed data.
        text: trains the text expert from the base; its training.domain is "text".
        code: trains the code expert from the base; its training.domain is "code".
        fusion: joins both experts, on mixed data.
        continued: the control to compare with, which trains the base further on mixed data, on
            as many tokens as text, code and fusion together.
    """

    base: StageConfig
    text: StageConfig
    code: StageConfig
    fusion: StageConfig
    continued: StageConfig

    def __post_init__(self) -> None:
        stages: dict[str, StageConfig] = vars(self)
        for name, stage in stages.items():
            training, wanted = stage.training, name if name in ("text", "code") else "mixed"
            if training.domain != wanted:
                raise ValueError(f"{name}.training.domain must be {wanted}, not {training.domain}")
            if training.start_from is not None:
                raise ValueError(f"{name}.training.start_from is the pipeline's to say: remove it")
            for key in ("packing", "sequence_length", "chunk_size", "precision"):
                ours, bases = getattr(training, key), getattr(self.base.training, key)
                if ours != bases:
                    raise ValueError(
                        f"{name}.training.{key} must be the base's, {bases}, not {ours}: the "
                        "stages are compared"
                    )
        parts = sum(stages[name].training.tokens for name in ("text", "code", "fusion"))
        tokens = self.continued.training.tokens
        if tokens != parts:
            per_step = tokens // self.continued.training.steps
            steps, rest = divmod(parts, per_step)
            advice = (
                f"no number of steps of {per_step:,} tokens has as many: change its batch_size or "
                "accumulation, or the others' steps"
                if rest
                else f"set its steps to {steps}"
            )
            raise ValueError(
                "continued.training must have as many tokens as text, code and fusion together, "
                f"{parts:,}, not {tokens:,}: {advice}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """All stages of one pipeline; the sections other than `stages` are those of `Config`.

    Attributes:
        data_dir: where the preparation writes and training reads.
        run_dir: where training writes, one folder per stage (`checkpoints_base`, ...).
        seed: for the initial values, the order of the data, and dropout.
        prompts: texts that the final report shows continuations of.
        stages: the optimizer and training settings of every stage.
    """

    data_dir: str
    run_dir: str
    seed: int = 0
    prompts: list[str] = dataclasses.field(default_factory=list)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    prepare: PrepareConfig = dataclasses.field(default_factory=PrepareConfig)
    stages: StagesConfig
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    expert: ExpertConfig = dataclasses.field(default_factory=ExpertConfig)
    fusion: FusionConfig = dataclasses.field(default_factory=FusionConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        for key in ("text_expert", "code_expert"):
            if getattr(self.fusion, key) is not None:
                raise ValueError(f"fusion.{key} is the pipeline's to say: remove it")
        if self.evaluate.checkpoints:
            raise ValueError("evaluate.checkpoints is the pipeline's to say: remove it")
        if not self.expert.freeze_embedding and self.fusion.embedding is None:
            raise ValueError(
                "fusion.embedding must be base, text or code where both experts train an embedding "
                "of their own (expert.freeze_embedding: false)"
            )
        for field in dataclasses.fields(StagesConfig):
            try:
                self.stage(field.name)
            except ValueError as error:
                place = f"stages.{field.name}." if str(error).startswith("optimizer.") else ""
                raise ValueError(f"{place}{error}") from None

    def stage(self, name: str) -> Config:
        """The config that one stage's own command would have."""
        stage: StageConfig = getattr(self.stages, name)
        shared = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(Config)
            if hasattr(self, field.name)
        }
        return Config(**shared, optimizer=stage.optimizer, training=stage.training)
