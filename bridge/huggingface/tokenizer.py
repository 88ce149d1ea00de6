"""The tokenizer of a Hugging Face folder: a tokenizer.json, and what transformers does with it."""

import json
from pathlib import Path

import tokenizers
from tokenizers import processors

from bridge.errors import FormatError, UnreadableFileError, errors_about

NAMES_OF_END_OF_TEXT = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|eos|>",
    "[EOS]",
)
"""What tokenizers call the token that ends documents, where they do not append it themselves."""


def end_of_text_in(backend: tokenizers.Tokenizer) -> int | None:
    """The id of a tokenizer's end-of-text token; None where none is known.

    It is the token that the tokenizer itself puts behind a text, or else the first one that has one
    of NAMES_OF_END_OF_TEXT.
    """
    alone, whole = backend.encode("a", add_special_tokens=False).ids, backend.encode("a").ids
    begins = (n for n in range(len(whole)) if alone and whole[n : n + len(alone)] == alone)
    behind = [index for begin in begins for index in whole[begin + len(alone) :][-1:]]
    named = (backend.token_to_id(name) for name in NAMES_OF_END_OF_TEXT)
    return next((index for index in (*behind, *named) if index is not None), None)


def tokenizer_files(path: Path, vocab_size: int) -> tuple[dict[str, str], int]:
    """The files of a tokenizer with which AutoTokenizer encodes as `Tokenizer` does in training.

    Every text begins with the end-of-text token, as every document does in training. Where a text
    spells that token out, its characters are encoded like any others.

    Args:
        path: a tokenizer.json.
        vocab_size: ids that the model has.

    Returns:
        The content of each file by its name, and the id of the end-of-text token.

    Raises:
        UnreadableFileError: it cannot be read.
        FormatError: it is no tokenizer.json, has more tokens than the model, or no end of text.
    """
    with errors_about(path):
        try:
            backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UnreadableFileError(f"cannot be read: {error.strerror}") from None
        except Exception as error:  # the library raises bare Exception for a malformed file
            raise FormatError(f"is not a tokenizer.json: {error}") from None
        most = max(backend.get_vocab().values(), default=-1)
        if most >= vocab_size:
            raise FormatError(
                f"has a token {most}, and the model has {vocab_size} ids: name the tokenizer that "
                "it was trained with"
            )
        end = end_of_text_in(backend)
        if end is None:
            raise FormatError(
                f"has none of the tokens {', '.join(NAMES_OF_END_OF_TEXT)}: name the "
                "tokenizer.json in the run's folder, which says what ends a document"
            )
    name = backend.id_to_token(end)
    known = backend.get_added_tokens_decoder().get(end)
    if known is None or not known.special:
        backend.add_special_tokens([name])
    backend.no_truncation()
    backend.no_padding()
    backend.post_processor = processors.TemplateProcessing(
        single=[name, "$A"], special_tokens=[(name, end)]
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": name,
        "eos_token": name,
        "pad_token": name,
        "padding_side": "left",
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    return {
        "tokenizer.json": backend.to_str(pretty=True) + "\n",
        "tokenizer_config.json": json.dumps(settings, indent=2) + "\n",
    }, end
