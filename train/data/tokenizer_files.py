"""Tokenizers of other programs, from a tokenizer.json or a .tiktoken file.

A tokenizer.json is a file of the `tokenizers` library, as Hugging Face's models have. A .tiktoken
file has a line per token, its bytes in base64 and its rank. It says neither how texts are cut into
words nor what ends a document: for OpenAI's files and Llama 3's, which are recognised by their
number of tokens, both are known.
"""

import base64
import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import processors

from bridge import NAMES_OF_END_OF_TEXT, end_of_text_in
from train.data.data_folder import TOKENIZER
from train.data.tokenizer import (
    END_OF_TEXT,
    Tokenizer,
    byte_alphabet,
)
from train.system.errors import UserError

PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "o200k": "|".join(
        (
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )
    ),
}
"""How texts are cut into words, by the names that OpenAI gives its tokenizers."""

_KNOWN = {
    50256: ("gpt2", 50256),
    50280: ("gpt2", 50256),  # p50k
    100256: ("cl100k", 100257),
    128000: ("cl100k", 128001),  # Llama 3
    199998: ("o200k", 199999),
}
"""Of .tiktoken files with so many tokens: the pattern, and the id of the end of text."""

_MOST_PADDING = 1024
"""Ids that models have at most in addition to their tokenizer's, for a round number."""

_PROBE = (
    "The cat's 12345 na\u00efve caf\u00e9s \u2014\n\n\tdef f(x):\r\n    return x ** 2  # "
    "\u4e2d\u6587 \u0434\u0430 \U0001f642 \u00b2 ABC\n"
)


_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
"""How tokenizers that know no bytes for it write a blank; decoding makes it a blank again."""

_NEITHER = (
    "is neither a tokenizer.json nor a .tiktoken file, which has a line per token, its bytes in "
    "base64 and its rank"
)

_NAME_ONE = "name a tokenizer.json or .tiktoken file"


def read_tokenizer(
    path: str | Path,
    vocab_size: int,
    *,
    end_of_text: str | int | None = None,
    pattern: str | None = None,
) -> Tokenizer:
    """Reads a tokenizer.json or a .tiktoken file, whichever the content is.

    Args:
        path: the file.
        vocab_size: ids that there must be. Those that a .tiktoken file does not list, as it leaves
            its special tokens out, become special tokens without a use, and so do those behind the
            last of a tokenizer.json, as models have that were padded to a round number of tokens.
        end_of_text: the token that ends documents, by its name, or its id; None finds it, see
            `end_of_text_in`. In a .tiktoken file, None takes the first id that has no token.
        pattern: of a .tiktoken file, how texts are cut into words: a name of PATTERNS, or a regular
            expression; None is "cl100k".

    Raises:
        UserError: it cannot be read, has another size, names no end of text, or does not give every
            text back byte for byte. The message begins with the path.
    """
    try:
        content = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        inside = Path(path) / TOKENIZER
        meant = f"did you mean {inside}?" if inside.is_file() else _NAME_ONE
        raise UserError(f"{path}: cannot be read: {error.strerror}: {meant}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {_NEITHER}") from error
    try:
        if re.match(r"\s*\{", content):
            tokenizer = _from_json(content, vocab_size, end_of_text)
        else:
            tokenizer = _from_ranks(_ranks(content), vocab_size, end_of_text, pattern)
        _check_that_texts_come_back(tokenizer)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    if tokenizer.vocab_size != vocab_size:
        raise UserError(
            f"{path}: has {tokenizer.vocab_size} tokens, and model.vocab_size is {vocab_size}: "
            f"set model.vocab_size: {tokenizer.vocab_size}, or name the tokenizer of that model"
        )
    return tokenizer


def _from_json(content: str, vocab_size: int, end_of_text: str | int | None) -> Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exception for a malformed file
        raise ValueError(f"is not a tokenizer.json: {error}") from error
    backend = tokenizers.Tokenizer.from_str(json.dumps(_exact(json.loads(content))))
    _pad(backend, vocab_size)
    tokenizer = Tokenizer(backend)
    usual = end_of_text_in(backend)
    found = usual if end_of_text is None else _id_of(backend, end_of_text)
    if found is None:
        raise ValueError(
            f"has none of the tokens {', '.join(NAMES_OF_END_OF_TEXT)}: name the one that ends "
            "documents with end_of_text"
        )
    tokenizer.end_of_text = found
    name = backend.id_to_token(found)
    known = backend.get_added_tokens_decoder().get(found)
    if known is None or not known.special:
        backend.add_special_tokens([name])  # so that no text can spell it; its id stays
    if found != usual:  # whoever reads the file finds it there: it stands behind every text
        backend.post_processor = processors.TemplateProcessing(
            single=["$A", name], special_tokens=[(name, found)]
        )
    return tokenizer


def _exact(content: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json without what makes ids random or takes characters from a text.

    Raises:
        ValueError: it would be another tokenizer without.
    """
    if "dropout" in content["model"]:  # of BPE, which is for training models
        content["model"]["dropout"] = None
    for token in content["added_tokens"]:
        token["lstrip"] = token["rstrip"] = False
    # Ids can spell what NFC would change, too, and texts in that form have the same ids.
    kept = [part for part in _parts(content, "normalizer", "normalizers") if part["type"] != "NFC"]
    content["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    splitters = _parts(content, "pre_tokenizer", "pretokenizers")
    lossy = [part["type"] for part in kept if part["type"] != "Prepend" and part != _SPACES]
    lossy += [part["type"] for part in splitters if part.get("behavior") == "Removed"]
    if lossy:
        raise ValueError(
            "does not give every text back byte for byte, as a byte-level BPE does: its "
            f"{lossy[0]} changes texts"
        )
    return content


def _parts(content: dict[str, Any], key: str, of_sequence: str) -> list[dict[str, Any]]:
    """The steps of a normalizer or a pre-tokenizer, which may have one or none."""
    part = content.get(key)
    if not part:
        return []
    return list(part[of_sequence]) if part["type"] == "Sequence" else [part]


def _pad(backend: tokenizers.Tokenizer, vocab_size: int) -> None:
    """Adds special tokens without a use up to the model's last id, if only a few are missing."""
    size = backend.get_vocab_size()
    without_gaps = max(backend.get_vocab().values(), default=0) + 1 == size
    if without_gaps and size < vocab_size <= size + _MOST_PADDING:
        backend.add_special_tokens([f"<|unused {index}|>" for index in range(size, vocab_size)])


def _id_of(backend: tokenizers.Tokenizer, end_of_text: str | int) -> int:
    found = end_of_text if isinstance(end_of_text, int) else backend.token_to_id(end_of_text)
    if found is None or found not in backend.get_vocab().values():
        raise ValueError(f"has no token {end_of_text}: correct end_of_text")
    return found


class _Ranks(NamedTuple):
    """The tokens of a .tiktoken file by their bytes, and the other way round."""

    by_bytes: Mapping[bytes, int]
    by_rank: Mapping[int, bytes]


def _ranks(content: str) -> _Ranks:
    """Raises ValueError where the content is not that of a .tiktoken file."""
    found: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            found[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            if not found:
                raise ValueError(_NEITHER) from error
            raise ValueError(f"line {number} is not a token in base64 and its rank") from error
    lines = sum(bool(line.strip()) for line in content.splitlines())
    missing = [byte for byte in range(256) if bytes([byte]) not in found]
    ranks = {rank: token for token, rank in found.items()}
    if not found:
        raise ValueError("is empty")
    if b"" in found or len(found) != lines or len(ranks) != lines or min(ranks) < 0:
        raise ValueError("has a token or a rank twice, an empty token, or a rank below 0")
    if missing:
        raise ValueError(f"has no token for {len(missing)} of the 256 bytes, such as {missing[0]}")
    return _Ranks(found, ranks)


def _from_ranks(
    ranks: _Ranks, vocab_size: int, end_of_text: str | int | None, pattern: str | None
) -> Tokenizer:
    usual_pattern, usual_end = _KNOWN.get(len(ranks.by_rank), ("cl100k", None))
    pattern = pattern or usual_pattern
    if usual_end is None:
        usual_end = next(index for index in itertools.count() if index not in ranks.by_rank)
    if isinstance(end_of_text, str):
        raise ValueError(f"names no special tokens: give end_of_text as an id, not {end_of_text}")
    end = usual_end if end_of_text is None else end_of_text
    needed = max(*ranks.by_rank, end) + 1
    if end in ranks.by_rank or end < 0:
        raise ValueError(f"has an ordinary token {end}: end_of_text must be an id that is free")
    if vocab_size < needed:
        raise ValueError(
            f"needs {needed} ids with the end of text, {end}, and model.vocab_size is "
            f"{vocab_size}: it must be at least {needed}"
        )

    signs = {byte: sign for sign, byte in byte_alphabet().items()}
    spelled = {
        rank: "".join(signs[bytes([byte])] for byte in token)
        for rank, token in ranks.by_rank.items()
    }
    free = [index for index in range(vocab_size) if index not in spelled]
    names = {index: END_OF_TEXT if index == end else f"<|unused {index}|>" for index in free}
    # Those between others must be listed among them, or the library would number them anew.
    between = {name: index for index, name in names.items() if index < max(spelled)}
    expression = PATTERNS.get(pattern, pattern)
    content = {
        "version": "1.0",
        "added_tokens": [_special(index, name) for index, name in names.items()],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": expression},
                    "behavior": "Isolated",
                    "invert": False,
                },
                _byte_level(),
            ],
        },
        "decoder": _byte_level(),
        "model": {
            "type": "BPE",
            "ignore_merges": True,  # a whole word that is a token is that token
            "vocab": {token: rank for rank, token in spelled.items()} | between,
            "merges": [[spelled[left], spelled[right]] for left, right in _merges(ranks)],
        },
    }
    try:
        tokenizers.Regex(expression)
        backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"cannot be used with tiktoken_pattern {pattern}: {error}") from error
    return Tokenizer(backend, end)


def _merges(ranks: _Ranks) -> list[tuple[int, int]]:
    """All pairs of tokens that make another one together, the first to be joined first."""
    found = []
    for token, rank in ranks.by_bytes.items():
        for cut in range(1, len(token)):
            left, right = ranks.by_bytes.get(token[:cut]), ranks.by_bytes.get(token[cut:])
            if left is not None and right is not None:
                found.append((rank, left, right))
    return [(left, right) for _, left, right in sorted(found)]


def _special(index: int, name: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": name, **flags, "special": True}


def _byte_level() -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }


def _check_that_texts_come_back(tokenizer: Tokenizer) -> None:
    """Raises ValueError where a text is not what its tokens spell."""
    found = tokenizer.bytes_of(tokenizer.encode(_PROBE))
    if found.removeprefix(b" ") != _PROBE.encode():  # some put a blank before every text
        raise ValueError(
            "does not give every text back byte for byte, as a byte-level BPE does: "
            f"{_PROBE!r} becomes {found.decode(errors='replace')!r}"
        )
