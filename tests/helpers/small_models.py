"""The models that tests use where any will do: as small as a model with all its parts can be."""

import dataclasses

from mmrec_jax import ModelConfig

SMALL = ModelConfig(vocab_size=31, model_dim=12, num_layers=2, num_heads=3, ffn_dim=20)
"""A test that needs another value says so: `dataclasses.replace(SMALL, dropout=0.0)`."""

TRAINED = dataclasses.replace(
    SMALL, vocab_size=60, dropout=0.0, dpg_rank=5, num_experts=4, sparse_chunk_size=4
)
"""For tests that train it, in any variant."""
