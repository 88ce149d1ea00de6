"""Records of JSON: a text, an object with a text, or a chat; in lines, or as one array."""

import codecs
import contextlib
import itertools
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from train.preparation.account import Reason
from train.settings.prepare_config import PrepareConfig

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    # The marks of UTF-32 begin with those of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""How files begin that say in which encoding they are."""

_FIRST = 100
"""Elements of an array that are looked at to see whether it holds records."""

_ROLES = 20  # a chat may name people, of whom there may be millions

_SIGN = re.compile(rb'["\[\]{},]')
_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)  # up to its end


class Rejected(Exception):
    """A document that is not taken, and why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


def parsed(record: bytes) -> Any:
    """What a record is.

    Raises:
        Rejected: it is not JSON in UTF-8.
    """
    try:
        return json.loads(record.decode(), parse_int=float)  # an integer may have any length
    except UnicodeDecodeError:
        raise Rejected("undecodable") from None
    except (ValueError, RecursionError):
        raise Rejected("bad JSON") from None


Spans = list[tuple[int, int]]
"""Where parts of a text begin and end."""


def text_of(
    record: Any, prepare: PrepareConfig, roles: set[str] | None = None
) -> tuple[Any, Spans | None]:
    """The text of a record, and where in it the answers of a chat are that are to be learned alone.

    Args:
        record: what the JSON or the table has.
        prepare: the settings.
        roles: gets the roles of a chat's messages: all that are answers, and the first others.

    Returns:
        What is in the record, which need not be a string; None where all of it is learned.

    Raises:
        Rejected: it is neither a string nor an object, has none of the fields, or a chat that is
            none.
    """
    if isinstance(record, str):
        return record, None
    if not isinstance(record, dict):
        raise Rejected("wrong type")
    for field in prepare.text_fields:
        if record.get(field) is not None:
            return record[field], None
    for field in prepare.chat_fields:
        if record.get(field) is not None:
            text, answers = _chat(record[field], prepare, set() if roles is None else roles)
            return text, answers if prepare.answers_only else None
    raise Rejected("missing field")


def _chat(messages: Any, prepare: PrepareConfig, roles: set[str]) -> tuple[str, Spans]:
    """The messages of a chat, one after the other, each in the template's form.

    An answer is its content and what the template has behind it, by which it ends.
    """
    if not isinstance(messages, list):
        raise Rejected("wrong type")
    before, _, _ = prepare.chat_template.partition("{content}")
    text, answers = "", []
    for message in messages:
        if not isinstance(message, dict):
            raise Rejected("wrong type")
        role, content = (
            next((message[name] for name in names if message.get(name) is not None), None)
            for names in (("role", "from"), ("content", "value"))
        )
        if content is None:  # the call of a tool, which has no text
            continue
        if not isinstance(role, str):
            raise Rejected("wrong type")
        values = {"{role}": role, "{content}": _content(content)}
        parts = re.split(r"(\{role\}|\{content\})", prepare.chat_template)
        written = "".join(values.get(part, part) for part in parts)
        if role in prepare.answer_roles or len(roles) < _ROLES:
            roles.add(role)
        if role in prepare.answer_roles:
            answers.append((len(text + before.replace("{role}", role)), len(text + written)))
        text += written
    return text, answers


def _content(content: Any) -> str:
    """The text of a message: a string, or the text among its parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Rejected("wrong type")
    parts = [part.get("text") if isinstance(part, dict) else part for part in content]
    texts = [part for part in parts if part is not None]  # others are pictures and the like
    if not all(isinstance(part, str) for part in texts):
        raise Rejected("wrong type")
    return "".join(texts)


def begins_an_array(stream: IO[bytes]) -> bool:
    """Whether a file's first sign is that of a JSON array; reads its beginning."""
    try:
        beginning = next(_in_utf8(stream), b"")
    except UnicodeDecodeError:
        return False
    return beginning.lstrip().startswith(b"[")


def holds_records(
    stream: IO[bytes], longest: int, prepare: PrepareConfig, *, strings: bool
) -> bool:
    """Whether a text is among the first elements of a JSON array; bare ones count if `strings`."""
    try:
        for element in itertools.islice(read_elements(stream, longest), _FIRST):
            with contextlib.suppress(Rejected):
                record = parsed(element or b"")
                text_of(record, prepare)
                if strings or isinstance(record, dict):
                    return True
    except (OSError, EOFError, UnicodeDecodeError):  # as will be said when it is read
        pass
    return False


def read_elements(stream: IO[bytes], longest: int) -> Iterator[bytes | None]:
    """The elements of a JSON array, unparsed; one longer than `longest` is None and never held.

    Raises:
        EOFError: the array does not end.
        UnicodeDecodeError: the file is not in the encoding that its mark says.
    """
    held: list[bytes] = []
    size = depth = count = 0
    text = escaped = False

    def hold(piece: bytes) -> None:
        nonlocal size
        size += len(piece)
        held.append(piece)
        if size > longest:
            held.clear()

    def element() -> bytes | None:
        nonlocal size, count
        whole = None if size > longest else b"".join(held)
        held.clear()
        size, count = 0, count + 1
        return whole

    chunks = _in_utf8(stream)
    for chunk in filter(None, chunks):
        place = begin = int(escaped)
        if escaped:
            hold(chunk[:1])
        escaped = False
        while place < len(chunk):
            if text:
                match = _STRING.match(chunk, place)
                assert match
                sign, place = chunk[match.end() : match.end() + 1], match.end() + 1
                text, escaped = sign != b'"', sign == b"\\"
                continue
            match = _SIGN.search(chunk, place)
            if not match:
                break
            sign, place = match[0], match.end()
            if sign == b'"':
                text = True
            elif sign in b"[{":
                depth += 1
                if depth == 1:  # of the array itself
                    begin = place
            elif sign in b"]}":
                depth -= 1
            if (sign == b"," and depth == 1) or (sign in b"]}" and depth == 0):
                hold(chunk[begin : match.start()])
                begin = place
                if sign == b"," or count or size > longest or b"".join(held).strip():
                    yield element()
                held.clear()
                if depth == 0:
                    if chunk[begin:].strip() or any(map(bytes.strip, chunks)):
                        yield chunk[begin:] or b"["  # what follows an array is no JSON
                    return
        hold(chunk[begin:])
    raise EOFError("the array does not end")


def _rest(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(1 << 16):
        yield chunk


def _in_utf8(stream: IO[bytes]) -> Iterator[bytes]:
    """A file's bytes in UTF-8, without its mark, piece by piece."""
    first = stream.read(1 << 16)
    mark, encoding = next((pair for pair in MARKS if first.startswith(pair[0])), (b"", "utf-8"))
    first = first.removeprefix(mark)
    if encoding == "utf-8":
        yield first
        yield from _rest(stream)
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    yield decoder.decode(first).encode(errors="surrogatepass")
    for chunk in _rest(stream):
        yield decoder.decode(chunk).encode(errors="surrogatepass")
    decoder.decode(b"", final=True)
