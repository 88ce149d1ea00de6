"""Checkpoints of any stage read as language models: an expert with the base's embedding."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

import bridge
from mmrec_jax import ExpertModule, FusionLayer, MMRecModel
from mmrec_jax.layers import Embedding
from mmrec_jax.transfer import with_embedding
from train.checkpoint import check_model
from train.config import Config
from train.errors import UserError
from train.parameters import Network
from train.tokens import TOKENIZER

EMBEDDING = "embedding_sha256"
"""The entry of an expert's metadata that says which embedding it was trained with."""


def read(
    path: str | Path, config: Config, key: str, *, any_depth: bool = False
) -> bridge.LoadedCheckpoint:
    """The model of a run or a checkpoint file, built as the config's model, in float32.

    Args:
        path: the run's folder or the file.
        config: says what the model must be, and which tokenizer it must have been trained with.
        key: the setting that names the path.
        any_depth: take models with more or fewer blocks than the config's too.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    try:
        loaded = bridge.load(path, num_heads=config.model.num_heads, model_only=True)
    except bridge.BridgeError as error:
        raise UserError(f"{key}: {error}") from error
    layers = loaded.config.num_layers if any_depth else config.model.num_layers
    try:
        check_model(dataclasses.replace(config.model, num_layers=layers), loaded.model)
    except UserError as error:
        raise UserError(f"{key}: {path}: {error}") from error
    folder = Path(path)
    tokenizer = (folder if folder.is_dir() else folder.parent) / TOKENIZER
    own = Path(config.data_dir) / TOKENIZER
    if tokenizer.is_file() and own.is_file() and tokenizer.read_bytes() != own.read_bytes():
        raise UserError(
            f"{key}: {path} was trained with another tokenizer than that of {config.data_dir}: "
            "prepare the data that it was trained on again, or name another checkpoint"
        )
    return loaded


def stage_folder(config: Config, stage: str) -> Path:
    """Where a stage of the config's run lies."""
    return Path(config.run_dir) / f"checkpoints_{stage}"


def read_base(config: Config) -> MMRecModel:
    """The base that experts are made of and whose embedding they share.

    Raises:
        UserError: there is none, or it does not fit the config.
    """
    path = config.base_model or stage_folder(config, "base")
    if config.base_model is None and not Path(path).exists():
        raise UserError(
            f"base_model: there is no base in {path}: train it first (python -m train.base), or "
            "name a run or a file"
        )
    model = read(path, config, "base_model", any_depth=True).model
    if not isinstance(model, MMRecModel):
        raise UserError(f"base_model: {path} holds the class {type(model).__name__}, not a base")
    return model


def network_of(loaded: bridge.LoadedCheckpoint, config: Config) -> Network:
    """What scores tokens: an expert with the base's embedding and head, other models themselves.

    Raises:
        UserError: it is no model of tokens, or the base is not the one that it was trained with.
    """
    model = loaded.model
    if isinstance(model, FusionLayer):
        raise UserError("a FusionLayer alone is no model of tokens: name a fusion run or its file")
    if not isinstance(model, ExpertModule):
        return model
    embedding = read_base(config).embedding
    if loaded.metadata.get(EMBEDDING, digest(embedding)) != digest(embedding):
        raise UserError(
            "the expert was trained with another base's embedding: set base_model to that base"
        )
    return with_embedding(model, embedding)


def digest(embedding: Embedding) -> str:
    """Tells embeddings apart."""
    array: np.ndarray[Any, Any] = np.asarray(embedding.embedding[...])
    return hashlib.sha256(array.tobytes()).hexdigest()
