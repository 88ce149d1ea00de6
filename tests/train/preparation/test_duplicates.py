"""Documents that repeat others (train/preparation/duplicates.py)."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.preparation import duplicates, shards
from train.preparation.formats import Document


def write(folder, texts: list[str]) -> int:
    """Makes shards of texts, and tells their number."""
    documents = (Document(text, "text", str(i), str(i), 0) for i, text in enumerate(texts))
    shards.write(folder, 0, documents)
    return len(shards.names(folder))


def kept(folder, documents) -> list[int]:
    """The numbers of the texts that are left."""
    count = len(shards.names(folder))
    return [int(d.name) for rank in range(count) for d in documents(folder, rank)]


def exact(folder, texts: list[str], ranges: int) -> list[int]:
    write(folder, texts)
    find = duplicates.FindExact(folder)
    for rank in reversed(range(ranges)):
        find(None, rank, ranges)
    return kept(folder, shards.without_exact_duplicates)


@pytest.mark.parametrize("ranges", [1, 2, 7])
@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=40))
def test_the_first_of_equal_documents_stays(tmp_path_factory, ranges, texts):
    first = {text: i for i, text in reversed(list(enumerate(texts)))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", 7)
        found = exact(tmp_path_factory.mktemp("exact"), texts, ranges)
    assert found == sorted(first.values())


def test_documents_are_equal_by_all_their_bytes(tmp_path):
    texts = ["a", "A", "a ", "a\n", "a\r\n", "\u00e9", "e\u0301", "a" * 9, "a" * 10, "a"]
    assert exact(tmp_path, texts, 1) == list(range(9))


def test_more_documents_are_divided_into_more_ranges(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "_RANGE_DOCUMENTS", 10)
    write(tmp_path, [str(i) for i in range(35)])
    assert duplicates.hash_ranges(tmp_path) == 4


# Near-duplicates


def near(folder, texts: list[str], shard_bytes: int = 1 << 20) -> list[int]:
    """What is left after the steps of near-duplicates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", shard_bytes)
        count = write(folder, texts)
    duplicates.FindExact(folder)(None, 0, 1)
    for rank in range(count):
        documents = duplicates.ReadShard(folder)(None, rank, count)
        duplicates.Signatures(folder).run(documents, rank, count)
    for band in range(duplicates.BANDS):
        duplicates.Buckets(folder).run(None, band, duplicates.BANDS)
    duplicates.Cluster(folder).run(None, 0, 1)
    return kept(folder, shards.without_duplicates)


def words(seed: int, count: int = 200) -> list[str]:
    drawn = random.Random(seed)
    return [
        "".join(drawn.choices("abcdefghijklmnop", k=drawn.randrange(2, 9))) for _ in range(count)
    ]


def changed(text: list[str], *places: int) -> str:
    return " ".join("other" if i in places else word for i, word in enumerate(text))


def test_nearly_equal_documents_are_found_and_others_are_not(tmp_path):
    texts = []
    for seed in range(30):  # pairs that differ in a word, one after the other or far apart
        own = words(seed)
        texts += [changed(own), changed(own, 20 + 5 * seed)]
    texts = texts[::2] + texts[1::2]
    unrelated = [changed(words(seed)) for seed in range(100, 160)]
    left = near(tmp_path, texts + unrelated, shard_bytes=20_000)
    assert left[-60:] == list(range(60, 120))
    pairs = [i % 30 for i in left[:-60]]
    assert sorted(pairs) == list(range(30))  # one of each


def test_where_documents_lie_decides_nothing(tmp_path):
    """In one shard or in many; one of them loses all its documents before."""
    texts = [changed(words(i // 3), *[50] * (i % 3), *[100] * (i % 2)) for i in range(24)]
    texts[4:4] = [texts[0]] * 8
    left = [near(tmp_path / str(size), texts, size) for size in (1 << 20, 3000, 1)]
    assert left[0] == left[1] == left[2] and len(left[0]) == 8


@pytest.mark.parametrize("short", ["", "!?", "one", "one two", "one two three four"])
def test_short_documents_are_compared_whole(tmp_path, short):
    texts = [f"{short} .", f"{short} ...", f"{short} and more", f"{short.upper()} ,", "else"]
    left = near(tmp_path, texts)
    if any(map(str.isalpha, short)):
        assert left[-2:] == [2, 4] and len(left) == 3
    else:
        assert left == [0, 1, 2, 3, 4]  # nothing in it could be compared


def test_case_and_signs_and_spaces_do_not_hide_a_copy(tmp_path):
    text = " ".join(words(0))
    assert len(near(tmp_path, [text, text.upper(), text.replace(" ", ",\n\t")])) == 1


def test_documents_that_share_half_of_their_words_stay(tmp_path):
    own = words(0)
    texts = [
        " ".join(own),
        " ".join(own[:100] + words(1, 100)),
        " ".join(own[100:] + words(2, 100)),
    ]
    assert near(tmp_path, texts) == [0, 1, 2]


def test_a_long_document_is_read_in_pieces(tmp_path, monkeypatch):
    """The least of the pieces' hashes is the least of all."""
    text = " ".join(words(0, 10_000))
    signatures = duplicates.Signatures(tmp_path)
    shingles = signatures.get_shingles(text)
    assert len(shingles) == 9_996 and np.all(np.diff(shingles[:, 0].astype(object)) > 0)
    whole = super(duplicates.Signatures, signatures).get_signature(shingles)
    assert signatures.get_signature(shingles) == whole
    assert np.shape(whole) == (14, 8)
