"""Whether a text reads like prose, or like a table: by its letters, lines and punctuation."""

import re
import unicodedata
from collections import Counter

READ_CHARACTERS = 1 << 15
"""How many characters are used to decide between prose and data."""

SENTENCE_END = re.compile(r"[.!?:][^\w\s]{0,3}(?:\s|$)|[\u3002\uff01\uff1f\u0964\u06d4]")
_PUNCTUATION = re.compile(
    r"[.,;:!?][\"')\]]*(?:\s|$)|[\u3001\u3002\uff0c\uff01\uff1f\u0964\u06d4\u060c]"
)
_SHORT_SENTENCE = re.compile(r"\w+(?:,? \w+){2,9}[.!?]")
_COMMENT = re.compile(r"#(?:[\s#]|$)")


def is_prose(text: str, *, sentences: bool) -> bool:
    """Whether a text is mostly letters, in longer lines than a list has, with punctuation.

    Args:
        text: the document.
        sentences: count only ends of sentences as punctuation.
    """
    lines = text_lines(text)
    text = "\n".join(lines)
    if _SHORT_SENTENCE.fullmatch(text):
        return True
    words = len(text.split())
    return (
        bool(lines)
        and (words >= 3 or not text.isascii())
        and letter_share(text) >= 0.75
        and _letters(text) >= 15 * len(lines)
        and 30 * len((SENTENCE_END if sentences else _PUNCTUATION).findall(text))
        >= (words if sentences else words - 8)
    )


def is_table(text: str) -> bool:
    """Whether nearly all lines have the same number of a separator."""
    lines = text_lines(text)
    for separator in "|;:\t":
        counts = Counter(line.count(separator) for line in lines)
        count, rows = max(counts.items(), key=lambda item: item[1], default=(0, 0))
        if count >= 2 and rows >= max(5, 0.8 * len(lines)):
            return True
        if count >= 5 and rows == len(lines):
            return True
    return False


def letter_share(text: str) -> float:
    """The share of letters among the characters that are not white space."""
    text = text[:READ_CHARACTERS]
    return _letters(text) / max(1, sum(map(len, text.split())))


def _letters(text: str) -> int:
    if text.isascii():
        return sum(map(str.isalpha, text))
    return sum(unicodedata.category(character)[0] in "LM" for character in text)


def text_lines(text: str) -> list[str]:
    """The lines that are neither blank nor comments, which any kind of file can have."""
    lines = [line.strip() for line in text[:READ_CHARACTERS].splitlines()]
    return [line for line in lines if line and not _COMMENT.match(line)]
