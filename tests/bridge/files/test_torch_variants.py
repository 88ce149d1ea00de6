"""Files that torch writes and reads in other ways than the usual: they are read all the same."""

import contextlib
import io
import re
import struct
import zipfile

import pytest
import torch
from helpers.paths import GOLDEN

from bridge import FileWarning, UnreadableFileError, load_torch
from bridge.__main__ import main
from bridge.weights import tensors_of

FUSION = GOLDEN / "fusion_concatenate" / "checkpoint.pt"


def content_of(folder="fusion_concatenate"):
    return torch.load(GOLDEN / folder / "checkpoint.pt", weights_only=True)


def bits_of(model):
    return {name: tensor.read().tobytes() for name, tensor in tensors_of(model).items()}


@contextlib.contextmanager
def without_crc():
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(True)


@pytest.fixture
def unchecked(tmp_path):
    """A golden checkpoint that torch saved without CRC-32s."""
    with without_crc():
        torch.save(content_of(), tmp_path / "unchecked.pt")
    return tmp_path / "unchecked.pt"


def test_a_file_without_crc_is_read_with_a_warning(unchecked, tmp_path, capsys):
    with pytest.warns(FileWarning, match="saved without CRC-32s .*cannot be found"):
        loaded = load_torch(unchecked)
    assert bits_of(loaded.model) == bits_of(load_torch(FUSION).model)
    for command in (
        ["inspect", str(unchecked)],
        ["from-torch", str(unchecked), str(tmp_path / "o")],
    ):
        assert main(command) == 0
        assert re.fullmatch(
            rf"warning: {unchecked}: saved without CRC-32s [^\n]*\n", capsys.readouterr().err
        )


@pytest.mark.parametrize("share", [0.001, 0.5, 0.9999])
def test_a_truncated_file_without_crc_is_refused(share, unchecked):
    data = unchecked.read_bytes()
    unchecked.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnreadableFileError, match="truncated or damaged"):
        load_torch(unchecked)


@pytest.mark.parametrize("name", ["data.pkl", "data/0", "version"])
def test_one_crc_of_0_among_others_is_damage(name, tmp_path):
    buffer = io.BytesIO()
    torch.save(content_of(), buffer)
    data = bytearray(buffer.getvalue())
    with zipfile.ZipFile(buffer) as archive:
        count = len(archive.infolist())
    for start in (match.start() for match in re.finditer(re.escape(b"PK\1\2"), data)):
        length = struct.unpack_from("<H", data, start + 28)[0]
        if data[start + 46 : start + 46 + length] == f"archive/{name}".encode():
            struct.pack_into("<I", data, start + 16, 0)
            count = 0
    assert count == 0, "there is no such record"
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(UnreadableFileError, match=f"CRC-32 of archive/{name} has changed"):
        load_torch(tmp_path / "a.pt")
