"""From files to documents (train/preparation/formats.py)."""

import codecs
import gzip
import io
import json
import os
import random
import sys
import tracemalloc

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from helpers.documents import read, write

from train.preparation import account
from train.preparation.records import read_elements
from train.settings.prepare_config import PrepareConfig


def read_one(tmp_path, name: str, content: bytes | str, kind="text", **settings):
    """The documents of one file, and its account."""
    root = write(tmp_path / "in", {name: content})
    documents, (part,) = read(PrepareConfig(**{kind: [root]}, **settings))
    return documents, part


def lines(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def packed(name: str, content: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(content, mtime=0)
    return zstandard.compress(content) if name.endswith(".zst") else content


def places(documents) -> list[tuple[str, str]]:
    """Each document's text, and where in its file it stands."""
    return [(d.text, d.name.partition("/in/")[2]) for d in documents]


# Plain files


def test_bytes_are_kept(tmp_path):
    content = "\n two\r\n\ttabs\u00e9\r\u2028\x1f\U0001f600 \n\n"
    (document,), part = read_one(tmp_path, "a.txt", content)
    assert document.text == content and document.size == len(content.encode())
    assert document.name == document.group == f"{tmp_path}/in/a.txt"
    assert (document.domain, part.documents, part.files, part.bytes) == (
        "text",
        {"text": 1},
        1,
        document.size,
    )


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_marked_encodings_are_decoded(tmp_path, mark, encoding):
    text = "a\u00e9\u4e2d\U0001f600\n"
    (document,), _ = read_one(tmp_path, "a", mark + text.encode(encoding))
    assert document.text == text
    documents, part = read_one(tmp_path, "a", mark + ("a\0b" + text).encode(encoding))
    assert not documents and part.rejected == {"binary": 1}
    documents, part = read_one(tmp_path, "a", mark + " \n".encode(encoding))
    assert not documents and part.rejected == {"empty": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b" \n\t\r\n\x0c", "empty"),
        (codecs.BOM_UTF8, "empty"),
        (codecs.BOM_UTF16_LE, "empty"),
        (b"a\0b", "binary"),
        (b"\0\xff", "binary"),
        ("caf\u00e9".encode("latin-1"), "undecodable"),
        (b"\xed\xa0\x80", "undecodable"),  # half of a surrogate pair
        (codecs.BOM_UTF16_LE + b"a\0b", "undecodable"),  # cut off
        (codecs.BOM_UTF16_LE + b"\x00\xd8a\0", "undecodable"),
        (codecs.BOM_UTF32_BE + b"\0\x11\0\0", "undecodable"),
        (codecs.BOM_UTF8 + b"\xff", "undecodable"),
        ("a\0b".encode("utf-16-le"), "binary"),  # not marked
        (b"l" * 101, "too long"),
        (codecs.BOM_UTF16_LE + ("\u4e2d" * 40).encode("utf-16-le"), "too long"),  # 120 in UTF-8
    ],
)
def test_what_is_no_text_is_rejected(tmp_path, content, reason):
    documents, part = read_one(tmp_path, "a.txt", content, max_document_bytes=100)
    assert not documents and not part.documents and part.rejected == {reason: 1}
    assert part.examples == {reason: [f"{tmp_path}/in/a.txt"]}
    assert part.total == part.files == 1


def test_the_longest_document_is_taken(tmp_path):
    (document,), _ = read_one(tmp_path, "a", "l" * 100, max_document_bytes=100)
    assert document.size == 100


def test_a_file_that_is_gone_or_closed_is_unreadable(tmp_path, monkeypatch):
    opened = open

    def refuse(path, *arguments, **names):
        if str(path).endswith(("a.txt", "b.jsonl", "c.parquet")):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *arguments, **names)

    root = write(tmp_path / "in", {"a.txt": "x", "b.jsonl": lines("x"), "c.parquet": "x"})
    monkeypatch.setattr("builtins.open", refuse)
    documents, (part,) = read(PrepareConfig(text=[root]))
    assert not documents and part.rejected == {"unreadable": 3}
    assert part.files == 0 and not part.sha256


def test_no_more_than_a_few_examples_are_kept(tmp_path):
    root = write(tmp_path / "in", {f"{i}": "" for i in range(9)} | {"x": "\0"})
    _, (part,) = read(PrepareConfig(text=[root]))
    assert part.rejected == {"empty": 9, "binary": 1}
    assert part.examples == {
        "empty": [f"{root}/{i}" for i in range(account.EXAMPLES)],
        "binary": [f"{root}/x"],
    }


def test_names_that_no_terminal_shows_are_spelled_out(tmp_path):
    _, part = read_one(tmp_path, os.fsdecode(b"caf\xe9"), b"")
    assert part.examples["empty"] == [f"{tmp_path}/in/caf\\udce9"]
    json.dumps(part.examples).encode()


def test_what_a_source_held_is_told_by_its_hash(tmp_path):
    hashes = []
    for content in ("a", "b", "a"):
        hashes.append(read_one(tmp_path, "a", content)[1].sha256)
    assert hashes[0] == hashes[2] != hashes[1]
    os.rename(tmp_path / "in" / "a", tmp_path / "in" / "b")
    assert read(PrepareConfig(text=[f"{tmp_path}/in"]))[1][0].sha256 != hashes[2]


# Lines of JSON

NAMES = (
    "a.jsonl",
    "a.jsonlines",
    "a.jsonlines.zst",
    "a.ndjson",
    "a.jsonl.gz",
    "a.ndjson.zst",
    "a.json.gz",
    "a.json.zst",
    "A.JSONL",
)


@pytest.mark.parametrize("name", NAMES)
def test_lines_of_json_are_documents(tmp_path, name):
    records = [{"text": "one\n"}, {"id": 5, "content": "tw\u00f6", "text": None}, {"text": "x" * 9}]
    content = codecs.BOM_UTF8 + b"\n" + lines(*records).replace(b"\n", b"\r\n") + b"  \n"
    documents, part = read_one(tmp_path, name, packed(name.lower(), content))
    assert places(documents) == [
        ("one\n", f"{name} line 2"),
        ("tw\u00f6", f"{name} line 3"),
        ("x" * 9, f"{name} line 4"),
    ]
    assert part.documents == {"text": 3} and not part.rejected and part.files == 1
    assert len({d.group for d in documents}) == 3  # a file may be the whole corpus


def test_a_plain_json_file_is_one_document(tmp_path):
    (document,), _ = read_one(tmp_path, "a.json", '{"text": "x"}')
    assert document.text == '{"text": "x"}'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "bad JSON"),
        (b'{"text": "a"} {"text": "b"}', "bad JSON"),
        (b'{"text": "tab\t"}', "bad JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "bad JSON"),
        (b'{"text": "\xff"}', "undecodable"),
        (b'{"text": "\\ud800"}', "undecodable"),
        (b'{"text": "\\udc00\\ud800"}', "undecodable"),
        (b"[]", "wrong type"),
        (b"5", "wrong type"),
        (b'""', "empty"),
        (b'"a\\u0000"', "binary"),
        (b'"' + b"l" * 101 + b'"', "too long"),
        (b"null", "wrong type"),
        (b'{"text": 5}', "wrong type"),
        (b'{"text": ' + b"9" * 5000 + b"}", "wrong type"),
        (b'{"text": ["a"]}', "wrong type"),
        (b'{"text": {"text": "a"}}', "wrong type"),
        (b'{"text": false}', "wrong type"),
        (b"{}", "missing field"),
        (b'{"Text": "a", "body": "b"}', "missing field"),
        (b'{"text": null, "content": null, "messages": null}', "missing field"),
        (b'{"messages": "hello"}', "wrong type"),
        (b'{"messages": ["hello"]}', "wrong type"),
        (b'{"messages": [{"role": "user", "content": 5}]}', "wrong type"),
        (b'{"messages": [{"role": 5, "content": "a"}]}', "wrong type"),
        (b'{"messages": [{"content": "a"}]}', "wrong type"),
        (b'{"messages": [{"role": "user", "content": [{"text": 5}]}]}', "wrong type"),
        (b'{"messages": []}', "empty"),
        (b'{"messages": [{"role": "user", "content": null}]}', "empty"),
        (b'{"text": ""}', "empty"),
        (b'{"text": " \\n", "content": "not looked at"}', "empty"),
        (b'{"text": "a\\u0000"}', "binary"),
        (b'{"text": "' + b"l" * 101 + b'"}', "too long"),
        (b'{"text": "' + b"\\u4e2d" * 34 + b'"}', "too long"),
    ],
)
def test_lines_that_are_no_documents_are_named(tmp_path, line, reason):
    content = lines({"text": "before"}) + line + b"\n" + lines({"text": "after"})
    documents, part = read_one(tmp_path, "a.jsonl", content, max_document_bytes=100)
    assert places(documents) == [("before", "a.jsonl line 1"), ("after", "a.jsonl line 3")]
    assert part.rejected == {reason: 1}
    assert part.examples == {reason: [f"{tmp_path}/in/a.jsonl line 2"]}


def test_lines_that_are_strings_are_documents(tmp_path):
    content = lines("one\n", {"text": "two"}, "tw\u00f6")
    documents, part = read_one(tmp_path, "a.jsonl", content)
    assert [d.text for d in documents] == ["one\n", "two", "tw\u00f6"] and not part.rejected


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is {role} \\1 ?"},
    {"role": "assistant", "content": [{"type": "text", "text": "A "}, {"type": "image"}, "name."]},
    {"role": "assistant", "content": None, "tool_calls": []},
]
CHAT_TEXT = "<|system|>\nBe brief.\n<|user|>\nWhat is {role} \\1 ?\n<|assistant|>\nA name.\n"


@pytest.mark.parametrize(
    ("record", "settings", "expected"),
    [
        ({"messages": CHAT}, {}, CHAT_TEXT),
        ({"conversations": CHAT}, {}, CHAT_TEXT),
        ({"conversations": [{"from": "gpt", "value": "hi"}]}, {}, "<|gpt|>\nhi\n"),
        ({"text": "written", "messages": CHAT}, {}, "written"),
        ({"text": None, "messages": CHAT}, {}, CHAT_TEXT),
        (
            {"talk": CHAT[:1], "messages": CHAT},
            {"chat_fields": ["talk"]},
            "<|system|>\nBe brief.\n",
        ),
        (
            {"messages": CHAT[:2]},
            {"chat_template": "{role}: {content}{ other } - "},
            "system: Be brief.{ other } - user: What is {role} \\1 ?{ other } - ",
        ),
    ],
)
def test_chats_are_written_by_the_template(tmp_path, record, settings, expected):
    (document,), _ = read_one(tmp_path, "a.jsonl", lines(record), **settings)
    assert document.text == expected


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_the_answers_of_chats_are_what_is_learned(tmp_path, name):
    chat = [
        {"role": "user", "content": "one?"},
        {"role": "assistant", "content": "ONE"},
        {"role": "user", "content": "two?"},
        {"role": "gpt", "content": "TWO"},
    ]
    records = [{"messages": chat}, {"messages": chat[:1]}, {"text": "plain"}]
    content = lines(*records)
    if name == "a.json":
        content = json.dumps(records).encode()
    elif name == "a.parquet":
        columns = ("messages", "text")
        content = parquet({key: [record.get(key) for record in records] for key in columns})
    documents, _ = read_one(tmp_path, name, content, answers_only=True)
    learned = [d.learned and [d.text[a:b] for a, b in d.learned] for d in documents]
    assert learned == [["ONE\n", "TWO\n"], [], None]
    options = {"chat_template": "{role}: {content} / {role}. ", "answer_roles": ["user"]}
    documents, _ = read_one(tmp_path, name, content, answers_only=True, **options)
    assert [documents[0].text[a:b] for a, b in documents[0].learned] == [
        "one? / user. ",
        "two? / user. ",
    ]
    assert all(d.learned is None for d in read_one(tmp_path, name, content)[0])


def test_a_template_without_content_is_refused():
    with pytest.raises(ValueError, match=r"chat_template must have {content} in it"):
        PrepareConfig(chat_template="{role}")


# Arrays of JSON

ARRAYS = ("a.json", "a.json.gz", "a.json.zst")


@pytest.mark.parametrize("name", ARRAYS)
def test_elements_of_an_array_are_documents(tmp_path, name):
    records = [{"text": "one, [two] {"}, 'str\\\\ing"', {"messages": CHAT}, {"content": "tw\u00f6"}]
    for indent, mark in ((None, b""), (2, codecs.BOM_UTF8 + b" \n")):
        content = mark + json.dumps(records, indent=indent).encode() + b"\n \n"
        documents, part = read_one(tmp_path, name, packed(name, content))
        assert places(documents) == [
            ("one, [two] {", f"{name} record 1"),
            ('str\\\\ing"', f"{name} record 2"),
            (CHAT_TEXT, f"{name} record 3"),
            ("tw\u00f6", f"{name} record 4"),
        ]
        assert not part.rejected and len({d.group for d in documents}) == 4


def test_an_array_in_another_encoding_is_read(tmp_path):
    content = json.dumps([{"text": "\u4e2d\U0001f642"}, {"text": "b"}], ensure_ascii=False) + "\n"
    content = codecs.BOM_UTF16_LE + content.encode("utf-16-le")
    documents, part = read_one(tmp_path, "a.json", content)
    assert [d.text for d in documents] == ["\u4e2d\U0001f642", "b"] and not part.rejected
    documents, part = read_one(tmp_path, "a.json", content[:-3])
    assert [d.text for d in documents] == ["\u4e2d\U0001f642"]
    assert part.rejected == {"unreadable": 1}


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_elements_are_the_same_however_the_file_is_read(size, monkeypatch):
    records = [{"text": 'a "b" \\ [c] {'}, ["x", {"y": "]"}], "\\\\", 5, {}, "\u4e2d"]
    stream = io.BytesIO(json.dumps(records, ensure_ascii=False, indent=1).encode())
    read = stream.read
    monkeypatch.setattr(stream, "read", lambda _: read(size), raising=False)
    assert [json.loads(element) for element in read_elements(stream, 1000)] == records


@pytest.mark.parametrize(
    ("tail", "texts", "rejected"),
    [
        (b', {"text": "b"}]', "ab", {}),
        (b', {"text": "b"}', "a", {"unreadable": 1}),
        (b', {"text": "b', "a", {"unreadable": 1}),
        (b", ]", "a", {"bad JSON": 1}),
        (b', {"text": b}, {"text": "c"}]', "ac", {"bad JSON": 1}),
        (b', 5, {}, ["b"], {"text": "c"}]', "ac", {"wrong type": 2, "missing field": 1}),
        (b', {"text": "b"}] {', "ab", {"bad JSON": 1}),
        (b', {"text": "' + b"l" * 101 + b'"}]', "a", {"too long": 1}),
        (b', {"text": "\xff"}, {"text": "c"}]', "ac", {"undecodable": 1}),
    ],
)
def test_elements_that_are_no_documents_are_counted(tmp_path, tail, texts, rejected):
    content = b'[{"text": "a"}' + tail
    documents, part = read_one(tmp_path, "a.json", content, max_document_bytes=100)
    assert "".join(d.text for d in documents) == texts and part.rejected == rejected


@pytest.mark.parametrize("first", ['{"id": 1}', '{"text": null}', "{}", "null", "[1]"])
@pytest.mark.parametrize("kind", ["text", "detect"])
def test_an_array_may_begin_with_what_is_no_document(tmp_path, first, kind):
    content = f'[{first}, {{"text": "b"}}, {{"text": "c"}}]'
    documents, part = read_one(tmp_path, "a.json", content, kind=kind)
    assert sum(part.rejected.values()) == 1
    if kind == "text":
        assert [d.text for d in documents] == ["b", "c"]


@pytest.mark.parametrize("name", ARRAYS)
def test_an_element_that_is_too_long_is_never_held_whole(tmp_path, name):
    content = b'[{"text": "before"}, {"text": "' + bytes(100_000_000) + b'"}, {"text": "after"}]'
    write(tmp_path / "in", {name: packed(name, content)})
    del content
    tracemalloc.start()
    documents, (part,) = read(PrepareConfig(text=[f"{tmp_path}/in"], max_document_bytes=1000))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [d.text for d in documents] == ["before", "after"]
    assert part.examples == {"too long": [f"{tmp_path}/in/{name} record 2"]}
    assert most < 50_000_000


@pytest.mark.parametrize(
    "content", ["[]", "[1, 2]", '[{"id": 1}]', '[["a"]]', "[", "[x", '{"a": []}']
)
def test_other_arrays_are_one_document(tmp_path, content):
    (document,), _ = read_one(tmp_path, "a.json", content)
    assert document.text == content


def test_an_array_of_strings_is_data_where_documents_are_labelled(tmp_path):
    words = json.dumps(["def", "class", "the", "and"])
    documents, part = read_one(tmp_path, "a.json", words, kind="detect")
    assert not documents and part.documents == {"data": 1}
    assert len(read_one(tmp_path, "a.json", words, kind="code")[0]) == 4


def test_escaped_pairs_and_huge_numbers_that_json_allows_are_read(tmp_path):
    line = b'{"text": "\\ud83d\\ude00", "x": 1e999, "y": NaN, "z": ' + b"9" * 5000 + b"}"
    documents, _ = read_one(tmp_path, "a.jsonl", line)
    assert [d.text for d in documents] == ["\U0001f600"]


def test_the_fields_are_tried_in_their_order(tmp_path):
    content = lines({"text": "a", "body": "b"}, {"text": "c", "body": None}, {"content": "d"})
    documents, part = read_one(tmp_path, "a.jsonl", content, text_fields=["body", "text"])
    assert [d.text for d in documents] == ["b", "c"] and part.rejected == {"missing field": 1}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_a_line_that_is_too_long_is_never_held_whole(tmp_path, name):
    """100 MB in a line, the limit is 1 MB; compressed, it is a file of a few kilobytes."""
    before, after = lines({"text": "before"}), lines({"text": "after"})
    line = b'{"text": "' + bytes(100_000_000) + b'"}\n'
    write(tmp_path / "in", {name: packed(name, before + line + after)})
    del line
    tracemalloc.start()
    documents, (part,) = read(PrepareConfig(text=[f"{tmp_path}/in"], max_document_bytes=1000))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [d.text for d in documents] == ["before", "after"]
    assert part.examples == {"too long": [f"{tmp_path}/in/{name} line 2"]}
    assert most < 50_000_000


def test_a_last_line_without_its_newline_is_read(tmp_path):
    content = lines({"text": "a"}) + b'{"text": "b"}'
    assert [d.text for d in read_one(tmp_path, "a.jsonl", content)[0]] == ["a", "b"]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_archives_in_several_parts_are_read_to_the_end(tmp_path, name):
    parts = [packed(name, lines({"text": f"{i}" * 5000})) for i in range(9)]
    split = packed(name, b'{"text": "over') + packed(name, b' the border"}\n') + packed(name, b"")
    documents, part = read_one(tmp_path, name, b"".join([*parts, split]))
    assert [d.text[0] for d in documents] == [*"012345678", "o"] and not part.rejected


def test_a_zstandard_file_may_have_frames_to_skip_and_no_sizes(tmp_path):
    skipped = (0x184D2A50).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"12345"
    stream = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(stream, closefd=False) as writer:
        writer.write(lines({"text": "b"}))
    content = packed(".zst", lines({"text": "a"})) + skipped + stream.getvalue()
    documents, part = read_one(tmp_path, "a.jsonl.zst", content)
    assert [d.text for d in documents] == ["a", "b"] and not part.rejected


@pytest.mark.parametrize("window", [27, 28, 31])
def test_a_zstandard_file_may_have_a_long_window(tmp_path, window):
    settings = zstandard.ZstdCompressionParameters(window_log=window, enable_ldm=True)
    stream = io.BytesIO()
    with zstandard.ZstdCompressor(compression_params=settings).stream_writer(
        stream, closefd=False
    ) as writer:
        writer.write(lines({"text": "a"}))
    documents, part = read_one(tmp_path, "a.jsonl.zst", stream.getvalue())
    assert [d.text for d in documents] == ["a"] and not part.rejected


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_cut_off_archives_are_named(tmp_path, name):
    words = random.Random(0)
    texts = ["".join(words.choices("abcdefgh", k=50_000)) for _ in range(20)]
    content = packed(name, lines(*({"text": text} for text in texts)))
    for end in (len(content) // 2, len(content) - 1, len(content) - 6):
        documents, part = read_one(tmp_path, name, content[:end])
        whole = [d.text for d in documents]
        assert whole == texts[: len(whole)] and part.rejected == {"unreadable": 1}
        assert part.examples["unreadable"][0].endswith(f"{name} after line {len(whole)}")
    assert len(whole) > 15


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
@pytest.mark.parametrize("content", [b"no archive at all", b"\x1f\x8b\x08\x00", b"PAR1\0\0PAR1"])
def test_what_only_has_an_archives_name_is_unreadable(tmp_path, name, content):
    documents, part = read_one(tmp_path, name, content)
    assert not documents and part.rejected == {"unreadable": 1}


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_damaged_archives_end_with_an_account(tmp_path, name):
    words = random.Random(0)
    texts = ["".join(words.choices("abcdefgh", k=500)) for _ in range(20)]
    whole = packed(name, lines(*({"text": text} for text in texts)))
    for _ in range(60):
        content = bytearray(whole)
        content[words.randrange(len(content))] ^= 1 << words.randrange(8)
        documents, part = read_one(tmp_path, name, bytes(content))
        assert len(documents) + part.rejected.total() >= 1
        assert part.documents.total() == len(documents)


# Parquet


def parquet(table, **options) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(table), stream, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.string(),
        pyarrow.large_string(),
        pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        pyarrow.dictionary(pyarrow.int8(), pyarrow.large_string()),
        pyarrow.string_view(),
        pyarrow.binary(),
        pyarrow.large_binary(),
        pyarrow.binary_view(),
        pyarrow.dictionary(pyarrow.int32(), pyarrow.binary()),
    ],
    ids=str,
)
def test_rows_of_parquet_are_documents(tmp_path, kind):
    texts = pyarrow.array(["one", None, "tw\u00f6", "one", "", None]).cast(kind)
    others = pyarrow.array([None, "other", "x", "y", "z", None])
    content = parquet({"id": range(6), "text": texts, "content": others}, row_group_size=2)
    documents, part = read_one(tmp_path, "a.parquet", content)
    assert places(documents) == [
        ("one", "a.parquet row 1"),
        ("other", "a.parquet row 2"),
        ("tw\u00f6", "a.parquet row 3"),
        ("one", "a.parquet row 4"),
    ]
    assert part.rejected == {"empty": 1, "missing field": 1}
    assert part.examples["missing field"] == [f"{tmp_path}/in/a.parquet row 6"]
    assert len({d.group for d in documents}) == 4


def test_chats_in_parquet_are_documents(tmp_path):
    chats = [CHAT[:1], None, [], [{"role": "user", "content": "hi"}]]
    content = parquet({"messages": chats, "text": [None, "own", None, None]})
    documents, part = read_one(tmp_path, "a.parquet", content)
    assert [d.text for d in documents] == ["<|system|>\nBe brief.\n", "own", "<|user|>\nhi\n"]
    assert part.rejected == {"empty": 1}


@pytest.mark.parametrize(
    ("column", "reasons"),
    [
        (pyarrow.nulls(2), {"missing field": 2}),
        (pyarrow.array([1, None]), {"wrong type": 1, "missing field": 1}),
        (
            pyarrow.array([b"\xff\xd8\xff\xe0", None]),
            {"undecodable": 1, "missing field": 1},
        ),
        (pyarrow.array([b"\x89PNG\0", b"caf\xe9"]), {"binary": 1, "undecodable": 1}),
        (pyarrow.array([["a"], ["b"]]), {"wrong type": 2}),
        (pyarrow.array([{"text": "a"}, None]), {"wrong type": 1, "missing field": 1}),
        (pyarrow.array([0, 1]).dictionary_encode(), {"wrong type": 2}),
        (pyarrow.array(["a\0b", "l" * 101]), {"binary": 1, "too long": 1}),
        (
            pyarrow.array([b"caf\xe9", b"\xed\xa0\x80"]).cast(pyarrow.string(), safe=False),
            {"undecodable": 2},
        ),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pyarrow.Array) else "",
)
def test_columns_that_are_no_text_are_counted(tmp_path, column, reasons):
    content = parquet({"text": column})
    documents, part = read_one(tmp_path, "a.parquet", content, max_document_bytes=100)
    assert not documents and part.rejected == reasons


def test_tables_without_a_text_column_are_counted_by_row(tmp_path):
    documents, part = read_one(tmp_path, "a.parquet", parquet({"body": ["a"] * 5}))
    assert not documents and part.rejected == {"missing field": 5}
    assert part.examples["missing field"][0].endswith("a.parquet row 1")
    documents, part = read_one(tmp_path, "a.parquet", parquet({"text": pyarrow.array([], "str")}))
    assert not documents and not part.rejected and part.files == 1


def test_columns_may_be_named_alike_or_with_points(tmp_path):
    table = {"a.b": ["x"], "a": [{"b": "not this"}], "text.more": ["nor this"], "text": [None]}
    documents, _ = read_one(tmp_path, "a.parquet", parquet(table), text_fields=["text", "a.b"])
    assert [d.text for d in documents] == ["x"]
    twice = pyarrow.table([["x"], ["y"]], names=["text", "text"])
    documents, part = read_one(tmp_path, "a.parquet", parquet(twice))
    assert len(documents) + part.rejected.total() == 1


@pytest.mark.parametrize("options", [{}, {"compression": "none"}, {"use_dictionary": False}])
def test_damaged_tables_end_with_an_account(tmp_path, options):
    words = random.Random(0)
    texts = ["".join(words.choices("abcdefgh", k=90)) for _ in range(200)]
    whole = parquet({"text": texts}, row_group_size=50, **options)
    for end in range(0, len(whole), len(whole) // 20):
        documents, part = read_one(tmp_path, "a.parquet", whole[:end])
        assert not documents and part.rejected == {"unreadable": 1}
    for _ in range(100):
        content = bytearray(whole)
        content[words.randrange(len(content))] ^= 1 << words.randrange(8)
        documents, part = read_one(tmp_path, "a.parquet", bytes(content))
        assert part.documents.total() == len(documents)


def test_a_table_that_breaks_off_names_the_last_row(tmp_path):
    texts = [f"{i} " * 100 for i in range(200)]
    content = bytearray(parquet({"text": texts}, row_group_size=100, use_dictionary=False))
    half = len(content) // 2
    content[half : half + 2000] = b"\xff" * 2000
    documents, part = read_one(tmp_path, "a.parquet", bytes(content))
    assert part.rejected["unreadable"] == 1 and len(documents) >= 64
    assert part.examples["unreadable"] == [f"{tmp_path}/in/a.parquet after row {len(documents)}"]


# Notebooks


def notebook(*sources: object) -> str:
    cells = [
        {"cell_type": "code", "source": source, "outputs": [{"text": "printed"}]}
        for source in sources
    ]
    return json.dumps({"cells": cells, "metadata": {"kernel": "hidden"}, "nbformat": 4})


def test_a_notebook_is_its_cells(tmp_path):
    content = notebook(["import os\n", "x = 1"], "\n", [], "# Title\n\n\n", "y\r\n z")
    (document,), part = read_one(tmp_path, "a.ipynb", content, kind="code")
    assert document.text == "import os\nx = 1\n\n# Title\n\ny\r\n z\n"
    assert (document.domain, part.documents) == ("code", {"code": 1})


def test_the_pictures_in_a_notebook_do_not_count(tmp_path):
    cell = {"cell_type": "code", "source": "x = 1", "outputs": [{"image/png": "A" * 1_300_000}]}
    long = cell | {"source": "x" * 101, "outputs": []}
    number = int("9" * 4000) * 10**4000
    sys.set_int_max_str_digits(0)
    try:
        notebook = json.dumps({"cells": [cell], "metadata": {"n": number}})
    finally:
        sys.set_int_max_str_digits(4300)
    for kind in ("code", "detect"):
        (document,), part = read_one(
            tmp_path, "a.ipynb", notebook, kind=kind, max_document_bytes=100
        )
        assert (document.text, document.domain) == ("x = 1\n", "code")
    for cells in ([long], [cell, long]):
        content = json.dumps({"cells": cells})
        documents, part = read_one(tmp_path, "a.ipynb", content, max_document_bytes=100)
        assert not documents and part.rejected == {"too long": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "bad JSON"),
        ("[" * 100_000, "bad JSON"),
        ("[]", "missing field"),
        ("{}", "missing field"),
        ('{"cells": {}}', "missing field"),
        ('{"cells": ["x"]}', "wrong type"),
        ('{"cells": [{}]}', "wrong type"),
        (notebook(5), "wrong type"),
        (notebook(["a", 5]), "wrong type"),
        (notebook(), "empty"),
        (notebook("", " \n"), "empty"),
        (notebook("\0"), "binary"),
        (notebook("\ud800"), "undecodable"),
    ],
)
def test_notebooks_that_are_none_are_counted(tmp_path, content, reason):
    documents, part = read_one(tmp_path, "a.ipynb", content)
    assert not documents and part.rejected == {reason: 1} and not part.documents


# Labels


def test_detected_data_are_dropped_and_counted(tmp_path):
    prose = "It was a bright cold day in April, and all the clocks of the town struck one.\n" * 9
    program = "import os\n\n\ndef main():\n    return os.getcwd()\n" * 9
    files = {"a.txt": prose, "b.py": program, "c.json": '{"a": [1, 2]}', "d.csv": "1,2\n3,4\n"}
    records = lines({"text": prose + "2"}, {"text": program + "x = 2\n"})
    root = write(tmp_path / "in", files | {"e.jsonl": records})
    documents, (part,) = read(PrepareConfig(detect=[root]))
    assert [d.domain for d in documents] == ["text", "code", "text", "code"]
    assert part.documents == {"text": 2, "code": 2, "data": 2} and part.total == 6


def test_a_sources_label_overrules_what_a_file_looks_like(tmp_path):
    root = write(tmp_path / "in", {"c.json": '{"a": [1, 2]}', "b.py": "x = 1\n"})
    documents, _ = read(PrepareConfig(text=[root]))
    assert [d.domain for d in documents] == ["text", "text"]
    documents, _ = read(PrepareConfig(code=[root]))
    assert [d.domain for d in documents] == ["code", "code"]
    assert np.unique([d.source for d in documents]).tolist() == [0]
