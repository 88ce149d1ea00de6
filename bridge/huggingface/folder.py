"""Writes a folder that Hugging Face's transformers loads, without this project."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from bridge import any_format, weights
from bridge.checkpoint import LoadedCheckpoint
from bridge.errors import BridgeError, UnwritableFileError, errors_about, unwritable
from bridge.files import disk
from bridge.huggingface.source import source_files
from bridge.huggingface.tokenizer import tokenizer_files

MODEL = "model.safetensors"
_CONFIG = "config.json"
_MODEL_TYPE = "mmrec"
_OTHERS = ("README.md", "generation_config.json", "tokenizer.json", "tokenizer_config.json")

_CARD = """---
library_name: transformers
pipeline_tag: text-generation
---

# {name}

An {model_class} of MM-Rec, a recurrent language model with an external memory: {layers} layers of
{dim} channels, {vocab:,} tokens. A token costs the same wherever it stands in a text.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{name}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)
inputs = tokenizer("def ", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=200)[0]))
```

The code in this folder needs torch and transformers 5.
"""


def check_free(target: Path, *, overwrite: bool) -> None:
    """Refuses to replace what `write_folder` did not write.

    Args:
        target: the folder to write.
        overwrite: whether a folder that it did write may be replaced.

    Raises:
        UnwritableFileError: the folder has something in it that may not be replaced.
    """
    with errors_about(target):
        if target.exists() and not target.is_dir():
            raise UnwritableFileError("is not a folder: name a new one")
        found = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
        if found and not overwrite:
            raise UnwritableFileError("exists already: give --overwrite, or name another folder")
        ours = {MODEL, _CONFIG, *_OTHERS, *source_files()}
        foreign = [name for name in found if name not in ours]
        if found and not foreign and not _is_ours(target / _CONFIG):
            foreign = [_CONFIG]
        if foreign:
            raise UnwritableFileError(
                f"has {foreign[0]}, which to-hf did not write: name another folder"
            )


def write_folder(
    target: Path, loaded: LoadedCheckpoint, tokenizer: Path | None, chunk_size: int | None
) -> None:
    """Writes the folder; if that fails, the target is what it was before.

    Args:
        target: the folder, which `check_free` has allowed.
        loaded: an MMRecModel or an MMRec100M; its training state is left out.
        tokenizer: a tokenizer.json; None for a folder without one.
        chunk_size: after how many tokens the memory is written, as in training; None never writes.

    Raises:
        BridgeError: the tokenizer does not fit, or the folder cannot be written.
    """
    model_class, config = weights.class_name(loaded.model), loaded.config
    dtypes = {str(array.dtype) for array in weights.variables(loaded.model).values()}
    settings: dict[str, Any] = {
        "model_type": _MODEL_TYPE,
        "architectures": ["MMRecForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_mmrec.MMRecConfig",
            "AutoModelForCausalLM": "modeling_mmrec.MMRecForCausalLM",
        },
        "model_class": model_class,
        "chunk_size": chunk_size,
        "dtype": dtypes.pop() if len(dtypes) == 1 else "float32",
        "tie_word_embeddings": model_class == "MMRecModel",
        **dataclasses.asdict(config),
    }
    card = _CARD.format(
        name=target.resolve().name,
        model_class=model_class,
        layers=config.num_layers,
        dim=config.model_dim,
        vocab=config.vocab_size,
    )
    generation: dict[str, Any] = {}
    files = source_files() | {"README.md": card}
    if tokenizer is not None:
        of_tokenizer, end = tokenizer_files(tokenizer, config.vocab_size)
        files |= of_tokenizer
        generation = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end)
    files[_CONFIG] = json.dumps(settings | generation, indent=2) + "\n"
    files["generation_config.json"] = json.dumps(generation, indent=2) + "\n"
    alone = dataclasses.replace(loaded, optimizer_state=None, scheduler_state=None)
    with errors_about(target), unwritable(), disk.replacing_folder(target) as folder:
        try:
            any_format.save_file(folder / MODEL, alone)
        except BridgeError as error:
            error.path = None  # nobody has seen the unfinished folder
            raise
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")


def _is_ours(config: Path) -> bool:
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("model_type") == _MODEL_TYPE
