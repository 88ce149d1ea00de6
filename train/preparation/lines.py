"""Reads lines of files, plain or compressed with gzip or Zstandard."""

import codecs
import gzip
import io
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, cast

import zstandard


def open_lines(path: str) -> IO[bytes]:
    """Opens a file of lines, decompressed where its name ends in .gz or .zst."""
    if path.lower().endswith(".gz"):
        return cast(IO[bytes], gzip.open(path))
    file = open(path, "rb")  # noqa: SIM115 - the caller closes it
    if path.lower().endswith(".zst"):
        return io.BufferedReader(_Zstandard(file), 1 << 20)
    return file


def read_lines(stream: IO[bytes], longest: int) -> Iterator[bytes | None]:
    """Lines; None for one that is longer than `longest`, which is never completely in memory."""
    first = True
    while line := stream.readline(longest):
        if len(line) == longest and not line.endswith(b"\n"):
            while (rest := stream.readline(1 << 20)) and not rest.endswith(b"\n"):
                pass
            yield None
        else:
            yield line.removeprefix(codecs.BOM_UTF8) if first else line
        first = False


class _Zstandard(io.RawIOBase):
    """Reads frames one after the other, and raises an error if the last one is cut off.

    zstandard's own reader would end there without an error.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        # Any window that the format allows; by default no more than that of `zstd --long=27`.
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._frame: Any = None
        self._compressed = b""
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._plain:
            # Few bytes at a time, because four of them can expand to 128 KB.
            chunk = self._compressed or self._file.read(256)
            if not chunk:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("the last frame is cut off")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._decompressor.decompressobj()
            self._plain = memoryview(self._frame.decompress(chunk))
            self._compressed = self._frame.unused_data if self._frame.eof else b""
        count = min(len(buffer), len(self._plain))
        buffer[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
