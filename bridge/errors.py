"""The errors of files and conversions; the message of each is one clear line."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

SHOWN = 10
"""Items of a list that a message shows."""

_SCREEN = 1600
"""Characters that the lists of a message may have together."""


def listed(items: Sequence[str], most: int = _SCREEN, shown: int = SHOWN) -> str:
    """The first items and the number of the others, so that a message fits on a screen.

    Args:
        items: in the order in which they are shown.
        most: characters; the first item is shown even if it has more.
        shown: items.
    """
    first = list(items[:shown])
    while len(first) > 1 and len(", ".join(first)) > most:
        first.pop()
    others = len(items) - len(first)
    return ", ".join(first) + (f" and {others} more" if others else "")


def counted(count: int, noun: str) -> str:
    """A number of things: "1 tensor", "2 tensors"."""
    return f"{count:,} {noun if count == 1 else {'entry': 'entries'}.get(noun, f'{noun}s')}"


class BridgeError(Exception):
    """The base of every error that a wrong file or argument can cause.

    Attributes:
        message: what is wrong, in one line.
        path: the file it is about, which is put before the message; None if there is none.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = " ".join(message.split())
        self.path: str | None = None

    def __str__(self) -> str:
        return self.message if self.path is None else f"{self.path}: {self.message}"


class UnreadableFileError(BridgeError):
    """The file is missing, cannot be opened, or is not what torch.save writes."""


class UnsafeFileError(BridgeError):
    """The file has pickled objects that only running code could restore; no code was run."""


class UnwritableFileError(BridgeError):
    """The file could not be written; what was there before is unchanged."""


class FormatError(BridgeError):
    """The file was read, but an entry is not as docs/model.md section 6.1 describes it."""


class ConfigError(BridgeError):
    """The model's config lacks something, or has a value that no model can have."""


class MismatchError(BridgeError):
    """The tensors are not the model's; the message has every kind of problem at once.

    Attributes:
        problems: for each kind of problem ("missing", "unexpected", "misshapen", ...) the tensors;
            the message has the first ten of each kind.
    """

    def __init__(
        self,
        subject: str,
        problems: Mapping[str, Sequence[str]],
        advice: str = "",
        most: int = _SCREEN,
    ) -> None:
        """`most` is how many characters the tensors may take in the message."""
        self.problems = {kind: list(items) for kind, items in problems.items() if items}
        most //= max(len(self.problems), 1)
        parts = [
            f"{len(items)} {kind}: {listed(items, most)}" for kind, items in self.problems.items()
        ]
        super().__init__(f"{subject}: {'; '.join(parts)}{advice and f'; {advice}'}")


class FileWarning(UserWarning):
    """A file was read although something about it is odd; the message says what."""


class NonFiniteWarning(FileWarning):
    """A file was loaded although some of its weights or moments cannot be trained on."""


@contextlib.contextmanager
def errors_about(path: str | os.PathLike[str]) -> Iterator[None]:
    """Adds the path to every BridgeError that is raised inside the block."""
    try:
        yield
    except BridgeError as error:
        if error.path is None:
            error.path = os.fspath(path)
        raise


@contextlib.contextmanager
def or_the_weights_alone() -> Iterator[None]:
    """Adds what to do to every FormatError about a training state that the block raises."""
    try:
        yield
    except FormatError as error:
        error.message += "; import the weights alone with --model-only"
        raise


def in_words(error: OSError) -> str:
    """What the system says about a file, with its path and without the number of the error."""
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{os.fsdecode(error.filename)}: {reason}"


@contextlib.contextmanager
def unwritable() -> Iterator[None]:
    """Turns every OSError that is raised inside the block into an UnwritableFileError."""
    try:
        yield
    except OSError as error:
        raise UnwritableFileError(f"cannot be written: {error.strerror or error}") from None
