"""A checkpoint of any format with all that it needs to write text: a tokenizer, an embedding."""

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import bridge
from mmrec_jax import ExpertModule, MMRecModel
from train.checkpoints.language_model import joined, network_of
from train.data.data_folder import TOKENIZER
from train.data.tokenizer import Tokenizer
from train.data.tokenizer_files import read_tokenizer
from train.settings.cli import parse_config
from train.settings.config import Config
from train.settings.paths import CONFIG
from train.step.frozen import Network
from train.system.errors import UserError


class Speaker(NamedTuple):
    """What writes text.

    Attributes:
        network: the model of tokens.
        tokenizer: its tokenizer.
        config: its run's; None where the checkpoint is in no run's folder.
    """

    network: Network
    tokenizer: Tokenizer
    config: Config | None

    @property
    def chunk_size(self) -> int | None:
        """What the model was trained with, as far as its run says."""
        return None if self.config is None else self.config.training.chunk_size


def load_speaker(
    checkpoint: str | Path,
    *,
    tokenizer: str | None = None,
    end_of_text: str | None = None,
    base_model: str | None = None,
    num_heads: int | None = None,
) -> Speaker:
    """Reads a checkpoint that the bridge can read, and what belongs to it.

    The config and the tokenizer are those that lie in the run's folder. A tokenizer may also lie
    beside a file or folder that was taken out of its run.

    Args:
        checkpoint: a .pt or .safetensors file, a run's folder (its newest state), or a state's.
        tokenizer: a tokenizer.json or .tiktoken file; None takes the one beside the checkpoint.
        end_of_text: see `read_tokenizer`.
        base_model: whose embedding an expert gets; None takes what the run's config says.
        num_heads: where a file does not state it.

    Raises:
        UserError: one of them is missing or cannot be read, or they do not fit each other.
    """
    path = Path(checkpoint)
    if path.is_dir():
        try:
            bridge.find_state(path)
        except bridge.BridgeError as error:
            raise UserError(str(error)) from error
    places = bridge.run_folders(path)
    file = (
        Path(tokenizer)
        if tokenizer
        else bridge.first_file([*places, path.absolute().parent], TOKENIZER)
    )
    if file is None and path.exists():
        raise UserError(
            f"{path} has no {TOKENIZER} beside it: name the one that it was trained with by "
            "--tokenizer FILE"
        )
    loaded = _loaded(path, num_heads)
    config = _config_in(places)
    network = _network(loaded, config, base_model)
    if num_heads not in (None, loaded.config.num_heads):
        raise UserError(
            f"--num_heads: {path} states that it has {loaded.config.num_heads}: leave it out"
        )
    assert file is not None  # or nothing could be loaded
    given = "--tokenizer: " if tokenizer else ""
    trained_with = loaded.metadata.get(bridge.TOKENIZER_DIGEST)
    if not given and trained_with not in (None, bridge.file_digest(file)):
        raise UserError(
            f"{file} is not the tokenizer that {path} was trained with: name that one by "
            "--tokenizer FILE"
        )
    try:
        found = read_tokenizer(
            file, network.config.vocab_size, end_of_text=_id_or_name(end_of_text)
        )
    except UserError as error:
        raise UserError(f"{given}{error}") from error
    return Speaker(network, found, config)


def _loaded(path: Path, num_heads: int | None) -> bridge.LoadedCheckpoint:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", bridge.NonFiniteWarning)
        try:
            loaded = bridge.load(path, num_heads=num_heads, model_only=True)
        except bridge.BridgeError as error:
            raise UserError(str(error).replace("--num-heads", "--num_heads")) from error
    for warning in caught:
        print(f"warning: {path}: {warning.message}", file=sys.stderr)
    return loaded


def _config_in(places: list[Path]) -> Config | None:
    """The config of the run in one of the folders."""
    file = bridge.first_file(places, CONFIG)
    if file is None:
        return None
    try:
        config = parse_config(["--config", str(file)], "")
    except UserError:
        if (file.parent / "state").is_dir():
            raise
        return None  # some other program's
    if config.base_model is None:  # wherever the run was moved to, the other stages are beside it
        config = dataclasses.replace(config, run_dir=str(file.resolve().parent.parent))
    return config


def _network(
    loaded: bridge.LoadedCheckpoint, config: Config | None, base_model: str | None
) -> Network:
    if not isinstance(loaded.model, ExpertModule):
        if base_model is not None:
            raise UserError(
                "--base_model: the checkpoint holds the class "
                f"{type(loaded.model).__name__}, which needs no base: leave it out"
            )
        return network_of(loaded, config)
    if base_model is not None:
        try:
            base = _loaded(bridge.stage_in(base_model, "base"), loaded.config.num_heads).model
            if not isinstance(base, MMRecModel):
                raise UserError(f"{base_model} holds the class {type(base).__name__}, not a base")
            return joined(loaded, base.embedding)
        except UserError as error:
            raise UserError(f"--base_model: {error}") from error
    if config is None:
        raise UserError(
            "an expert alone has no embedding: name its base by --base_model, a run or a file"
        )
    return network_of(loaded, config)


def _id_or_name(end_of_text: str | None) -> int | str | None:
    return int(end_of_text) if end_of_text and end_of_text.isdecimal() else end_of_text
