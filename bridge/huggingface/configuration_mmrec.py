"""The config.json of a Hugging Face folder, as transformers reads it."""

import dataclasses
from typing import Any

from transformers import PretrainedConfig

from mmrec_jax.config import ModelConfig


class MMRecConfig(PretrainedConfig):
    """A model's class, and the fields of its ModelConfig.

    Attributes:
        model_class: "MMRecModel" or "MMRec100M".
        chunk_size: after how many tokens the memory is written, as in training; None never writes.
    """

    model_type = "mmrec"
    # The names by which libraries ask for a model's size.
    attribute_map = {  # noqa: RUF012
        "hidden_size": "model_dim",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
    }

    def __init__(
        self, model_class: str = "MMRecModel", chunk_size: int | None = None, **settings: Any
    ) -> None:
        self.model_class = model_class
        self.chunk_size = chunk_size
        for field in dataclasses.fields(ModelConfig):
            setattr(self, field.name, settings.pop(field.name, field.default))
        settings.setdefault("tie_word_embeddings", model_class == "MMRecModel")
        super().__init__(**settings)

    def of_model(self) -> ModelConfig:
        """The config that the model is built from."""
        names = [field.name for field in dataclasses.fields(ModelConfig)]
        return ModelConfig(**{name: getattr(self, name) for name in names})
