"""What held-out splits lose to training, and the token files (preparation/assemble.py)."""

import random
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from train.data.token_files import DOMAINS, SPLITS, read_tokens
from train.data.tokenizer import Tokenizer
from train.preparation import assemble, encode, leaks, shards
from train.preparation.account import Account, Source
from train.preparation.formats import Document
from train.preparation.splits import Borders, shuffle_key

PIECES_THAT_LEAK = leaks.pieces_that_leak
BORDERS = Borders(dict.fromkeys(("text", "code", "both"), (1 << 18, 1 << 19)))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """One whose tokens are bytes."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    Tokenizer.train([], 257).save(path)
    return path


@pytest.fixture
def small(monkeypatch):
    """Windows, shards and chunks so small that a few letters fill several."""
    monkeypatch.setattr(leaks, "WINDOW", 3)
    monkeypatch.setattr(leaks, "_CHUNK_TOKENS", 10)
    monkeypatch.setattr(shards, "SHARD_BYTES", 25)


@pytest.fixture
def no_leaks_between_documents(monkeypatch):
    """Looks within documents only."""
    monkeypatch.setattr(leaks, "pieces_that_leak", lambda *_: set())


def split_of(name: str, seed: int = 0) -> str:
    return BORDERS.split("both", shuffle_key(seed, name))


def assembled(texts: list[tuple[str, str]], tokenizer: Path, seed: int = 0):
    """The texts of each domain and split in the token files, what else is told, and the files."""
    documents = [
        Document(text, domain, str(i), str(i), 0) for i, (domain, text) in enumerate(texts)
    ]
    account = Account([Source("prepare.text", "somewhere", None)])
    account.parts[0].documents.update(domain for domain, _ in texts)
    with TemporaryDirectory() as root:
        folder, data_dir = Path(root, "partial"), Path(root, "data")
        shards.write(folder, 0, iter(documents))
        count = len(shards.names(folder))
        for stage in (
            encode.Encode(folder, BORDERS, seed, tokenizer),
            leaks.FindShared(folder),
        ):
            for rank in reversed(range(count)):
                stage(None, rank, count)
        loaded = Tokenizer.load(tokenizer)
        result = assemble.assemble(folder, data_dir, loaded, account)
        found = {}
        for domain, splits in result.counts.items():
            for split, counts in splits.items():
                if not counts.documents:
                    continue
                file = read_tokens(data_dir, domain, split)
                parts = np.split(file.tokens, file.ends[:-1])
                assert all(part[-1] == loaded.end_of_text for part in parts)
                written = [loaded.decode(part.tolist()) for part in parts]
                size = sum(map(len, written))
                assert vars(counts) == {
                    "documents": len(written),
                    "bytes": size,
                    "tokens": size + len(written),
                }
                found[domain, split] = written
        if leaks.pieces_that_leak is PIECES_THAT_LEAK:
            check_no_shared_run(data_dir)
    return found, result.cut, account.parts[0]


def check_no_shared_run(data_dir: Path) -> None:
    """No WINDOW + 1 tokens in a row are in training and in a held-out file, of any domain."""

    def runs(split: str) -> set[tuple[int, ...]]:
        width = leaks.WINDOW + 1
        found = set()
        for domain in DOMAINS:
            tokens = np.load(data_dir / domain / split / "tokens.npy").tolist()
            found |= {tuple(tokens[i : i + width]) for i in range(len(tokens) - width + 1)}
        return found

    learnt = runs("train")
    for split in SPLITS[1:]:
        assert not runs(split) & learnt


def windows(text: str) -> set[str]:
    return {text[i : i + leaks.WINDOW] for i in range(len(text) - leaks.WINDOW + 1)}


def remains(text: str, learnt: set[str]) -> list[str]:
    """A held-out text without what is learnt, by looking at one letter after the other."""
    width = leaks.WINDOW
    if not windows(text) & learnt:
        return [text]
    marked = "".join(
        "\0"
        if any(text[j : j + width] in learnt for j in range(max(i - width + 1, 0), i + 1))
        else c
        for i, c in enumerate(text)
    )
    return [piece for piece in marked.split("\0") if len(piece) >= width]


texts = st.lists(
    st.tuples(st.sampled_from(["text", "code"]), st.text("ab", min_size=1, max_size=14)),
    min_size=1,
    max_size=12,
)


@pytest.mark.usefixtures("small")
@settings(max_examples=30, deadline=None)
@given(texts)
def test_what_follows_an_end_of_text_as_in_training_is_cut(tokenizer, texts):
    """`assembled` looks at all token files; here, for what else is lost to that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaks, "pieces_that_leak", lambda *_: set())
        without, *_ = assembled(texts, tokenizer)
    found, _, part = assembled(texts, tokenizer)
    assert part.documents.total() + part.rejected.total() == len(texts)
    for key, written in without.items():
        left = found.get(key, [])
        if key[1] == "train":
            assert left == written
        rest = iter(written)
        for text in left:  # in the same order, each without some of its beginning
            whole = next(other for other in rest if other.endswith(text))
            assert (len(whole) - len(text)) % leaks.WINDOW == 0


@pytest.mark.usefixtures("small", "no_leaks_between_documents")
@example([("text", "a" * 14)] * 12)
@settings(max_examples=30, deadline=None)
@given(texts)
def test_all_that_training_has_too_is_cut_and_nothing_else(tokenizer, texts):
    found, cut, part = assembled(texts, tokenizer)
    named = [(domain, text, split_of(str(i))) for i, (domain, text) in enumerate(texts)]
    learnt = set().union(*(windows(text) for _, text, split in named if split == "train"))
    expected: dict[tuple[str, str], Counter] = {}
    changed = gone = 0
    for domain, text, split in named:
        pieces = [text] if split == "train" else remains(text, learnt)
        changed += pieces != [text]
        gone += not pieces
        for name in (domain, "mixed") if pieces else ():
            expected.setdefault((name, split), Counter()).update(pieces)
    assert {key: Counter(written) for key, written in found.items()} == expected
    assert (cut, part.rejected["in training"]) == (changed, gone)
    assert part.documents.total() == len(texts) - gone
    for split in SPLITS[1:]:
        assert not any(windows(text) & learnt for text in found.get(("mixed", split), []))


def named_in(split: str, count: int) -> list[int]:
    return [i for i in range(60) if split_of(str(i)) == split][:count]


def test_a_passage_of_its_full_length_is_cut_and_a_shorter_one_stays(tokenizer):
    """With the real width, and from code to text."""
    source = "".join(random.Random(0).choices("abcdefghijklmnop", k=700))
    width = leaks.WINDOW
    passage, before, after = source[:width], source[100:200], source[300:400]
    (train, _), held_out = named_in("train", 2), named_in("test", 5)
    contents = {
        train: source[500:600] + passage + source[600:700],
        held_out[0]: before + passage + after,
        held_out[1]: before + passage[:-1] + after[::-1],
        held_out[2]: before[:30] + passage + after[:60],
        held_out[3]: passage,
        held_out[4]: passage[1:],
    }
    listed = [
        ("code" if i == train else "text", contents.get(i, f"no. {i}"))
        for i in range(max(contents) + 1)
    ]
    found, cut, part = assembled(listed, tokenizer)
    tests = Counter(text for text in found["text", "test"] if not text.startswith("no. "))
    assert tests == Counter(
        [before, after, contents[held_out[1]], after[:60], contents[held_out[4]]]
    )
    assert cut == 3 and part.rejected == {"in training": 1}
    assert part.examples == {"in training": [str(held_out[3])]}


@pytest.mark.usefixtures("small", "no_leaks_between_documents")
def test_two_documents_side_by_side_share_no_window(tokenizer):
    """The end of one training document and the start of the next are no passage."""
    training, (held_out,) = named_in("train", 20), named_in("validation", 1)
    listed = [
        ("text", "xx" if i in training else "ab") for i in range(max(held_out, *training) + 1)
    ]
    listed[held_out] = ("text", "xxxx")
    found, cut, _ = assembled(listed, tokenizer)
    assert not cut and "xxxx" in found["text", "validation"]


@pytest.mark.usefixtures("small")
def test_the_order_is_the_seeds_and_not_the_shards(tokenizer, monkeypatch):
    listed = [(("text", "code")[i % 2], f"{chr(97 + i)}-" * 3) for i in range(26)]
    found, *_ = assembled(listed, tokenizer)
    monkeypatch.setattr(shards, "SHARD_BYTES", 1 << 20)
    whole, *_ = assembled(listed, tokenizer)
    assert whole == found
    mixed, both = whole["mixed", "train"], (whole["text", "train"], whole["code", "train"])
    assert mixed != sorted(mixed) and mixed not in (both[0] + both[1], both[1] + both[0])
    for domain in both:
        assert [text for text in mixed if text in domain] == domain
    other, *_ = assembled(listed, tokenizer, seed=1)
    assert other["mixed", "train"] != mixed
