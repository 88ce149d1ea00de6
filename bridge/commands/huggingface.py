"""The command that makes a folder for Hugging Face's transformers: to-hf."""

import argparse
import dataclasses
import os
import shlex
from pathlib import Path
from typing import Any

import yaml

from bridge import any_format
from bridge.checkpoint import LoadedCheckpoint
from bridge.commands import printing
from bridge.commands.convert import check_writable
from bridge.commands.loading import load, timed
from bridge.commands.next_steps import PROGRAM
from bridge.errors import BridgeError, ConfigError, FormatError, errors_about
from bridge.huggingface.folder import MODEL, check_free, write_folder
from bridge.language_model import (
    TOKENIZER_DIGEST,
    file_digest,
    first_file,
    joined,
    run_folders,
)
from bridge.stage_folders import stage_folder, stage_in
from mmrec_jax import ExpertModule, FusionLayer, MMRecModel

_CONFIG, _TOKENIZER = "config.yaml", "tokenizer.json"
"""A run's settings and its tokenizer, in its folder."""


def to_hf(options: argparse.Namespace) -> int:
    """Runs `to-hf`."""
    target = Path(options.OUT)
    check_free(target, overwrite=options.overwrite)
    with errors_about(options.OUT):
        check_writable(target)
    loaded = load(options.IN, options)
    folders = run_folders(options.IN)
    settings = _settings(folders)
    is_expert = isinstance(loaded.model, ExpertModule)
    loaded = _language_model(loaded, options, settings)
    tokenizer = _tokenizer(loaded, options, folders)
    with timed(f"writing {target}"):
        write_folder(target, loaded, tokenizer, _chunk_size(options, settings))
    print(f"  {printing.size(any_format.size_on_disk(target / MODEL))} of weights")
    if tokenizer is None:
        print(f"  no tokenizer, as none lies beside {options.IN}: name one by --tokenizer FILE")
    if loaded.config.use_sparse:
        print(
            "  it scores texts; it cannot generate, as the sparse variant cannot go token by token"
        )
    _print_use(options, target, with_base=is_expert)
    return 0


def _settings(folders: list[Path]) -> dict[str, Any]:
    """The settings of the checkpoint's run, as far as they are known."""
    file = first_file(folders, _CONFIG)
    if file is None:
        return {}
    with errors_about(file):
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (ValueError, yaml.YAMLError):
            raise ConfigError("is not YAML: move it away if it is not the run's") from None
    return content if isinstance(content, dict) else {}


def _chunk_size(options: argparse.Namespace, settings: dict[str, Any]) -> int | None:
    training = settings.get("training")
    stated = training.get("chunk_size") if isinstance(training, dict) else None
    return options.chunk_size or (stated if type(stated) is int else None)


def _language_model(
    loaded: LoadedCheckpoint, options: argparse.Namespace, settings: dict[str, Any]
) -> LoadedCheckpoint:
    """The checkpoint itself, or its expert with the base's embedding and head.

    Raises:
        BridgeError: it is no model of tokens, or the base is missing or another one.
    """
    model = loaded.model
    if isinstance(model, FusionLayer):
        with errors_about(options.IN):
            raise FormatError(
                "a FusionLayer alone is no model of tokens: name a fusion run or its file"
            )
    if not isinstance(model, ExpertModule):
        if options.base is not None:
            raise BridgeError(
                f"--base: {options.IN} holds the class {type(model).__name__}, which needs no "
                "base: leave it out"
            )
        return loaded
    run = run_folders(options.IN)[-1].resolve()
    place = options.base or settings.get("base_model") or stage_folder(run.parent, "base")
    if options.base is None and not os.path.exists(place):
        raise BridgeError(
            f"{options.IN}: an expert alone has no embedding: name its base by --base, a run or "
            "a file"
        )
    place = stage_in(place, "base")
    base = any_format.load(place, num_heads=model.config.num_heads, model_only=True).model
    with errors_about(place):
        if not isinstance(base, MMRecModel):
            raise FormatError(f"holds the class {type(base).__name__}, not a base")
        try:
            language_model = joined(loaded, base.embedding)
        except BridgeError as error:
            error.message += ": name that base by --base"
            raise
    return dataclasses.replace(loaded, model=language_model)


def _tokenizer(
    loaded: LoadedCheckpoint, options: argparse.Namespace, folders: list[Path]
) -> Path | None:
    """The tokenizer that is named, or the one that lies in the run's folder.

    Raises:
        FormatError: the checkpoint was trained with another one.
    """
    if options.tokenizer is not None:
        return Path(options.tokenizer)
    file = first_file([*folders, Path(options.IN).absolute().parent], _TOKENIZER)
    trained_with = loaded.metadata.get(TOKENIZER_DIGEST)
    if file is not None and trained_with not in (None, file_digest(file)):
        with errors_about(file):
            raise FormatError(
                f"is not the tokenizer that {options.IN} was trained with: name that one by "
                "--tokenizer FILE"
            )
    return file


def _print_use(options: argparse.Namespace, target: Path, *, with_base: bool) -> None:
    place, source = repr(str(target)), shlex.quote(options.IN)
    print(
        "to load it in Python, with torch and transformers:\n"
        "  from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"  model = AutoModelForCausalLM.from_pretrained({place}, trust_remote_code=True)\n"
        f"  tokenizer = AutoTokenizer.from_pretrained({place}, trust_remote_code=True)"
    )
    if not with_base:
        print(
            "to compare the weights:\n"
            f"  {PROGRAM} verify {source} {shlex.quote(str(target / MODEL))} --model-only"
        )
