"""A continuation's text, as its tokens come in."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_jax.sampling import Sampling
from train.data.tokenizer import Tokenizer
from train.generation.stop_strings import Continuation
from train.generation.texts import continuations
from train.system.errors import UserError

TEXT = "Naïve café — 10 € for a naïve 🙂 smile; def f(x): return x\n\nend. " * 3


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([TEXT], 270)


def pieces_of(tokens, cuts):
    places = sorted({0, len(tokens), *(cut % (len(tokens) + 1) for cut in cuts)})
    return [tokens[a:b] for a, b in itertools.pairwise(places)]


@given(st.lists(st.integers(0, 300), max_size=20), st.text("ï€🙂 ef\n", min_size=1, max_size=4))
@settings(deadline=None, max_examples=80)
def test_text_comes_whole_however_it_is_cut(tokenizer, cuts, stop):
    tokens = tokenizer.encode(TEXT)
    for stops, expected in (((), TEXT), ((stop,), TEXT.partition(stop)[0])):
        text = Continuation(tokenizer, len(tokens), stops)
        added = [text.add(piece) for piece in pieces_of(tokens, cuts)]
        assert "".join(added) == text.text == expected
        assert text.finished


def test_the_first_of_several_stop_strings_ends_it(tokenizer):
    text = Continuation(tokenizer, 500, ("return", "def", "nowhere"))
    for token in tokenizer.encode(TEXT):
        text.add([token])
    assert text.text == TEXT.partition("def")[0]


def text_before_the_first(whole: str, stops) -> str:
    return whole[: min([whole.find(stop) for stop in stops if stop in whole], default=None)]


def whatever_the_pieces(tokenizer, tokens, stops) -> str:
    """The continuation's text, which must be the same one token at a time and all at once."""
    found = set()
    for size in (1, 2, 3, 5, len(tokens)):
        text = Continuation(tokenizer, len(tokens), stops)
        pieces = [tokens[n : n + size] for n in range(0, len(tokens), size)]
        assert "".join(map(text.add, pieces)) == text.text
        assert text.finished
        found.add(text.text)
    (same,) = found
    return same


@pytest.mark.parametrize(
    ("stops", "whole", "expected"),
    [
        (("b", "abc"), "xabcx", "x"),
        (("b", "abc"), "xabdx", "xa"),
        (("ab", "abc"), "xabcx", "x"),
        (("abc", "ab"), "xabx", "x"),
        (("bcd", "abcx", "c"), "abcd", "a"),
        (("abcd", "bc"), "xabc", "xa"),  # the text ends where a longer one has only begun
        (("aab",), "aaaab", "aa"),
        (("ab", "aba"), "cabab", "c"),
    ],
)
def test_the_stop_string_that_begins_first_ends_it(tokenizer, stops, whole, expected):
    for order in itertools.permutations(stops):
        assert whatever_the_pieces(tokenizer, tokenizer.encode(whole), order) == expected


@given(
    st.text("ab\ufffd🙂", min_size=1, max_size=12),
    st.lists(st.text("ab\ufffd🙂", min_size=1, max_size=4), min_size=1, max_size=3),
)
@settings(deadline=None)
def test_overlapping_stop_strings_end_it_where_the_first_begins(tokenizer, whole, stops):
    found = whatever_the_pieces(tokenizer, tokenizer.encode(whole), stops)
    assert found == text_before_the_first(whole, stops)


def test_half_a_character_is_no_replacement_character(tokenizer):
    tokens = tokenizer.encode("a🙂b")
    assert whatever_the_pieces(tokenizer, tokens, ["\ufffd"]) == "a🙂b"
    broken = [*tokens[:2], *tokenizer.encode("b\ufffd")]  # the first byte of three
    assert whatever_the_pieces(tokenizer, broken, ["b\ufffd"]) == "a\ufffd"
    assert whatever_the_pieces(tokenizer, broken, ["\ufffd"]) == "a"


def test_the_end_of_the_document_and_the_length_end_it(tokenizer):
    tokens = tokenizer.encode("def f")
    text = Continuation(tokenizer, 500)
    assert text.add([*tokens, tokenizer.end_of_text, *tokens]) == "def f"
    assert text.finished
    short = Continuation(tokenizer, 2)
    assert short.add(tokens) == tokenizer.decode(tokens[:2])
    assert short.finished


def test_half_a_character_is_held_back(tokenizer):
    first, *rest = tokenizer.encode("🙂")
    assert rest
    text = Continuation(tokenizer, 500)
    assert text.add([first]) == ""
    assert text.add(rest) == "🙂"


@given(st.lists(st.integers(1, 269), min_size=1), st.lists(st.integers(0, 300), max_size=20))
@settings(deadline=None)
def test_broken_characters_read_as_in_the_whole_text(tokenizer, tokens, cuts):
    text = Continuation(tokenizer, len(tokens))
    for piece in pieces_of(tokens, cuts):
        text.add(piece)
    assert text.text == tokenizer.decode(tokens)


def test_what_is_read_once_is_not_read_again(tokenizer):
    class Counting:
        end_of_text, decoded = tokenizer.end_of_text, 0

        def bytes_of(self, tokens):
            self.decoded += len(tokens)
            return tokenizer.bytes_of(tokens)

    counting = Counting()
    tokens = tokenizer.encode(TEXT * 20)
    text = Continuation(counting, len(tokens))
    for token in tokens:
        text.add([token])
    assert text.text == TEXT * 20
    assert counting.decoded < 2 * len(tokens)


@pytest.mark.parametrize(("prompt", "stop"), [("\udcff", ()), ("a", ("\udcff",))])
def test_what_is_no_text_is_said(tokenizer, prompt, stop):
    pieces = continuations(
        None, tokenizer, [prompt], chunk_size=None, length=1, sampling=Sampling(), seed=0, stop=stop
    )
    with pytest.raises(UserError, match="a prompt or stop string is not UTF-8"):
        next(pieces)
