"""The errors of files and conversions; the message of each is one clear line."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence


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
    """The tensors are not the model's; the message lists everything that is wrong at once.

    Attributes:
        problems: for each kind of problem ("missing", "unexpected", "misshapen", ...) the tensors.
    """

    def __init__(self, subject: str, problems: Mapping[str, Sequence[str]]) -> None:
        self.problems = {kind: list(items) for kind, items in problems.items() if items}
        parts = [
            f"{len(items)} {kind}: {', '.join(items)}" for kind, items in self.problems.items()
        ]
        super().__init__(f"{subject}: {'; '.join(parts)}")


class NonFiniteWarning(UserWarning):
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
def unwritable() -> Iterator[None]:
    """Turns every OSError that is raised inside the block into an UnwritableFileError."""
    try:
        yield
    except OSError as error:
        raise UnwritableFileError(f"cannot be written: {error.strerror or error}") from None
