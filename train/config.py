"""Every setting of a run, its type and its one default; YAML files and overrides fill it."""

import dataclasses
import math
from typing import Literal

from mmrec_jax.config import ModelConfig

Domain = Literal["text", "code", "mixed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What `python -m train.prepare` reads and how it splits it.

    Attributes:
        text: files and folders whose documents are text; folders are read at any depth.
        code: files and folders whose documents are code.
        python_library: adds the running Python's standard library: sources as code, documentation
            topics and docstrings as text.
        validation_fraction: share of the source files kept for validation, in (0, 1).
        max_document_bytes: longer documents are skipped, and counted.
    """

    text: list[str] = dataclasses.field(default_factory=list)
    code: list[str] = dataclasses.field(default_factory=list)
    python_library: bool = False
    validation_fraction: float = 0.05
    max_document_bytes: int = 1_000_000

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must lie in (0, 1), not {self.validation_fraction}"
            )
        if self.max_document_bytes < 1:
            raise ValueError(
                f"max_document_bytes must be at least 1, not {self.max_document_bytes}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedule (docs/model.md sections 5.2 to 5.4).

    Attributes:
        learning_rate: the rate at the end of the warm-up.
        weight_decay: decoupled decay, applied to every parameter that has a gradient.
        beta1, beta2, eps: AdamW's own.
        max_grad_norm: the gradient's global norm is clipped to this.
        warmup_steps: optimizer steps W of the linear warm-up from a tenth of the rate.
    """

    learning_rate: float = 3e-4
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    warmup_steps: int = 5000

    def __post_init__(self) -> None:
        for key in ("learning_rate", "eps", "max_grad_norm"):
            if not 0 < getattr(self, key) < math.inf:
                raise ValueError(f"{key} must be above 0 and finite, not {getattr(self, key)}")
        for key in ("beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key} must lie in [0, 1), not {getattr(self, key)}")
        for key in ("weight_decay", "warmup_steps"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ValueError(f"{key} must be at least 0, finite, not {getattr(self, key)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The length and the rhythm of a training run.

    Attributes:
        domain: the prepared token files that are trained on.
        steps: optimizer steps N in all.
        batch_size: sequences in a micro-batch.
        sequence_length: tokens in a sequence.
        chunk_size: tokens after which the long-term memory is written and read anew (section
            3.1); null runs each sequence whole, with a memory of zeros.
        accumulation: micro-batches a step.
        remat: recompute each block's activations in the backward pass, for memory.
        log_every: steps between lines of metrics.jsonl.
        validate_every: steps between validations.
        validation_batches: batches of each domain read by a validation; 0 reads the whole split.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: newest Orbax states that are kept; .pt files are all kept.
    """

    domain: Domain = "mixed"
    steps: int = 100_000
    batch_size: int = 8
    sequence_length: int = 2048
    chunk_size: int | None = None
    accumulation: int = 8
    remat: bool = False
    log_every: int = 10
    validate_every: int = 1000
    validation_batches: int = 8
    checkpoint_every: int = 10_000
    keep_checkpoints: int = 3

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "validation_batches" else 1
            if type(value) is int and value < least:
                raise ValueError(f"{field.name} must be at least {least}, not {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run.

    Attributes:
        data_dir: where `train.prepare` writes and training reads.
        run_dir: where training writes, one folder a stage (`checkpoints_base`, ...).
        seed: of the splits, the initial values, the order of the data and dropout.
        prompts: what the samples at the end of a run go on from.
    """

    data_dir: str
    run_dir: str
    seed: int = 0
    prompts: list[str] = dataclasses.field(default_factory=list)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    prepare: PrepareConfig = dataclasses.field(default_factory=PrepareConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        for key in ("data_dir", "run_dir"):
            if not getattr(self, key):
                raise ValueError(f"{key} is empty: name a folder")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in [0, 2**32), not {self.seed}")
        warmup, steps = self.optimizer.warmup_steps, self.training.steps
        if warmup >= steps:
            raise ValueError(
                f"optimizer.warmup_steps must be below training.steps = {steps}, not {warmup}"
            )
