"""Every setting of a run, its type and its one default; YAML files and overrides fill it."""

import dataclasses
import math
import re
from typing import Any, Literal

from mmrec_jax.block_rates import block_rates
from mmrec_jax.config import ModelConfig, Remat
from train.settings.prepare_config import PrepareConfig

Domain = Literal["text", "code", "mixed"]
_MOST_LAYERS = 10_000
_MOST_STEPS = 10_000_000
"""As many as the bridge computes a schedule for; and micro-batches in one of them."""

_MOST_DEVICES = 100_000

FusionPart = Literal["embedding", "text_expert", "code_expert", "fusion", "final_norm", "lm_head"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedule (docs/model.md sections 5.2 to 5.4).

    Attributes:
        learning_rate: the rate at the end of the warm-up.
        min_learning_rate: the rate that the cosine after it ends at.
        weight_decay: decoupled decay, applied to every parameter that has a gradient.
        beta1, beta2, eps: AdamW's own.
        max_grad_norm: the gradient's global norm is clipped to this.
        warmup_steps: optimizer steps W of the linear warm-up.
        warmup_start: the share of the rate that the warm-up starts from.
    """

    learning_rate: float = 3e-4
    min_learning_rate: float = 0.0
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    warmup_steps: int = 5000
    warmup_start: float = 0.1

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
        if not 0 <= self.min_learning_rate <= self.learning_rate:
            raise ValueError(
                f"min_learning_rate must lie in [0, learning_rate = {self.learning_rate}], not "
                f"{self.min_learning_rate}"
            )
        if not 0 < self.warmup_start <= 1:
            raise ValueError(f"warmup_start must lie in (0, 1], not {self.warmup_start}")


def check_seed(seed: int) -> None:
    """Raises ValueError if the seed cannot make a random key."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie in [0, 2**32), not {seed}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long a run trains, on which batches, and how often it logs, validates and saves.

    Attributes:
        start_from: run or checkpoint file whose weights a base run starts with, at step 0; null
            starts with random weights.
        domain: the documents to train on; "mixed" is text and code.
        mix: in domain mixed, the shares of text and code in every micro-batch, such as {text: 0.7,
            code: 0.3}; null takes them in the proportion that the data have.
        packing: "contiguous" joins all documents and cuts them into sequences without padding;
            "documents" puts only whole documents into a sequence and fills the rest of it with
            padding that is not learned from. Only documents longer than a sequence are cut.
        steps: optimizer steps in all (N).
        batch_size: sequences in a micro-batch, over all processes.
        sequence_length: tokens in a sequence.
        chunk_size: write the long-term memory after so many tokens, and read it from then on
            (section 3.1); null runs each sequence whole, with a memory of zeros, if it has at most
            32,768 tokens.
        accumulation: micro-batches per optimizer step.
        remat: what the backward pass computes again to save memory: only "elementwise" operations;
            matrix "products" too; or whole "layers". Each needs less memory than the one before.
        precision: "bfloat16" rounds the operands of the linear layers' matrix products; everything
            else stays float32.
        log_every: steps between two lines of metrics.jsonl.
        validate_every: steps between validations.
        validation_batches: batches per domain in a validation; 0 takes the whole split.
        sample_every: steps between samples, one for each of `prompts`, or one without a prompt;
            null samples only for the report.
        tracker: also sends the metrics to "trackio" or "wandb", which must be installed.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of the newest Orbax states to keep.
        keep_exports: how many of the newest .pt files to keep; null keeps all.
        hang_seconds: the run ends if no micro-batch is done for so many seconds.
    """

    start_from: str | None = None
    domain: Domain = "mixed"
    mix: dict[str, float] | None = None
    packing: Literal["contiguous", "documents"] = "contiguous"
    steps: int = 100_000
    batch_size: int = 8
    sequence_length: int = 2048
    chunk_size: int | None = None
    accumulation: int = 8
    remat: Remat = "products"
    precision: Literal["float32", "bfloat16"] = "float32"
    log_every: int = 10
    validate_every: int = 1000
    validation_batches: int = 8
    sample_every: int | None = None
    tracker: Literal["none", "trackio", "wandb"] = "none"
    checkpoint_every: int = 10_000
    keep_checkpoints: int = 3
    keep_exports: int | None = None
    hang_seconds: int = 1800

    @property
    def tokens(self) -> int:
        """The number of tokens that the run trains on, including padding."""
        return self.steps * self.accumulation * self.batch_size * self.sequence_length

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "validation_batches" else 1
            if type(value) is int and value < least:
                raise ValueError(f"{field.name} must be at least {least}, not {value}")
            if field.name in ("steps", "accumulation") and value > _MOST_STEPS:
                raise ValueError(f"{field.name} must be at most {_MOST_STEPS}, not {value}")
        if self.mix is not None:
            self._check_mix(self.mix)

    def _check_mix(self, mix: dict[str, float]) -> None:
        if set(mix) != {"text", "code"}:
            raise ValueError(
                f"mix must have the keys text and code, not {', '.join(mix) or 'none'}"
            )
        for key, weight in mix.items():
            if not 0 < weight < math.inf:
                raise ValueError(f"mix.{key} must be above 0 and finite, not {weight}")
        if self.domain != "mixed":
            raise ValueError(f"mix is of text and code: remove it, or domain {self.domain}")
        if self.batch_size * min(mix.values()) < sum(mix.values()):
            raise ValueError(
                f"mix leaves some of the batches of {self.batch_size} without "
                f"{min(mix, key=mix.__getitem__)}: raise batch_size or that weight"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The devices that a run uses: data times model of them, of all processes together.

    Attributes:
        data: how many groups of devices have the whole model each.
        model: the devices of a group, over which every large parameter and its moments are cut.
            Every batch is divided among all devices, of all groups.
    """

    data: int = 1
    model: int = 1

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return self.data * self.model

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if not 1 <= value <= _MOST_DEVICES:
                raise ValueError(f"{key} must lie in [1, {_MOST_DEVICES}], not {value}")


def _is_address(text: str) -> bool:
    """Whether a text is HOST:PORT, with an IPv6 host in brackets."""
    found = re.fullmatch(r"([^\s:\[\]]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})", text)
    return found is not None and 1 <= int(found[2]) <= 65535


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """How the processes of one run find each other; each is started with the same config.

    Attributes:
        coordinator: HOST:PORT of process 0, with a port that is free there; "auto" asks Slurm or
            Open MPI, which started the processes; null trains in one process.
        processes: how many there are; null with "auto".
        process: which of them this one is, from 0; null with "auto".
        heartbeat_seconds: a process that gave no sign of life for so long is taken for dead.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    heartbeat_seconds: int = 30

    def __post_init__(self) -> None:
        if self.coordinator in (None, "auto"):
            for key in ("processes", "process"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} needs coordinator: set that to the HOST:PORT")
        elif not _is_address(self.coordinator):
            raise ValueError(f"coordinator must be HOST:PORT or auto, not {self.coordinator}")
        elif self.processes is None or self.process is None:
            raise ValueError("coordinator needs processes and process too")
        elif not 0 <= self.process < self.processes:
            raise ValueError(
                f"process must lie in [0, processes = {self.processes}), not {self.process}"
            )
        if self.heartbeat_seconds < 1:
            raise ValueError(f"heartbeat_seconds must be at least 1, not {self.heartbeat_seconds}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """How an expert is trained from the base (docs/model.md section 5.6).

    Attributes:
        freeze_embedding: freeze the base's embedding and with it the head, the same table.
        freeze_blocks: how many of the first blocks are frozen; less than model.num_layers.
        slow_blocks: how many of the first blocks are trained at a smaller rate, unless frozen.
        slow_rate: the rate of the slow blocks as a share of the learning rate, in (0, 1].
    """

    freeze_embedding: bool = True
    freeze_blocks: int = 0
    slow_blocks: int = 0
    slow_rate: float = 0.1

    def blocks(self) -> dict[str, Any]:
        """The settings for blocks, as the arguments of `block_rates`."""
        return {key: value for key, value in vars(self).items() if key != "freeze_embedding"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """How two experts are joined (docs/model.md section 5.7).

    Attributes:
        text_expert: the text expert's run or file; null is the one in run_dir.
        code_expert: the code expert's; null is the one in run_dir.
        embedding: whose embedding both get, and the head's first values; null is the base's, and
            is refused where an expert has trained its own.
        start: "ensemble" begins with the mean of both experts' logits, "random" with random values.
        trainable: the parts that are trained, of embedding, text_expert, code_expert, fusion,
            final_norm and lm_head.
    """

    text_expert: str | None = None
    code_expert: str | None = None
    embedding: Literal["base", "text", "code"] | None = None
    start: Literal["ensemble", "random"] = "ensemble"
    trainable: list[FusionPart] = dataclasses.field(
        default_factory=lambda: ["fusion", "final_norm", "lm_head"]
    )

    def __post_init__(self) -> None:
        if not self.trainable:
            raise ValueError("trainable is empty: name at least one part")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What `python -m train.evaluate` scores.

    Attributes:
        checkpoints: the runs and files to score; empty is every stage in run_dir.
        split: use "validation" to choose settings, and "test" to report how good they are.
        batches: at most so many batches per domain, spread over the split; 0 takes all of it.
    """

    checkpoints: list[str] = dataclasses.field(default_factory=list)
    split: Literal["validation", "test"] = "validation"
    batches: int = 0

    def __post_init__(self) -> None:
        if self.batches < 0:
            raise ValueError(f"batches must be at least 0, not {self.batches}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one run, of any stage; each stage reads only the sections that it needs.

    Attributes:
        data_dir: where `train.prepare` writes and training reads.
        run_dir: where training writes, one folder per stage (`checkpoints_base`, ...).
        base_model: run or file of the base, which experts start from and whose embedding they use;
            null is the one in run_dir.
        seed: for the initial values, the order of the data, and dropout.
        prompts: texts that the final report shows continuations of.
    """

    data_dir: str
    run_dir: str
    base_model: str | None = None
    seed: int = 0
    prompts: list[str] = dataclasses.field(default_factory=list)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    prepare: PrepareConfig = dataclasses.field(default_factory=PrepareConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    distributed: DistributedConfig = dataclasses.field(default_factory=DistributedConfig)
    expert: ExpertConfig = dataclasses.field(default_factory=ExpertConfig)
    fusion: FusionConfig = dataclasses.field(default_factory=FusionConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        for key in ("data_dir", "run_dir"):
            if not getattr(self, key):
                raise ValueError(f"{key} is empty: name a folder")
        check_seed(self.seed)
        warmup, steps = self.optimizer.warmup_steps, self.training.steps
        if warmup >= steps:
            raise ValueError(
                f"optimizer.warmup_steps must be below training.steps = {steps}, not {warmup}"
            )
        if self.training.batch_size % self.mesh.devices:
            raise ValueError(
                f"training.batch_size must be a multiple of mesh.data * mesh.model = "
                f"{self.mesh.devices}, not {self.training.batch_size}"
            )
        layers = self.model.num_layers
        if layers > _MOST_LAYERS:
            raise ValueError(f"model.num_layers must be at most {_MOST_LAYERS}, not {layers}")
        try:
            rates = block_rates(layers, **self.expert.blocks())
        except ValueError as error:
            raise ValueError(f"expert.{error}") from None
        if not any(rates):
            raise ValueError(
                f"expert.freeze_blocks must be below model.num_layers = {layers}, not {layers}"
            )
