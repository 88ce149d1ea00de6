"""Where a continuation ends: at a stop string, at the end-of-text token, or at its length."""

import codecs
from collections.abc import Sequence

from train.data.tokenizer import Tokenizer


class Continuation:
    """The text of one prompt's continuation, as its tokens come in.

    The text ends before the stop string that begins first in it. A shorter one that is complete
    earlier, but begins later, does not count: with the stop strings "abc" and "b", the text "xabc"
    ends after "x", and "xabd" after "xa". Stop strings that begin at the same place end the text at
    the same place. So it does not matter in which pieces the tokens come in.

    A character counts when all its bytes are there: a half one is no U+FFFD yet. Bytes that are no
    UTF-8, and a character that the end cuts, are U+FFFD.

    Attributes:
        text: the text so far, without an end that may be half a character or half a stop string.
        finished: it has reached its length, the end of the text or a stop string.
    """

    def __init__(self, tokenizer: Tokenizer, length: int, stop: Sequence[str] = ()) -> None:
        """A continuation of at most `length` tokens, ending before the first stop string."""
        self._tokenizer = tokenizer
        self._length = length
        self._stop = stop
        self._count = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # what follows `text`: it may begin a stop string
        self.text = ""
        self.finished = False

    def add(self, tokens: Sequence[int]) -> str:
        """Takes the next tokens; returns what they add to `text`."""
        if self.finished:
            return ""
        taken = list(tokens[: self._length - self._count])
        self._count += len(taken)
        last = self._count == self._length
        if self._tokenizer.end_of_text in taken:
            taken, last = taken[: taken.index(self._tokenizer.end_of_text)], True
        held = self._held + self._decoder.decode(self._tokenizer.bytes_of(taken), last)
        whole = [index for index in (held.find(stop) for stop in self._stop) if index >= 0]
        begun = len(held)
        if not last:
            begun = min((begun, *(begun - _begun(held, stop) for stop in self._stop)))
        self.finished = last or min(whole, default=len(held) + 1) <= begun
        added = held[: min((begun, *whole))]
        self._held = held[len(added) :]
        self.text += added
        return added


def _begun(text: str, stop: str) -> int:
    """How many characters at the text's end may begin the stop string."""
    return max(n for n in range(len(stop)) if text.endswith(stop[:n]))
