"""Byte-level BPE (train/data/tokenizer.py)."""

import os
import random
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import tokenizers
from helpers.paths import ROOT
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from train.data.tokenizer import END_OF_TEXT, Tokenizer
from train.system.errors import UserError

TEXTS = [
    "the cat sat on the mat, and the dog sat on the cat\n" * 3,
    "def the_cat(mat):\n    return mat.sat(on=2024, at='the\u00e9')\n" * 3,
    f"the end of text is {END_OF_TEXT}{END_OF_TEXT}\n" * 9,
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 300)


# Text as it comes, and text made of what could confuse the tokenizer.
texts = st.text() | st.lists(
    st.sampled_from([END_OF_TEXT, "<|", "the", " ", "\r\n", "\t", "\u0120", "\u00e9", "\0", "7"])
).map("".join)


@given(text=texts)
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.end_of_text not in ids
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())
    assert tokenizer.encode_batch([text, "x"])[0] == ids


@given(ids=st.lists(st.integers(0, 299)))
def test_ids_read_as_the_library_reads_them(tokenizer, ids):
    assert tokenizer.decode(ids) == tokenizer._backend.decode(ids)


def test_the_control_token_cannot_be_forged(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    for each in (tokenizer, Tokenizer.load(tmp_path / "tokenizer.json")):
        for ids in (each.encode(f"a{END_OF_TEXT}b"), each.encode_batch([f"a{END_OF_TEXT}b"])[0]):
            assert each.end_of_text not in ids
            assert each.decode(ids) == f"a{END_OF_TEXT}b"
        assert each.decode([*each.encode("a"), each.end_of_text, *each.encode("b")]) == "ab"


def test_sizes(tokenizer):
    assert tokenizer.vocab_size == 300
    assert tokenizer.token_bytes.shape == (300,) and tokenizer.token_bytes.dtype == np.int32
    assert tokenizer.token_bytes[tokenizer.end_of_text] == 0
    assert (tokenizer.token_bytes[1:257] == 1).all() and (tokenizer.token_bytes[257:] > 1).all()
    assert len(tokenizer.encode("the cat")) < len("the cat")


def test_training_is_deterministic_and_saving_keeps_it(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "1.json")
    Tokenizer.train(iter(TEXTS), 300).save(tmp_path / "2.json")
    Tokenizer.load(tmp_path / "1.json").save(tmp_path / "3.json")
    saved = [(tmp_path / f"{n}.json").read_text() for n in (1, 2, 3)]
    assert saved[0] == saved[1] == saved[2]


def test_a_vocabulary_that_the_corpus_cannot_fill():
    with pytest.raises(UserError, match=r"model.vocab_size: 5000 .* set it to (\d+) or less") as e:
        Tokenizer.train(TEXTS, 5000)
    supported = int(str(e.value).split("set it to ")[1].split()[0])
    assert Tokenizer.train(TEXTS, supported).vocab_size == supported
    with pytest.raises(UserError, match=f"more than the {supported} "):
        Tokenizer.train(TEXTS, supported + 1)


def test_a_vocabulary_without_room_for_the_bytes():
    with pytest.raises(UserError, match=r"model.vocab_size: 256 is too small.*257"):
        Tokenizer.train(TEXTS, 256)
    smallest = Tokenizer.train(TEXTS, 257)
    assert smallest.decode(smallest.encode("\u00e9")) == "\u00e9"


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b'{"model": 1}', b"foreign"])
def test_a_broken_file_is_named(tokenizer, tmp_path, content):
    path = tmp_path / "tokenizer.json"
    if content == b"foreign":
        tokenizer.save(path)
        path.write_text(path.read_text().replace(END_OF_TEXT, "<|other|>"))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Tokenizer.load(path)


UNBOUNDED = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UNITS = [" ", "\t", "\n", "\r\n", "a", "A", "\u4e2d", "\u00e9", "-", "7", "\0"]


def pieces(tokenizer, text):
    """What a tokenizer's file makes of a text, for any program of the `tokenizers` library."""
    before = tokenizers.Tokenizer.from_str(tokenizer._backend.to_str()).pre_tokenizer
    return [text[begin:end] for _, (begin, end) in before.pre_tokenize_str(text)]


@given(
    text=st.lists(
        st.tuples(
            st.sampled_from(UNITS),
            st.integers(1, 250),
        ),
        max_size=12,
    )
    .map(lambda runs: "".join(unit * (count // len(unit)) for unit, count in runs))
    .filter(lambda text: not re.search(r"\s{250}|[^\W\d]{250}|[^\w\s]{250}", text))
)
def test_ordinary_text_is_cut_where_words_end(tokenizer, text):
    whole = pre_tokenizers.Split(tokenizers.Regex(UNBOUNDED), "isolated")
    assert pieces(tokenizer, text) == [piece for piece, _ in whole.pre_tokenize_str(text)]


@pytest.mark.parametrize("unit", [*UNITS, " \n", "=-", "acgt", "\U0001f600", "_"])
@pytest.mark.parametrize("around", ["", "x", "'", "5", "."])
def test_no_piece_is_long_and_nothing_is_lost(tokenizer, unit, around):
    text = around + unit * (20_000 // len(unit)) + around
    cut = pieces(tokenizer, text)
    assert "".join(cut) == text and max(map(len, cut)) <= 2 * 256
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("alphabet", [" ", "-", "a", "ACGT", "\u4e2d\u6587\u8a9e\u8a00\u5b57"])
def test_an_unbroken_run_trains_about_as_fast_as_prose(alphabet):
    letters = random.Random(0)
    run = "".join(letters.choices(alphabet, k=100_000))
    prose = "".join(
        "".join(letters.choices("etaoinshr", k=letters.randrange(1, 9))) + " "
        for _ in range(20_000)
    )
    seconds = []
    for text in (prose, run):
        start = time.process_time()
        tokenizer = Tokenizer.train([text], 262)
        assert tokenizer.decode(tokenizer.encode(text)) == text
        seconds.append(time.process_time() - start)
    assert seconds[1] < 5 * seconds[0] + 0.2


def test_forked_processes_encode_without_a_warning():
    program = (
        "import os\n"
        "from train.data.tokenizer import Tokenizer\n"
        "tokenizer = Tokenizer.train(['the cat ' * 9] * 9, 260)\n"
        "ids = tokenizer.encode_batch(['a', 'b'] * 50)\n"
        "child = os.fork()\n"
        "same = tokenizer.encode_batch(['a', 'b'] * 50) == ids\n"
        "if child == 0: os._exit(not same)\n"
        "raise SystemExit(os.waitpid(child, 0)[1])\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    # From 3.12 on, Python warns of every fork beside threads, and the tokenizer has some.
    line = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    done = subprocess.run(
        line,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
