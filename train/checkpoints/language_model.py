"""Reads checkpoints of any stage as language models; experts get the base's embedding."""

import dataclasses
import warnings
from pathlib import Path
from typing import Literal

import bridge
from mmrec_jax import ExpertModule, FusionLayer, MMRecModel
from mmrec_jax.model import Embedding
from train.checkpoints.fit import check_finite, check_model
from train.data.data_folder import TOKENIZER
from train.settings.config import Config
from train.step.frozen import Network
from train.system.errors import UserError
from train.system.interrupt import uninterrupted


def read(
    path: str | Path,
    config: Config,
    key: str,
    *,
    architecture: Literal["config", "config but for its depth", "any"] = "config",
) -> bridge.LoadedCheckpoint:
    """The model of a run or a checkpoint file, in float32.

    Args:
        path: the run's folder or the file.
        config: gives the model and the tokenizer that the checkpoint must have been trained with.
        key: the setting that names the path.
        architecture: how much of the config's dimensions and variants the model must have.

    Raises:
        UserError: it cannot be read, or is a different model.
    """
    heads = None if architecture == "any" else config.model.num_heads
    try:
        with uninterrupted(), warnings.catch_warnings():
            if architecture != "any":  # to be trained, and then it is an error
                warnings.simplefilter("ignore", bridge.NonFiniteWarning)
            loaded = bridge.load(path, num_heads=heads, model_only=True)
    except bridge.BridgeError as error:
        raise UserError(f"{key}: {error}") from error
    wanted = config.model
    if architecture == "any":
        wanted = dataclasses.replace(loaded.config, vocab_size=config.model.vocab_size)
    elif architecture == "config but for its depth":
        wanted = dataclasses.replace(wanted, num_layers=loaded.config.num_layers)
    try:
        check_model(wanted, loaded.model, "set the config so, or name another checkpoint")
        if architecture != "any":
            check_finite(loaded)
    except UserError as error:
        raise UserError(f"{key}: {path}: {error}") from error
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    config_tokenizer = Path(config.data_dir) / TOKENIZER
    trained_with = loaded.metadata.get(bridge.TOKENIZER_DIGEST)
    if trained_with is None and (folder / TOKENIZER).is_file():
        trained_with = bridge.file_digest(folder / TOKENIZER)
    known = trained_with is not None and config_tokenizer.is_file()
    if known and trained_with != bridge.file_digest(config_tokenizer):
        raise UserError(
            f"{key}: {path} was trained with another tokenizer than that of {config.data_dir}: "
            "prepare the data that it was trained on again, or name another checkpoint"
        )
    return loaded


def stage_folder(config: Config, stage: str) -> Path:
    """The folder of a stage of the config's run."""
    return bridge.stage_folder(config.run_dir, stage)


def read_base(config: Config) -> MMRecModel:
    """The base that experts start from and whose embedding they use.

    Raises:
        UserError: there is none, or it does not fit the config.
    """
    given = config.base_model
    path = stage_folder(config, "base") if given is None else bridge.stage_in(given, "base")
    if config.base_model is None and not Path(path).exists():
        raise UserError(
            f"base_model: there is no base in {path}: train it first (python -m train.base), or "
            "name a run or a file"
        )
    model = read(path, config, "base_model", architecture="config but for its depth").model
    if not isinstance(model, MMRecModel):
        raise UserError(f"base_model: {path} holds the class {type(model).__name__}, not a base")
    return model


def network_of(loaded: bridge.LoadedCheckpoint, config: Config | None) -> Network:
    """A model that scores tokens; an expert gets the base's embedding and head.

    Args:
        loaded: the checkpoint.
        config: says where an expert's base is; other models need none.

    Raises:
        UserError: it cannot score tokens, or the base is not the one that it was trained with.
    """
    model = loaded.model
    if isinstance(model, FusionLayer):
        raise UserError("a FusionLayer alone is no model of tokens: name a fusion run or its file")
    if not isinstance(model, ExpertModule):
        return model
    assert config is not None
    # The base must have the expert's dimensions, which may differ from the config's.
    base_config = dataclasses.replace(model.config, vocab_size=config.model.vocab_size)
    embedding = read_base(dataclasses.replace(config, model=base_config)).embedding
    return joined(loaded, embedding)


def joined(loaded: bridge.LoadedCheckpoint, embedding: Embedding) -> MMRecModel:
    """An expert's checkpoint as a language model, with the base's embedding and head.

    Raises:
        UserError: it was not trained with this embedding.
    """
    try:
        return bridge.joined(loaded, embedding)
    except bridge.BridgeError as error:
        raise UserError(f"{error}: set base_model to that base") from error
