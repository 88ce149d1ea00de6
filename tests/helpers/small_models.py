"""The model that tests use where any will do: as small as a model with all its parts can be."""

from mmrec_jax import ModelConfig

SMALL = ModelConfig(vocab_size=31, model_dim=12, num_layers=2, num_heads=3, ffn_dim=20)
"""A test that needs another value says so: `dataclasses.replace(SMALL, dropout=0.0)`."""
