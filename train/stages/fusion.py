"""The fusion of both experts (docs/model.md section 5.7)."""

import itertools
import typing
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import bridge
from mmrec_jax import ExpertModule, MMRec100M, MMRecModel
from mmrec_jax.block_forms import stack_blocks
from mmrec_jax.model import Embedding
from mmrec_jax.transfer import join_experts, start_as_ensemble, without_embedding
from train.checkpoints.language_model import network_of, read, read_base, stage_folder
from train.data.batches import Batch, training_batches, training_rows
from train.settings.config import Config, FusionPart
from train.stages.stage import Stage, expect_class
from train.step.frozen import Frozen
from train.system.errors import UserError

_MEASURED_BATCHES = 4
"""How many batches are used to measure the size of the experts' outputs."""


class FusionStage(Stage):
    """Both experts and their embedding below a fusion layer, norm and head; some parts frozen."""

    name = "fusion"
    model_class = "MMRec100M"
    checkpoint_name = "fusion_model"
    sections = ("fusion",)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        parts = frozenset(typing.get_args(FusionPart))
        self.frozen = Frozen(parts - set(config.fusion.trainable))

    def start(self) -> MMRec100M:
        """Both experts in one model; the rest starts as their ensemble or with random values."""
        config = self.config
        base = read_base(config)
        text, text_embedding = self._expert("text", base)
        code, code_embedding = self._expert("code", base)
        self._check_depth(text, code)
        trained = {"text": text_embedding, "code": code_embedding}
        embedding = self._embedding(base.embedding, trained)
        try:
            model = join_experts(text, code, embedding, config.model, rngs=nnx.Rngs(config.seed))
        except ValueError as error:
            raise UserError(str(error)) from error
        if config.fusion.start == "ensemble":
            start_as_ensemble(model, _output_size(model, config))
        return model

    def resumed(self, loaded: bridge.LoadedCheckpoint) -> MMRec100M:
        """The checkpoint's model, including the experts."""
        return expect_class(MMRec100M, loaded.model)

    def _expert(
        self, domain: Literal["text", "code"], base: MMRecModel
    ) -> tuple[ExpertModule, Embedding | None]:
        """An expert, and its embedding if it has trained one."""
        key = f"{domain}_expert"
        given: str | None = getattr(self.config.fusion, key)
        path = bridge.stage_in(given, domain) if given else stage_folder(self.config, domain)
        if given is None and not path.exists():
            raise UserError(
                f"fusion.{key}: there is no {domain} expert in {path}: train it first (python -m "
                "train.expert), or name a run or a file"
            )
        loaded = read(path, self.config, f"fusion.{key}", architecture="config but for its depth")
        found = loaded.metadata.get("domain")
        if found not in (None, domain):
            raise UserError(f"fusion.{key}: {path} is the {found} expert: name the {domain} expert")
        if found is None and not isinstance(loaded.model, ExpertModule):
            raise UserError(
                f"fusion.{key}: {path} holds the class {type(loaded.model).__name__}, no expert"
            )
        model = expect_class(MMRecModel, network_of(loaded, self.config))
        trained = bridge.embedding_digest(model.embedding) != bridge.embedding_digest(
            base.embedding
        )
        return without_embedding(model), model.embedding if trained else None

    def _check_depth(self, text: ExpertModule, code: ExpertModule) -> None:
        """Makes sure that both experts have the layers that the config says."""
        of_text, of_code = text.config.num_layers, code.config.num_layers
        if of_text != of_code:
            raise UserError(
                f"model.num_layers: the text expert has {of_text} and the code expert {of_code}: "
                "only experts of equal depth can be joined, so train one of them again with the "
                "other's model.num_layers"
            )
        wanted = self.config.model.num_layers
        if of_text != wanted:
            raise UserError(
                f"model.num_layers is {of_text} in both experts and {wanted} in the config: set it "
                f"to {of_text}"
            )

    def _embedding(self, base: Embedding, trained: dict[str, Embedding | None]) -> Embedding:
        """The embedding that both experts get; `trained` has those that experts trained."""
        choice = self.config.fusion.embedding
        experts = [name for name, embedding in trained.items() if embedding is not None]
        if choice is None and experts:
            raise UserError(
                f"fusion.embedding: the {' and the '.join(experts)} expert has trained an "
                "embedding of its own: say which one both experts get, base, text or code"
            )
        return trained.get(choice or "base") or base


def _output_size(model: MMRec100M, config: Config) -> float:
    """Root mean square of the experts' outputs, averaged over tokens of the training data."""

    @jax.jit
    def size(model: MMRec100M, batch: Batch) -> jax.Array:
        x, chunk_size = model.embedding(batch.inputs), config.training.chunk_size
        outputs = [
            expert.hidden_states(x, real=batch.real, chunk_size=chunk_size).y
            for expert in model.experts(None).values()
        ]
        sizes = jnp.sqrt(jnp.square(jnp.concatenate(outputs, axis=-1)).mean(axis=-1))
        return jnp.average(sizes, weights=batch.real)

    stacked = stack_blocks(model)
    rows = training_rows(config)
    batches = training_batches(config, FusionStage.name, rows, process_index=0, process_count=1)
    measured = itertools.islice(batches, _MEASURED_BATCHES)
    return float(np.mean([size(stacked, batch) for batch in measured]))
