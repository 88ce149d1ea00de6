"""Tokenizers of other programs (train/data/tokenizer_files.py)."""

import base64
import itertools
import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from train.data.tokenizer import END_OF_TEXT, Tokenizer
from train.data.tokenizer_files import PATTERNS, read_tokenizer
from train.system.errors import UserError

TEXTS = [
    "the cat sat on the mat while two dogs ran over hills, na\u00efve as ever\n" * 3,
    "def f(x):\n    return x + 12\n" * 3,
]
BYTES = [bytes([byte]) for byte in range(256)]


def byte_level(*special: str, vocab_size: int = 300) -> tokenizers.Tokenizer:
    """As other programs train one: special tokens wherever they are listed."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def saved(backend: tokenizers.Tokenizer, tmp_path, name="other.json"):
    path = tmp_path / name
    backend.save(str(path))
    return path


def tiktoken(tokens: list[bytes], ranks=None) -> str:
    ranks = range(len(tokens)) if ranks is None else ranks
    return "".join(
        f"{base64.b64encode(token).decode()} {rank}\n"
        for token, rank in zip(tokens, ranks, strict=True)
    )


@pytest.mark.parametrize(
    ("special", "name"),
    [
        ([END_OF_TEXT], END_OF_TEXT),
        (["<pad>", "<s>", "</s>"], "</s>"),
        (["<unk>", "<eos>"], "<eos>"),
        (["<a>", "<b>"], "<b>"),
    ],
)
def test_a_tokenizer_json_keeps_its_ids(tmp_path, special, name):
    backend = byte_level(*special)
    named = name if name == "<b>" else None
    tokenizer = read_tokenizer(saved(backend, tmp_path), 300, end_of_text=named)
    tokenizer.save(tmp_path / "tokenizer.json")
    for each in (tokenizer, Tokenizer.load(tmp_path / "tokenizer.json")):
        assert each.end_of_text == backend.token_to_id(name) and each.vocab_size == 300
        for text in (*TEXTS, f"a{name}b {special[0]}", " \u4e2d\r\n"):
            ids = each.encode(text)
            assert each.decode(ids) == text and each.encode_batch([text]) == [ids]
            assert not {backend.token_to_id(token) for token in special} & set(ids)
            assert each.token_bytes[ids].sum() == len(text.encode())
        assert each.encode(TEXTS[0]) == backend.encode(TEXTS[0]).ids
        assert each.token_bytes[each.end_of_text] == 0


def test_one_of_our_own_stays_the_same_to_the_byte(tmp_path):
    """Runs know the tokenizer that they were trained with by its hash."""
    Tokenizer.train(TEXTS, 280).save(tmp_path / "1.json")
    read_tokenizer(tmp_path / "1.json", 280).save(tmp_path / "2.json")
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_what_a_file_adds_to_texts_or_cuts_from_them_is_left_out(tmp_path):
    backend = byte_level("<s>", "</s>", "<pad>")
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    backend.enable_truncation(3)
    backend.enable_padding(pad_id=2, pad_token="<pad>", length=50)
    tokenizer = read_tokenizer(saved(backend, tmp_path), 300)
    tokenizer.save(tmp_path / "tokenizer.json")
    for each in (tokenizer, Tokenizer.load(tmp_path / "tokenizer.json")):
        assert each.end_of_text == 1
        ids = each.encode(TEXTS[0])
        assert each.decode(ids) == TEXTS[0] and not {0, 1, 2} & set(ids)
        assert each.encode_batch([TEXTS[0]]) == [ids]


def test_the_token_that_ends_texts_goes_before_the_usual_names(tmp_path):
    backend = byte_level(END_OF_TEXT, "<end>")
    assert read_tokenizer(saved(backend, tmp_path), 300).end_of_text == 0
    backend.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", 1)]
    )
    assert read_tokenizer(saved(backend, tmp_path), 300).end_of_text == 1
    assert read_tokenizer(saved(backend, tmp_path), 300, end_of_text=END_OF_TEXT).end_of_text == 0
    assert read_tokenizer(saved(backend, tmp_path), 300, end_of_text=0).end_of_text == 0


def test_pieces_of_text_with_bytes_to_fall_back_on(tmp_path):
    """As Llama's: characters are tokens, a blank is one too, and bytes stand for the rest."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    for sign in ("\u2581", *map(chr, range(0x21, 0x7F)), "th", "the", "\u2581the", "\u00ef"):
        vocab[sign] = len(vocab)
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the")]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer = read_tokenizer(saved(backend, tmp_path), len(vocab))
    assert tokenizer.end_of_text == 2
    for text in (*TEXTS, "\u4e2d  \U0001f642"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == f" {text}" and backend.decode(ids) == text
        assert tokenizer.token_bytes[ids].sum() == len(text.encode()) + 1


def test_what_makes_ids_random_or_changes_letters_is_left_out(tmp_path):
    backend = byte_level(END_OF_TEXT)
    plain = read_tokenizer(saved(backend, tmp_path), 300)
    content = json.loads(backend.to_str())
    content["model"]["dropout"] = 0.5
    content["normalizer"] = {"type": "NFC"}
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 300, "content": "<x>"})
    content["added_tokens"][1] |= {"special": False, "lstrip": True, "rstrip": True}
    (tmp_path / "dropped.json").write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    other = read_tokenizer(tmp_path / "dropped.json", 301)
    for text in (*TEXTS, "cafe\u0301 \u212b"):
        assert other.encode(text) == plain.encode(text)
    assert other.decode(other.encode("a  <x> \n b")) == "a  <x> \n b"


def lossy(kind: str) -> tokenizers.Tokenizer:
    backend = byte_level(END_OF_TEXT)
    if kind == "lower case":
        backend.normalizer = normalizers.Lowercase()
    elif kind == "accents":  # that stand alone
        backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.StripAccents()])
    elif kind == "a rare character":
        backend.normalizer = normalizers.Replace("\u212b", "A")
    elif kind == "a rare border":
        split = pre_tokenizers.Split("\u200b", "removed")
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, backend.pre_tokenizer])
    elif kind == "words":
        backend = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "[EOS]": 1}, "[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
    elif kind == "few bytes":
        content = json.loads(backend.to_str())
        del content["model"]["vocab"]["\u00e4"]  # of 0xE4, as in Chinese characters
        content["model"]["vocab"]["\u00e4\u00e4"] = 36
        backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    return backend


@pytest.mark.parametrize(
    "kind", ["lower case", "accents", "a rare character", "a rare border", "words", "few bytes"]
)
def test_a_tokenizer_that_loses_text_is_refused(tmp_path, kind):
    path = saved(lossy(kind), tmp_path)
    size = Tokenizer(tokenizers.Tokenizer.from_file(str(path)), 0).vocab_size
    with pytest.raises(
        UserError, match=r"other\.json: does not give every text back byte for byte"
    ):
        read_tokenizer(path, size)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, {}, "cannot be read: No such file"),
        (b"\xff\xfe", {}, "neither a tokenizer.json nor a .tiktoken file"),
        (b"", {}, "is empty"),
        (b"hello", {}, "neither a tokenizer.json nor a .tiktoken file"),
        (b"{}", {}, "is not a tokenizer.json"),
        (b"[]", {}, "neither"),
        ("<a>", {}, "has none of the tokens .*name the one that ends documents with end_of_text"),
        ("<a>", {"end_of_text": "<b>"}, "has no token <b>: correct end_of_text"),
        ("<a>", {"end_of_text": 300}, "has no token 300"),
        ("<a>", {"end_of_text": -1}, "has no token -1"),
        ("</s>", {"vocab_size": 299}, "has 300 tokens, and model.vocab_size is 299"),
        ("</s>", {"vocab_size": 1325}, "has 300 tokens, and model.vocab_size is 1325"),
        (BYTES, {}, "needs 257 ids with the end of text, 256, and model.vocab_size is 256"),
        (BYTES, {"vocab_size": 257, "end_of_text": "</s>"}, "give end_of_text as an id"),
        (BYTES, {"vocab_size": 257, "end_of_text": 3}, "has an ordinary token 3"),
        (BYTES, {"vocab_size": 257, "pattern": "("}, r"cannot be used with tiktoken_pattern \("),
        (BYTES[:200], {"vocab_size": 999}, "no token for 56 of the 256 bytes, such as 200"),
        ([*BYTES, b"a"], {"vocab_size": 999}, "a token or a rank twice"),
        (tiktoken(BYTES) + "YQ== x\n", {"vocab_size": 999}, "line 257 is not a token in base64"),
    ],
)
def test_wrong_files_are_one_line(tmp_path, content, options, message):
    path = tmp_path / "other"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, list):
        path.write_text(tiktoken(content))
    elif content is not None and content.startswith("<"):
        byte_level(content).save(str(path))
    elif content is not None:
        path.write_text(content)
    size = options.pop("vocab_size", 256 if isinstance(content, list) else 300)
    with pytest.raises(UserError, match=f"^{path}: .*{message}") as caught:
        read_tokenizer(path, size, **options)
    assert "\n" not in str(caught.value)


def test_the_ids_of_a_padded_model_have_no_text(tmp_path):
    read_tokenizer(saved(byte_level("</s>"), tmp_path), 384).save(tmp_path / "padded.json")
    for tokenizer in (
        read_tokenizer(tmp_path / "padded.json", 384),
        Tokenizer.load(tmp_path / "padded.json"),
    ):
        assert tokenizer.vocab_size == len(tokenizer.token_bytes) == 384
        text = "a <|unused 383|> b"
        ids = tokenizer.encode(text)
        assert max(ids) < 300
        assert tokenizer.decode([*ids, 300, 383]) == text


def joined_as_tiktoken_does(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Of all neighbours those whose token has the least rank are joined, from the left."""
    if word in ranks:
        return [ranks[word]]
    parts = [bytes([byte]) for byte in word]
    while True:
        pairs = [(ranks.get(a + b), n) for n, (a, b) in enumerate(itertools.pairwise(parts))]
        least = min((pair for pair in pairs if pair[0] is not None), default=None)
        if least is None:
            return [ranks[part] for part in parts]
        n = least[1]
        parts[n : n + 2] = [parts[n] + parts[n + 1]]


@given(
    st.lists(st.text("abc", min_size=2, max_size=5), unique=True, max_size=12),
    st.text("abc", max_size=30),
)
@settings(deadline=None, max_examples=150)
def test_a_tiktoken_file_gives_the_ids_that_tiktoken_gives(tmp_path_factory, tokens, word):
    listed = [*BYTES, *(token.encode() for token in tokens)]
    path = tmp_path_factory.getbasetemp() / "some.tiktoken"
    path.write_text(tiktoken(listed))
    tokenizer = read_tokenizer(path, len(listed) + 1, pattern="[a-c]+|[^a-c]")
    ranks = {token: rank for rank, token in enumerate(listed)}
    assert tokenizer.encode(word) == (joined_as_tiktoken_does(word.encode(), ranks) if word else [])


def test_a_tiktoken_file_of_a_trained_tokenizer_is_that_tokenizer(tmp_path):
    trained = Tokenizer.train(TEXTS, 300)
    tokens = [trained.bytes_of([index]) for index in range(1, 300)]
    # Ranks with a hole, where the end of text is, and room for special tokens at the end.
    path = tmp_path / "mine.tiktoken"
    path.write_text(tiktoken(tokens, [*range(100), *range(101, 300)]))
    tokenizer = read_tokenizer(path, 310)
    assert (tokenizer.end_of_text, tokenizer.vocab_size) == (100, 310)
    tokenizer.save(tmp_path / "tokenizer.json")
    for each in (tokenizer, Tokenizer.load(tmp_path / "tokenizer.json")):
        for text in (*TEXTS, "It's \u4e2d\n\n 12345", f"{END_OF_TEXT}<|unused 305|>"):
            ids = each.encode(text)
            assert each.decode(ids) == text
            found = [token - (token > 100) for token in ids]
            assert found == [token - 1 for token in trained.encode(text)]
        assert each.end_of_text == 100 and each.decode([100, 305]) == ""


def test_openais_files_are_known_by_their_size(tmp_path):
    """50,256 tokens are GPT-2's, whose pattern cuts off all digits at once."""
    more = itertools.islice(itertools.product(range(97, 123), repeat=4), 50_000)
    path = tmp_path / "r50k_base.tiktoken"
    path.write_text(tiktoken([*BYTES, *map(bytes, more)]))
    assert read_tokenizer(path, 50_257).end_of_text == 50_256
    (first,) = read_tokenizer(path, 50_257)._backend.pre_tokenizer.pre_tokenize_str("1234")
    assert first[0] == "1234"
    pieces = read_tokenizer(path, 50_300, pattern="cl100k", end_of_text=50_299)
    assert pieces.end_of_text == 50_299
    assert len(pieces._backend.pre_tokenizer.pre_tokenize_str("1234")) == 2


@pytest.mark.parametrize("pattern", PATTERNS.values())
def test_patterns_leave_nothing_out(tmp_path, pattern):
    path = tmp_path / "a.tiktoken"
    path.write_text(tiktoken(BYTES))
    tokenizer = read_tokenizer(path, 257, pattern=pattern)
    text = "It's 12345 \u4e2d\u6587 ABCdef\u0301\r\n\n  \t_x/\U0001f642\x7f\u2028\u00b2 "
    assert tokenizer.decode(tokenizer.encode(text)) == text
