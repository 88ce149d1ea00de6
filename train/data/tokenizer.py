"""The tokenizer: byte-level BPE, trained on the same corpus as the model."""

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from bridge import end_of_text_in
from train.system.errors import UserError

END_OF_TEXT = "<|endoftext|>"

# Text is split into words with the blank before them, numbers of up to three digits, signs, and
# white space. No token crosses these borders, so none crosses the signs of END_OF_TEXT either.
# Longer runs are cut, since training is quadratic in the longest piece, and since the library's
# regex engine gives up in the middle of some millions of blanks.
_PIECES = (
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    .replace("+", "{1,256}")
    .replace("*", "{0,256}")
)

# In a run of random letters every piece is new to training, and costs what a hundred words do that
# it has met. Of the longest runs it sees a sample.
_RUN = re.compile(r"(?<![^\W\d_])[^\W\d_]{4096,}|(?<![^\w\s])[^\w\s]{4096,}")
_SAMPLED, _OF = 256, 4096
_SMALLEST_VOCABULARY = 257  # one token for each byte, and END_OF_TEXT


def check_vocabulary(vocab_size: int) -> None:
    """Raises UserError if a tokenizer cannot have so few tokens."""
    if vocab_size < _SMALLEST_VOCABULARY:
        raise UserError(
            f"model.vocab_size: {vocab_size} is too small: the 256 bytes and the end of text "
            f"need {_SMALLEST_VOCABULARY}"
        )


class Tokenizer:
    """Turns any text into token ids and back, byte for byte.

    The end-of-text token ends documents and is never the result of encoding: where a document
    spells it out, its characters are encoded like any others. It is END_OF_TEXT with id 0 in the
    tokenizers that are trained here, and may be another one in those of other programs, see
    tokenizer_files.py.

    Attributes:
        end_of_text: the id of the end-of-text token.
    """

    def __init__(self, backend: tokenizers.Tokenizer, end_of_text: int = 0) -> None:
        """Wraps a tokenizer of the `tokenizers` library that gives text back byte for byte."""
        self._backend = backend
        self.end_of_text = end_of_text
        backend.no_truncation()  # a file may ask for it, and texts would be cut without a word
        backend.no_padding()
        backend.encode_special_tokens = True  # is not part of the saved file

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """A tokenizer with exactly `vocab_size` tokens; the same texts give the same one.

        Raises:
            UserError: the size is below 257, or the texts are too few for so many tokens.
        """
        check_vocabulary(vocab_size)
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(_PIECES), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            show_progress=False,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        backend.train_from_iterator(_sampled(texts), trainer)
        supported = backend.get_vocab_size()
        if supported < vocab_size:
            raise UserError(
                f"model.vocab_size: {vocab_size} tokens are more than the {supported} that the "
                f"training documents support: set it to {supported} or less, or add documents"
            )
        return cls(backend)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads what `save` wrote.

        Raises:
            UserError: the file is missing, unreadable, or not such a tokenizer.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            backend = tokenizers.Tokenizer.from_str(text)
        except OSError as error:
            raise UserError(f"cannot read the tokenizer {path}: {error.strerror}") from error
        except Exception as error:  # the library raises bare Exception for a malformed file
            raise UserError(f"{path} is not a tokenizer: {error}") from error
        found = end_of_text_in(backend)
        if found is None:
            raise UserError(f"{path} is not one of our tokenizers: it has no end-of-text token")
        return cls(backend, found)

    def save(self, path: str | Path) -> None:
        """Writes the tokenizer as one JSON file."""
        Path(path).write_text(self._backend.to_str(pretty=True) + "\n", encoding="utf-8")

    @functools.cached_property
    def vocab_size(self) -> int:
        """The number of ids, V; some of them may have no token."""
        return max(self._backend.get_vocab().values()) + 1

    @property
    def token_bytes(self) -> npt.NDArray[np.int32]:
        """Bytes that each id stands for, [V]; 0 for END_OF_TEXT, which is no part of a text."""
        return np.array([len(piece) for piece in self._pieces], np.int32)

    @functools.cached_property
    def _pieces(self) -> list[bytes]:
        """The bytes of each id; none for special tokens and for ids without a token."""
        pieces = [b""] * self.vocab_size
        spelled = _spelling(json.loads(self._backend.to_str())["decoder"])
        added = self._backend.get_added_tokens_decoder()
        for token, index in self._backend.get_vocab().items():
            if index not in added:
                pieces[index] = spelled(token)
            elif not added[index].special:
                pieces[index] = token.encode()
        pieces[self.end_of_text] = b""
        return pieces

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without END_OF_TEXT."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without END_OF_TEXT, computed on all cores."""
        encodings: Sequence[Any] = self._backend.encode_batch_fast(
            list(texts), add_special_tokens=False
        )
        return [encoding.ids for encoding in encodings]

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """What ids stand for in UTF-8; END_OF_TEXT is left out. A character may be cut."""
        return b"".join(map(self._pieces.__getitem__, ids))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; END_OF_TEXT is left out, and broken UTF-8 becomes U+FFFD."""
        return self.bytes_of(ids).decode(errors="replace")


def _spelling(decoder: Mapping[str, Any] | None) -> Callable[[str], bytes]:
    """How a decoder spells an ordinary token: its bytes."""
    steps = [] if decoder is None else decoder.get("decoders", [decoder])
    kinds = {step["type"]: step for step in steps}
    if "ByteLevel" in kinds:
        alphabet = byte_alphabet()
        return lambda token: b"".join(alphabet.get(sign, sign.encode()) for sign in token)
    blank = kinds.get("Metaspace", {}).get("replacement", " ")
    replace = kinds.get("Replace", {"pattern": {"String": blank}, "content": " "})
    old, new = replace["pattern"].get("String", blank), replace["content"]

    def spelled(token: str) -> bytes:
        byte = re.fullmatch("<0x([0-9A-F]{2})>", token)
        if byte and "ByteFallback" in kinds:
            return bytes.fromhex(byte[1])
        return token.replace(old, new).encode()

    return spelled


@functools.cache
def byte_alphabet() -> dict[str, bytes]:
    """The byte that each character of a byte-level tokenizer's tokens stands for."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    signs = {chr(byte): bytes([byte]) for byte in printable}
    return signs | {chr(256 + place): bytes([byte]) for place, byte in enumerate(others)}


def _sampled(texts: Iterable[str]) -> Iterator[str]:
    """The texts, with a sixteenth of each run that no ordinary text has."""
    for text in texts:
        begin = 0
        if max(map(len, text.split()), default=0) >= _OF:
            for run in _RUN.finditer(text):
                yield text[begin : run.start()]
                yield from (text[at : at + _SAMPLED] for at in range(*run.span(), _OF))
                begin = run.end()
        yield text[begin:]
