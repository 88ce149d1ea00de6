"""Checkpoints as language models: an expert gets its base's embedding; where a run's files lie."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from bridge.checkpoint import LoadedCheckpoint
from bridge.errors import BridgeError
from bridge.files.disk import PathLike
from bridge.stage_folders import stage_in
from mmrec_jax import ExpertModule, MMRecModel
from mmrec_jax.model import Embedding
from mmrec_jax.transfer import with_embedding

EMBEDDING_DIGEST = "embedding_sha256"
"""The entry of an expert's metadata that says which embedding it was trained with."""

TOKENIZER_DIGEST = "tokenizer_sha256"
"""The entry of every stage's metadata that says which tokenizer it was trained with."""


def joined(loaded: LoadedCheckpoint, embedding: Embedding) -> MMRecModel:
    """An expert's checkpoint as a language model, with the base's embedding and head.

    Raises:
        BridgeError: it was not trained with this embedding.
    """
    expert = loaded.model
    assert isinstance(expert, ExpertModule)
    fits = embedding.embedding.shape[1] == expert.config.model_dim
    trained_with = loaded.metadata.get(EMBEDDING_DIGEST)
    if not fits or trained_with not in (None, embedding_digest(embedding)):
        raise BridgeError("the expert was trained with another base's embedding")
    return with_embedding(expert, embedding)


def embedding_digest(embedding: Embedding) -> str:
    """The SHA-256 of an embedding's values, by which it is recognised."""
    array: np.ndarray[Any, Any] = np.asarray(embedding.embedding[...])
    return hashlib.sha256(array.tobytes()).hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_folders(checkpoint: PathLike) -> list[Path]:
    """The folders in which a checkpoint's run may have left its other files.

    Args:
        checkpoint: a file, a run's folder, a state's, or a run_dir (see `stage_in`).
    """
    path = stage_in(checkpoint)
    above = path.absolute().parent
    if not path.is_dir():
        return [above]
    return [path, above.parent] if above.name == "state" else [path]


def first_file(folders: list[Path], name: str) -> Path | None:
    """The file of that name in the first folder that has it."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)
