"""Token files: the documents of one split of one domain, as ids one after the other.

    {text,code,mixed}/{train,validation,test}/tokens.npy    uint16; uint32 for large vocabularies
    {text,code,mixed}/{train,validation,test}/ends.npy      int64: each document's end, exclusive
    {text,code,mixed}/{train,validation,test}/learned.npy   bool: which tokens are learned

The last is there where prepare.answers_only asks for it. Each document ends with END_OF_TEXT.
"mixed" has the documents of both domains. Choose between recipes on validation, and report the
chosen one on test.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from train.system.errors import UserError

DOMAINS = ("text", "code", "mixed")
SPLITS = ("train", "validation", "test")
TOKENS = "tokens.npy"


@dataclasses.dataclass(frozen=True)
class SplitCounts:
    """The size of one split of one domain; tokens include END_OF_TEXT, bytes are UTF-8."""

    documents: int
    bytes: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class TokenFile:
    """The documents of one split, memory-mapped.

    Attributes:
        tokens: [N] uint16 or uint32.
        ends: [number of documents] int64, rising; the last is N.
        learned: which tokens are learned [N]; None where all are.
    """

    tokens: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    ends: npt.NDArray[np.int64]
    learned: npt.NDArray[np.bool_] | None = None


def token_dtype(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The type in which token ids are stored."""
    return np.uint16 if vocab_size <= 65535 else np.uint32


class SplitWriter:
    """Writes one split's token files of every domain, a document at a time.

    Attributes:
        counts: the sizes by domain; complete when the block has ended.
    """

    def __init__(
        self, data_dir: Path, split: str, dtype: npt.DTypeLike, *, masked: bool = False
    ) -> None:
        """Creates the folders in `data_dir`; `masked` writes which tokens are learned."""
        self._stack = contextlib.ExitStack()
        self._files: dict[str, tuple[_ArrayFile, _ArrayFile]] = {}
        self._masks: dict[str, _ArrayFile] = {}
        self._bytes = dict.fromkeys(DOMAINS, 0)
        self.counts: dict[str, SplitCounts] = {}
        for domain in DOMAINS:
            folder = data_dir / domain / split
            folder.mkdir(parents=True)
            tokens = self._stack.enter_context(_ArrayFile(folder / "tokens.npy", dtype))
            ends = self._stack.enter_context(_ArrayFile(folder / "ends.npy", np.int64))
            self._files[domain] = tokens, ends
            if masked:
                mask = self._stack.enter_context(_ArrayFile(folder / "learned.npy", np.bool_))
                self._masks[domain] = mask

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.counts = {
            domain: SplitCounts(documents=ends.size, bytes=self._bytes[domain], tokens=tokens.size)
            for domain, (tokens, ends) in self._files.items()
        }

    def add(
        self, domain: str, size: int, ids: npt.NDArray[Any], learned: npt.NDArray[np.bool_]
    ) -> None:
        """Adds a document of a domain.

        Args:
            domain: "text" or "code".
            size: its bytes in UTF-8.
            ids: its tokens with END_OF_TEXT.
            learned: which of them are learned.
        """
        for name in (domain, "mixed"):
            tokens, ends = self._files[name]
            tokens.append(ids)
            ends.append(np.array([tokens.size]))
            self._bytes[name] += size
            if self._masks:
                self._masks[name].append(learned)


class _ArrayFile:
    """A one-dimensional .npy file that grows; numpy's header has room for the length."""

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self.size = 0
        self._stream = open(path, "wb")  # noqa: SIM115 - closed in __exit__
        self._write_header()

    def __enter__(self) -> "_ArrayFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.seek(0)
        self._write_header()
        self._stream.close()

    def append(self, array: npt.NDArray[Any]) -> None:
        self._stream.write(array.astype(self._dtype).tobytes())
        self.size += len(array)

    def _write_header(self) -> None:
        description = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(self._stream, description)


def check_ids(path: Path, vocab_size: int) -> None:
    """Makes sure that all tokens of a file are of the vocabulary: JAX would take others for it too.

    Raises:
        UserError: one is not, or the file cannot be read.
    """
    try:
        tokens = np.load(path, mmap_mode="r")
        place = int(tokens.argmax()) if tokens.size else None
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if place is not None and not 0 <= int(tokens.min()) <= int(tokens[place]) < vocab_size:
        raise UserError(
            f"{path} has token {tokens[place]} at place {place}, and the vocabulary has "
            f"{vocab_size} tokens: run python -m train.prepare again"
        )


def read_tokens(data_dir: str | Path, domain: str, split: str) -> TokenFile:
    """Opens the token files of a split.

    Args:
        data_dir: a folder that `train.prepare` wrote.
        domain: "text", "code" or "mixed".
        split: "train", "validation" or "test".

    Raises:
        UserError: a file is missing or unreadable, or the two do not fit.
    """
    folder = Path(data_dir) / domain / split
    arrays = []
    for name in (TOKENS, "ends.npy"):
        try:
            arrays.append(np.load(folder / name, mmap_mode="r"))
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"cannot read {folder / name}: {error}") from error
    tokens, ends = arrays
    if tokens.ndim != 1 or tokens.dtype not in (np.uint16, np.uint32):
        raise UserError(f"{folder / 'tokens.npy'} does not hold a list of token ids")
    if ends.ndim != 1 or ends.dtype != np.int64 or not len(ends):
        raise UserError(f"{folder / 'ends.npy'} does not hold a list of document ends")
    if ends[0] < 1 or np.any(np.diff(ends) < 1) or ends[-1] != len(tokens):
        raise UserError(f"the document ends in {folder} do not fit its {len(tokens)} tokens")
    return TokenFile(tokens, ends, _read_mask(folder, len(tokens)))


def _read_mask(folder: Path, count: int) -> npt.NDArray[np.bool_] | None:
    path = folder / "learned.npy"
    if not path.exists():
        return None
    try:
        mask: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if mask.shape != (count,) or mask.dtype != np.bool_:
        raise UserError(f"{path} does not say of {count} tokens whether they are learned")
    return mask
