"""Where a continuation ends: at a stop string, at the end-of-text token, or at its length."""

from collections.abc import Sequence

from train.data.tokenizer import Tokenizer


class Continuation:
    """The text of one prompt's continuation, as its tokens come in.

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
        self._whole = ""
        self._open: list[int] = []  # tokens after `_whole`, the last of which cuts a character
        self.text = ""
        self.finished = False

    def add(self, tokens: Sequence[int]) -> str:
        """Takes the next tokens; returns what they add to `text`."""
        for token in tokens:
            if self.finished:
                break
            if token == self._tokenizer.end_of_text:
                self.finished = True
            else:
                self._open.append(token)
                self._count += 1
                self.finished = self._count == self._length
        text = self._whole + self._tokenizer.decode(self._open)
        if not text.endswith("\ufffd"):
            self._whole, self._open = text, []
        ends = [index for index in map(text.find, self._stop) if index >= 0]
        if ends:
            text, self.finished = text[: min(ends)], True
        if not self.finished:
            text = text.rstrip("\ufffd")  # the first bytes of a character
            begun = max((self._begun(text, stop) for stop in self._stop), default=0)
            text = text[: len(text) - begun]
        added, self.text = text[len(self.text) :], text
        return added

    @staticmethod
    def _begun(text: str, stop: str) -> int:
        """How many characters at the text's end may begin the stop string."""
        return max(n for n in range(len(stop)) if text.endswith(stop[:n]))
