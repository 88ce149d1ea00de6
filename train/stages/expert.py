"""The expert of a domain, which starts as the base (docs/model.md section 5.6)."""

from typing import Any

from flax import nnx

import bridge
from mmrec_jax import ExpertModule, MMRecModel
from mmrec_jax.block_rates import block_rates
from mmrec_jax.transfer import transfer_base_to_expert, with_embedding, without_embedding
from train.checkpoints.language_model import network_of, read_base
from train.settings.config import Config
from train.stages.stage import Stage, expect_class
from train.step.frozen import Frozen, Network
from train.system.errors import UserError
from train.system.terminal import console


class ExpertStage(Stage):
    """The expert of training.domain; it uses the base's embedding and head.

    With a frozen embedding its checkpoints hold an ExpertModule. If it trains its own embedding, it
    is a complete language model, and its checkpoints hold that.
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
        self._blocks = expert.blocks()
        self.frozen = Frozen(
            frozenset(["embedding"] if expert.freeze_embedding else []),
            block_rates(config.model.num_layers, **self._blocks),
        )

    def start(self) -> MMRecModel:
        """The base's blocks, norm and embedding."""
        base = read_base(self.config)
        drawn = ExpertModule(self.config.model, rngs=nnx.Rngs(self.config.seed))
        try:
            transfer = transfer_base_to_expert(base, drawn, **self._blocks)
        except ValueError as error:
            raise UserError(str(error)) from error
        for what, names in (
            ("from the base", transfer.copied),
            ("new, with random values", transfer.new),
            ("left out of the base", transfer.left_out),
            ("frozen", [f"blocks.{i}" for i, frozen in enumerate(transfer.frozen) if frozen]),
        ):
            if names:
                console.print(f"{what}: {', '.join(names)}")
        return with_embedding(transfer.expert, base.embedding)

    def resumed(self, loaded: bridge.LoadedCheckpoint) -> MMRecModel:
        """The checkpoint's expert with the base's embedding, unless it has its own."""
        wanted = ExpertModule if self.config.expert.freeze_embedding else MMRecModel
        expect_class(wanted, loaded.model)
        return expect_class(MMRecModel, network_of(loaded, self.config))

    def saved(self, network: bridge.Model) -> bridge.Model:
        """Only the expert, unless the embedding is trained with it."""
        model = expect_class(MMRecModel, network)
        return without_embedding(model) if self.config.expert.freeze_embedding else model

    def notes(self, network: Network) -> dict[str, Any]:
        """The domain, and which embedding the expert was trained with."""
        notes: dict[str, Any] = {"domain": self.name}
        if self.config.expert.freeze_embedding:
            notes[bridge.EMBEDDING_DIGEST] = bridge.embedding_digest(network.embedding)
        return notes
