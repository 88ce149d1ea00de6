"""The tokenizer: byte-level BPE, trained on the corpus that the model is trained on."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from train.system.errors import UserError

END_OF_TEXT = "<|endoftext|>"

# Words with the blank before them, numbers of up to three digits, runs of signs, and white space:
# a token never reaches across these, so it never reaches across the signs of END_OF_TEXT either.
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


class Tokenizer:
    """Turns any text into token ids and back, byte for byte.

    END_OF_TEXT has id 0. It ends documents and is never the result of encoding: where a document
    spells it out, its characters are encoded like any others.

    Attributes:
        end_of_text: the id of END_OF_TEXT.
    """

    end_of_text = 0

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Wraps a byte-level BPE tokenizer of the `tokenizers` library."""
        self._backend = backend
        backend.encode_special_tokens = True  # is not part of the saved file

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """A tokenizer of exactly `vocab_size` tokens; the same texts give the same one.

        Raises:
            UserError: the size is below 257, or the texts do not have that many tokens in them.
        """
        if vocab_size < _SMALLEST_VOCABULARY:
            raise UserError(
                f"model.vocab_size: {vocab_size} is too small: the 256 bytes and the end of text "
                f"need {_SMALLEST_VOCABULARY}"
            )
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
            backend = tokenizers.Tokenizer.from_str(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read the tokenizer {path}: {error.strerror}") from error
        except Exception as error:  # the library raises bare Exception for a malformed file
            raise UserError(f"{path} is not a tokenizer: {error}") from error
        if backend.token_to_id(END_OF_TEXT) != cls.end_of_text:
            raise UserError(f"{path} is not one of our tokenizers: id 0 is not {END_OF_TEXT}")
        return cls(backend)

    def save(self, path: str | Path) -> None:
        """Writes the tokenizer as one JSON file."""
        Path(path).write_text(self._backend.to_str(pretty=True) + "\n", encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        """The number of tokens, V."""
        return self._backend.get_vocab_size()

    @property
    def token_bytes(self) -> npt.NDArray[np.int32]:
        """Bytes that each id stands for, [V]; 0 for END_OF_TEXT, which is no part of a text."""
        # The byte-level alphabet writes each byte as one character.
        sizes = np.zeros(self.vocab_size, np.int32)
        for token, index in self._backend.get_vocab().items():
            sizes[index] = 0 if index == self.end_of_text else len(token)
        return sizes

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without END_OF_TEXT."""
        return self._backend.encode(text).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without END_OF_TEXT, computed on all cores."""
        encodings: Sequence[Any] = self._backend.encode_batch_fast(list(texts))
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; END_OF_TEXT is left out, and broken UTF-8 becomes U+FFFD."""
        return self._backend.decode(list(ids), skip_special_tokens=True)


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
