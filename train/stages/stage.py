"""What sets the stages of training apart: where each starts, what it trains, what it saves."""

import abc
import itertools
import typing
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import bridge
from mmrec_jax import ExpertModule, MMRec100M, MMRecModel
from mmrec_jax.block_forms import stack_blocks
from mmrec_jax.model import Embedding
from mmrec_jax.transfer import (
    join_experts,
    start_as_ensemble,
    transfer_base_to_expert,
    with_embedding,
    without_embedding,
)
from train.checkpoints.language_model import (
    EMBEDDING,
    digest,
    network_of,
    read,
    read_base,
    stage_folder,
)
from train.data.batches import Batch, training_batches, training_rows
from train.settings.config import Config, FusionPart
from train.step.frozen import Frozen, Network
from train.system.errors import UserError
from train.system.terminal import console

_MEASURED_BATCHES = 4
"""Batches that the size of the experts' outputs is measured on."""


class Stage(abc.ABC):
    """A stage of training.

    Attributes:
        name: its folder in run_dir is `checkpoints_NAME`.
        checkpoint_name: its .pt files are called `CHECKPOINT_NAME_step_N.pt`.
        sections: the sections of the config that it reads and other stages do not.
        frozen: what it does not train.
    """

    name: str
    checkpoint_name: str
    sections: tuple[str, ...] = ()
    frozen: Frozen = Frozen()

    def __init__(self, config: Config) -> None:
        """A stage of the config's run; raises UserError where the config is another stage's."""
        self.config = config

    def file(self, step: int) -> str:
        """The name of the .pt file after `step` steps."""
        return f"{self.checkpoint_name}_step_{step}.pt"

    @abc.abstractmethod
    def start(self) -> Network:
        """What is trained, before the first step, its blocks a list."""

    @abc.abstractmethod
    def resumed(self, loaded: bridge.LoadedCheckpoint) -> Network:
        """What is trained, from a checkpoint of this stage."""

    def saved(self, network: bridge.Model) -> bridge.Model:
        """The model that this stage's checkpoints hold."""
        return network

    def notes(self, network: Network) -> dict[str, Any]:
        """What is added to the metadata of its checkpoints."""
        return {}


class BaseStage(Stage):
    """The base: a language model from scratch, or from another one's weights."""

    name = "base"
    checkpoint_name = "base_model"

    def start(self) -> MMRecModel:
        """Drawn from the seed, or what training.start_from names."""
        source = self.config.training.start_from
        if source is None:
            return initial_model(self.config)
        return _only(MMRecModel, read(source, self.config, "training.start_from").model)

    def resumed(self, loaded: bridge.LoadedCheckpoint) -> MMRecModel:
        """The checkpoint's model."""
        return _only(MMRecModel, loaded.model)


class ContinuedStage(BaseStage):
    """The control of a pipeline: the base, trained further on mixed data."""

    name = "continued"
    checkpoint_name = "continued_model"

    def start(self) -> MMRecModel:
        """The base."""
        return read_base(self.config)


class ExpertStage(Stage):
    """The expert of the domain that is trained on; the base's embedding and head serve it.

    With a frozen embedding its checkpoints hold an ExpertModule; one that has trained its own is a
    language model by itself, and they hold that.
    """

    sections = ("expert",)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        domain, expert = config.training.domain, config.expert
        if domain == "mixed":
            raise UserError(
                "training.domain: an expert is trained on text or on code: set one of them"
            )
        self.name = domain
        self.checkpoint_name = f"{domain}_expert"
        self.frozen = Frozen(
            frozenset(["embedding"] if expert.freeze_embedding else []),
            expert.freeze_blocks,
            expert.slow_blocks,
            expert.slow_rate,
        )

    def start(self) -> MMRecModel:
        """The base's blocks, norm and embedding."""
        base, settings = read_base(self.config), self.config.expert
        drawn = ExpertModule(self.config.model, rngs=nnx.Rngs(self.config.seed))
        try:
            transfer = transfer_base_to_expert(
                base,
                drawn,
                freeze_blocks=settings.freeze_blocks,
                slow_blocks=settings.slow_blocks,
                slow_rate=settings.slow_rate,
            )
        except ValueError as error:
            raise UserError(str(error)) from error
        for what, names in (
            ("from the base", transfer.copied),
            ("drawn anew", transfer.new),
            ("left out of the base", transfer.left_out),
            ("frozen", [f"blocks.{i}" for i, held in enumerate(transfer.frozen) if held]),
        ):
            if names:
                console.print(f"{what}: {', '.join(names)}")
        return with_embedding(transfer.expert, base.embedding)

    def resumed(self, loaded: bridge.LoadedCheckpoint) -> MMRecModel:
        """The checkpoint's expert with the base's embedding, unless it has its own."""
        wanted = ExpertModule if self.config.expert.freeze_embedding else MMRecModel
        _only(wanted, loaded.model)
        return _only(MMRecModel, network_of(loaded, self.config))

    def saved(self, network: bridge.Model) -> bridge.Model:
        """The expert alone, unless the embedding is trained with it."""
        model = _only(MMRecModel, network)
        return without_embedding(model) if self.config.expert.freeze_embedding else model

    def notes(self, network: Network) -> dict[str, Any]:
        """The domain, and which embedding it goes with."""
        notes: dict[str, Any] = {"domain": self.name}
        if self.config.expert.freeze_embedding:
            notes[EMBEDDING] = digest(network.embedding)
        return notes


class FusionStage(Stage):
    """Both experts and their embedding, frozen, under a fusion layer, norm and head."""

    name = "fusion"
    checkpoint_name = "fusion_model"
    sections = ("fusion",)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        frozen = set(typing.get_args(FusionPart)) - set(config.fusion.trainable)
        self.frozen = Frozen(frozenset({"embedding", "text_expert", "code_expert", *frozen}))

    def start(self) -> MMRec100M:
        """The experts joined, as their ensemble or at random."""
        config = self.config
        base = read_base(config)
        text, own_text = self._expert("text", base)
        code, own_code = self._expert("code", base)
        embedding = self._embedding(base.embedding, {"text": own_text, "code": own_code})
        try:
            model = join_experts(text, code, embedding, config.model, rngs=nnx.Rngs(config.seed))
        except ValueError as error:
            raise UserError(str(error)) from error
        if config.fusion.start == "ensemble":
            start_as_ensemble(model, _output_size(model, config))
        return model

    def resumed(self, loaded: bridge.LoadedCheckpoint) -> MMRec100M:
        """The checkpoint's model, experts included."""
        return _only(MMRec100M, loaded.model)

    def _expert(
        self, domain: Literal["text", "code"], base: MMRecModel
    ) -> tuple[ExpertModule, Embedding | None]:
        """An expert, and its embedding if it has trained one."""
        key = f"{domain}_expert"
        given: str | None = getattr(self.config.fusion, key)
        path = Path(given or stage_folder(self.config, domain))
        if given is None and not path.exists():
            raise UserError(
                f"fusion.{key}: there is no {domain} expert in {path}: train it first (python -m "
                "train.expert), or name a run or a file"
            )
        loaded = read(path, self.config, f"fusion.{key}")
        found = loaded.metadata.get("domain")
        if found not in (None, domain):
            raise UserError(f"fusion.{key}: {path} is the {found} expert: name the {domain} expert")
        if found is None and not isinstance(loaded.model, ExpertModule):
            raise UserError(
                f"fusion.{key}: {path} holds the class {type(loaded.model).__name__}, no expert"
            )
        model = _only(MMRecModel, network_of(loaded, self.config))
        own = digest(model.embedding) != digest(base.embedding)
        return without_embedding(model), model.embedding if own else None

    def _embedding(self, base: Embedding, own: dict[str, Embedding | None]) -> Embedding:
        choice = self.config.fusion.embedding
        tuned = [name for name, embedding in own.items() if embedding is not None]
        if choice is None and tuned:
            raise UserError(
                f"fusion.embedding: the {' and the '.join(tuned)} expert has trained an embedding "
                "of its own: say whose both experts get, base, text or code"
            )
        return own.get(choice or "base") or base


STAGES: dict[str, type[Stage]] = {
    "base": BaseStage,
    "text": ExpertStage,
    "code": ExpertStage,
    "fusion": FusionStage,
    "continued": ContinuedStage,
}
"""The stages of a pipeline by name, in the order in which it trains them."""


def initial_model(config: Config) -> MMRecModel:
    """A base before its first step, drawn from the config's seed."""
    return MMRecModel(config.model, rngs=nnx.Rngs(config.seed))


def _only(kind: type[Any], model: Any) -> Any:
    if not isinstance(model, kind):
        raise UserError(
            f"the checkpoint holds the class {type(model).__name__}, not {kind.__name__}"
        )
    return model


def _output_size(model: MMRec100M, config: Config) -> float:
    """Root mean square of the experts' outputs, a mean over tokens of the training data."""

    @jax.jit
    def size(model: MMRec100M, batch: Batch) -> jax.Array:
        x, chunk_size = model.embedding(batch.inputs), config.training.chunk_size
        real = None if batch.weights is None else batch.weights > 0
        outputs = [
            expert.hidden_states(x, real=real, chunk_size=chunk_size).y
            for expert in model.experts(None).values()
        ]
        sizes = jnp.sqrt(jnp.square(jnp.concatenate(outputs, axis=-1)).mean(axis=-1))
        return jnp.average(sizes, weights=batch.weights)

    stacked = stack_blocks(model)
    batches = training_batches(config, FusionStage.name, training_rows(config))
    measured = itertools.islice(batches, _MEASURED_BATCHES)
    return float(np.mean([size(stacked, batch) for batch in measured]))
