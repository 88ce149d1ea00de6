"""The .pt file: a zip archive of one pickle and the values of its tensors.

Reading executes nothing in the file and trusts nothing unchecked: sizes are compared with the
file's size, values with their CRC if they have one. Writing never leaves half a file.
"""

import contextlib
import dataclasses
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from bridge.errors import FileWarning, FormatError, UnreadableFileError, unwritable
from bridge.files import disk
from bridge.files.aligned_memory import ALIGNMENT
from bridge.files.disk import PathLike
from bridge.files.plain_data import check_extent, most_bytes, safe_name
from bridge.files.refused import Needed, all_of_it, refuse
from bridge.files.tensors import Array, Tensor, computed_ahead, contiguous
from bridge.files.torch_pickle import decode, encode
from bridge.files.torch_views import View

_LARGE_RECORD = 2**30
"""In bytes: a record of this size or more is written in the form for large records."""

_LARGEST_PICKLE = 2**25
"""In bytes; a model of 100 million parameters needs a hundredth of this."""

_LARGEST_DIRECTORY = 2**24
"""In bytes; likewise."""

_STRIP = 2**20
"""Bytes of a matrix to read at once: they stay in the cache, and their memory is reused."""

_CHUNK = 2**24
"""Bytes to read at once if they are only compared with their CRC."""


@contextlib.contextmanager
def reading(path: PathLike, needed: Needed = all_of_it) -> Iterator[Any]:
    """What torch.save put into the file, its tensors as Tensor, readable until the block ends.

    When the block ends, every record has been checked with its CRC.

    Args:
        path: the file.
        needed: what must be readable; the rest has a Refused in the place of what is not read.

    Warns:
        FileWarning: it was saved without CRCs.

    Raises:
        UnreadableFileError: the file is missing, a folder, empty, truncated, damaged or of another
            kind.
        UnsafeFileError: it holds pickled objects other than tensors, containers and numbers.
        FormatError: a tensor's description is impossible.
    """
    with disk.opened(path) as file:
        records = _Records(file, needed)
        yield records.content
        records.check_rest()


def write(path: PathLike, content: Any) -> None:
    """Saves plain data and Tensors; if that fails, the path still has the old file.

    Equal contents give equal files.

    Raises:
        UnwritableFileError: the folder does not exist, is not writable or full.
        FormatError: there is too much besides the tensors.
    """
    pickled, records = encode(content)
    if len(pickled) > _LARGEST_PICKLE:
        raise FormatError("too much metadata for a .pt file")
    with (
        unwritable(),
        disk.replacing_file(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, data in (("data.pkl", pickled), ("version", b"3\n"), ("byteorder", b"little")):
            _write_record(archive, file, name, memoryview(data))
        all_values = computed_ahead(tensor.read for tensor in records.values())
        for key, values in zip(records, all_values, strict=True):
            _write_record(archive, file, f"data/{key}", values.reshape(-1).view(np.uint8).data)


def _write_record(archive: zipfile.ZipFile, file: BinaryIO, name: str, data: memoryview) -> None:
    info = zipfile.ZipInfo(f"archive/{name}")
    info.file_size = data.nbytes
    info.CRC = 0
    large = data.nbytes > _LARGE_RECORD
    # As in torch, an extra field pads the header: torch.load(mmap=True) needs aligned values.
    with_empty_field = file.tell() + len(info.FileHeader(zip64=large)) + 4
    padding = -with_empty_field % ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
    with archive.open(info, "w", force_zip64=large) as record:
        record.write(data)


@dataclasses.dataclass(frozen=True, slots=True)
class _Record:
    """A named part of the archive: its header's position, its bytes and their CRC-32."""

    name: str
    header: int
    size: int
    crc: int


class _Records:
    """The records of an archive.

    Attributes:
        content: the content of the pickle.
    """

    def __init__(self, file: BinaryIO, needed: Needed) -> None:
        self._file = file
        self._all, self._end = _directory(file)
        self._unread = dict(self._all)
        # No usual CRC is 0, so all are 0 only where torch was told to compute none.
        filled = [record for record in self._all.values() if record.size]
        self._checked = not filled or any(record.crc for record in filled)
        pickles = [name for name in self._all if name.endswith("/data.pkl")]
        folders = {name.split("/")[0] for name in self._all}
        if len(pickles) != 1 or len(folders) != 1:
            raise UnreadableFileError("a zip archive, but not a checkpoint that torch.save wrote")
        if not self._checked:
            warnings.warn(
                "saved without CRC-32s (torch.serialization.set_crc32_options(False)), so flipped "
                "bits in it cannot be found",
                FileWarning,
                stacklevel=2,
            )
        self._folder = pickles[0].removesuffix("data.pkl")
        order = self._all.get(f"{self._folder}byteorder")
        if order and (order.size != len("little") or bytes(self._read(order)) != b"little"):
            raise FormatError("its values are big-endian: save it again on another machine")
        self._views: Counter[str] = Counter()
        self._shared: dict[str, memoryview] = {}
        pickled = self._all[pickles[0]]
        if pickled.size > _LARGEST_PICKLE:
            raise FormatError(f"its pickle is larger than {_LARGEST_PICKLE} bytes")
        most = most_bytes(disk.size(file))
        content, refused = decode(bytes(self._read(pickled)), self._tensor, most)
        self.content = check_extent(content, disk.size(file), needed(content))
        refuse(self.content, refused, needed(self.content))

    def check_rest(self) -> None:
        """Reads what nobody has read yet, to check its CRC."""
        for record in self._unread.values():
            start, crc = self._start(record), 0
            if not self._checked:
                continue
            for position in range(0, record.size, _CHUNK):
                length = min(_CHUNK, record.size - position)
                crc = zlib.crc32(disk.read(self._file, start + position, length), crc)
            self._compare(crc, record)
        self._unread.clear()

    def _read(self, record: _Record) -> memoryview:
        data = disk.read(self._file, self._start(record), record.size)
        if self._checked:
            self._compare(zlib.crc32(data), record)
        self._unread.pop(record.name, None)
        return data

    def _compare(self, crc: int, record: _Record) -> None:
        if self._checked and crc != record.crc:
            raise UnreadableFileError(
                f"damaged: the CRC-32 of {safe_name(record.name)} has changed"
            )

    def _start(self, record: _Record) -> int:
        """Where a record's bytes start: after a header that names it once more."""
        header = disk.read(self._file, record.header, _HEADER.size)
        signature, name_length, extra_length = _HEADER.unpack(header)
        name = disk.read(self._file, record.header + _HEADER.size, name_length)
        start = record.header + _HEADER.size + name_length + extra_length
        named = signature == _HEADER_SIGNATURE and _text(name) == record.name
        if not named or start + record.size > self._end:
            raise UnreadableFileError(
                f"damaged: {safe_name(record.name)} is not where it should be"
            )
        return start

    def _tensor(self, view: View) -> Tensor:
        storage = view.storage
        name = f"{self._folder}data/{storage.key}"
        record = self._all.get(name)
        claimed = storage.size * storage.dtype.itemsize
        if record is None:
            raise FormatError(f"has no values for a tensor: {safe_name(name)} is missing")
        if record.size != claimed:
            raise FormatError(
                f"{safe_name(name)} holds {record.size} bytes, where its tensors need {claimed}"
            )
        self._views[name] += 1

        def read() -> Array:
            data = self._shared.get(name)
            if data is None:
                data = self._read(record)
                if self._views[name] > 1:  # read once for all of them
                    self._shared[name] = data
            flat = np.frombuffer(data, storage.dtype)[view.offset :]
            strides = [stride * storage.dtype.itemsize for stride in view.strides]
            values = np.lib.stride_tricks.as_strided(flat, view.shape, strides, writeable=False)
            return contiguous(values)

        def read_strips() -> Iterator[Array]:
            rows, columns = view.shape
            start, crc = self._start(record), 0
            at_once = max(1, _STRIP // (columns * storage.dtype.itemsize))
            for row in range(0, rows, at_once):
                count = min(at_once, rows - row)
                length = count * columns * storage.dtype.itemsize
                data = disk.read(self._file, start, length)
                start, crc = start + length, zlib.crc32(data, crc)
                yield np.frombuffer(data, storage.dtype).reshape(count, columns)
            self._compare(crc, record)
            self._unread.pop(name, None)

        whole = len(view.shape) == 2 and view.strides == (view.shape[1], 1)
        whole = whole and 0 < storage.size == view.shape[0] * view.shape[1]
        return Tensor(view.shape, storage.dtype, read, read_strips if whole else None)


def _directory(file: BinaryIO) -> tuple[dict[str, _Record], int]:
    """The records by name, as the archive's directory lists them, and where the directory starts.

    zipfile could raise nearly any exception, and allocates what a file claims without a check.

    Raises:
        UnreadableFileError: it is not an archive, or a truncated or damaged one.
        FormatError: it lists records that torch.save does not write.
    """
    size = disk.size(file)
    if disk.read(file, 0, min(4, size)) != _HEADER_SIGNATURE:
        raise UnreadableFileError(
            "not a checkpoint that torch.save wrote (since torch 1.6 they are zip archives; save "
            "an older one again with a newer torch), or a damaged one"
        )
    try:
        count, length, start = _place_of_directory(file, size)
        records = list(_listed(bytes(disk.read(file, start, length))))
    except (struct.error, UnreadableFileError):
        raise UnreadableFileError("a truncated or damaged archive") from None
    found = {record.name: record for record in records}
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in found):
        raise UnreadableFileError(
            "a TorchScript archive, which holds code: save its state_dict() with torch.save"
        )
    if len(found) != len(records):
        name = Counter(record.name for record in records).most_common(1)[0][0]
        raise FormatError(f"has the record '{safe_name(name)}' twice")
    if len(records) != count:
        raise UnreadableFileError(f"a damaged archive of {len(records)} instead of {count} records")
    if sum(record.size for record in records) > start:
        raise FormatError("its records claim more bytes than the file has")
    return found, start


def _place_of_directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """The number of records in the archive's directory, its length and its start."""
    position = size - _END.size
    signature, count, length, start, comment = _END.unpack(disk.read(file, position, _END.size))
    if disk.read(file, position - _LOCATOR_SIZE, 4) == _LOCATOR_SIGNATURE:
        # The same as 64-bit numbers, which torch always writes.
        position -= _LOCATOR_SIZE + _END_64.size
        numbers = disk.read(file, position, _END_64.size)
        signature_64, count, length, start = _END_64.unpack(numbers)
        if signature_64 != _END_64_SIGNATURE:
            raise UnreadableFileError("damaged")
    if signature != _END_SIGNATURE or comment or start + length != position:
        raise UnreadableFileError("damaged")
    if length > _LARGEST_DIRECTORY:
        raise FormatError(f"its archive's directory is larger than {_LARGEST_DIRECTORY} bytes")
    return count, length, start


def _listed(directory: bytes) -> Iterator[_Record]:
    position = 0
    while position < len(directory):
        entry = _ENTRY.unpack_from(directory, position)
        signature, flags, method, crc, packed, size, *lengths, header = entry
        name_length, extra_length, comment_length = lengths
        name_end = position + _ENTRY.size + name_length
        name = _text(directory[position + _ENTRY.size : name_end])
        position = name_end + extra_length + comment_length
        if signature != _ENTRY_SIGNATURE or position > len(directory):
            raise UnreadableFileError("damaged")
        large = _large_numbers(directory[name_end : name_end + extra_length])
        size, packed, header = (
            next(large, number) if number == 2**32 - 1 else number
            for number in (size, packed, header)
        )
        is_code = "/code/" in name  # of TorchScript, which is refused as a whole
        if (method or flags & 1) and not is_code:
            raise FormatError(f"its record '{safe_name(name)}' is compressed or encrypted")
        if packed != size and not is_code:
            raise FormatError(f"its record '{safe_name(name)}' claims two sizes")
        yield _Record(name, header, size, crc)


def _large_numbers(extra: bytes) -> Iterator[int]:
    """The numbers in an entry's extra fields, which replace those that do not fit into 32 bits."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4 + length
        if kind == 1 and length % 8 == 0 and position <= len(extra):
            yield from struct.unpack_from(f"<{length // 8}Q", extra, position - length)


def _text(name: bytes | memoryview) -> str:
    return bytes(name).decode("utf-8", "surrogateescape")


_HEADER = struct.Struct("<4s22x2H")
"""Before each record: signature, lengths of the name and of the extra fields."""

_ENTRY = struct.Struct("<4s4x2H4x3I3H8xI")
"""In the directory: signature, flags, method, CRC-32, compressed and true size, lengths of name,
extra fields and comment, position of the header."""

_END = struct.Struct("<4s6xH2IH")
"""At the end of the file: signature, number of entries, length and start of the directory, length
of a comment."""

_END_64 = struct.Struct("<4s28x3Q")
_LOCATOR_SIZE = 20
_HEADER_SIGNATURE = b"PK\3\4"
_ENTRY_SIGNATURE = b"PK\1\2"
_END_SIGNATURE = b"PK\5\6"
_END_64_SIGNATURE = b"PK\6\6"
_LOCATOR_SIGNATURE = b"PK\6\7"
