"""Files that torch writes and reads in other ways than the usual: they are read all the same."""

import contextlib
import io
import json
import re
import struct
import zipfile

import pytest
import safetensors.torch
import torch
from helpers.paths import GOLDEN

from bridge import (
    BridgeError,
    FileWarning,
    FormatError,
    MismatchError,
    UnreadableFileError,
    load_safetensors,
    load_torch,
)
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
    assert main(["inspect", str(unchecked)]) == 0
    assert re.search("\nwarning +saved without CRC-32s ", capsys.readouterr().out)
    assert main(["from-torch", str(unchecked), str(tmp_path / "out")]) == 0
    line = rf"warning: {unchecked}: saved without CRC-32s [^\n]*\n"
    assert re.fullmatch(line, capsys.readouterr().err)


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


def with_tensors(path, change, folder="base", **options):
    content = content_of(folder)
    change(content["model_state_dict"])
    torch.save(content, path, **options)
    return path


def expanded(tensors):
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.ndim:
            tensors[name] = tensor.flatten()[0].expand(tensor.shape)


def rows_repeated(tensors):
    name = "embedding.weight"
    tensors[name] = tensors["lm_head.weight"] = tensors[name][:1].expand(160, 32)


def overlapping(tensors):
    values = torch.arange(200.0)
    tensors["embedding.weight"] = values.as_strided((160, 32), (1, 1))
    tensors["lm_head.weight"] = tensors["embedding.weight"]


def one_storage(tensors):
    names = [name for name, tensor in tensors.items() if tensor.dtype == torch.float32]
    names = [name for name in names if name not in ("embedding.weight", "lm_head.weight")]
    flat = torch.cat([tensors[name].flatten() for name in names])
    start = 0
    for name in names:
        size = tensors[name].numel()
        tensors[name] = flat[start : start + size].view(tensors[name].shape)
        start += size


def slices(tensors):
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            large = torch.full((tensor.shape[0] * 2 + 3, *tensor.shape[1:]), 7.0)
            large[2 : 2 + tensor.shape[0]] = tensor
            tensors[name] = large[2 : 2 + tensor.shape[0]]
    tensors["lm_head.weight"] = tensors["embedding.weight"]


def transposed(tensors):
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and name not in ("embedding.weight", "lm_head.weight"):
            tensors[name] = tensor.T.contiguous().T


def with_attributes(tensors):
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = torch.nn.Parameter(tensor)
            tensors[name].kind = "weight"
    tensors["norm.weight"] = torch.nn.Buffer(tensors["norm.weight"].data)
    tensors["lm_head.weight"] = tensors["embedding.weight"]


VIEWS = (
    expanded,
    rows_repeated,
    overlapping,
    one_storage,
    slices,
    transposed,
    with_attributes,
)


@pytest.mark.parametrize("change", VIEWS, ids=lambda change: change.__name__)
def test_views_are_read_as_torch_reads_them(change, tmp_path):
    path = with_tensors(tmp_path / "a.pt", change)
    wanted = torch.load(path, weights_only=False)["model_state_dict"]
    found = bits_of(load_torch(path).model)
    assert found == {
        name: tensor.detach().contiguous().numpy().tobytes() for name, tensor in wanted.items()
    }
    assert main(["inspect", str(path)]) == 0


def test_an_expanded_tensor_beyond_the_limit_is_refused(tmp_path):
    def huge(tensors):
        tensors["w"] = torch.zeros(1).expand(2**13, 2**13)

    path = with_tensors(tmp_path / "a.pt", huge)
    with pytest.raises(FormatError, match=r"\[8192, 8192\] .* than the 1 stored.*\.clone\(\)"):
        load_torch(path)

    def many(tensors):
        for index in range(200):
            tensors[f"w{index}"] = torch.zeros(1).expand(2**9, 2**10)

    path = with_tensors(tmp_path / "a.pt", many)
    with pytest.raises(FormatError, match=r"its tensors claim \d+ bytes.*\.clone\(\)"):
        load_torch(path)


FOREIGN = {
    **{
        str(dtype).removeprefix("torch."): (
            lambda tensor, dtype=dtype: tensor.to(dtype),
            str(dtype).removeprefix("torch."),
            ".float()",
        )
        for dtype in (
            *(torch.float64, torch.int64, torch.uint8, torch.bool),
            *(torch.uint16, torch.uint32, torch.uint64),
            *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz),
            *(torch.float8_e5m2fnuz, torch.float8_e8m0fnu),
        )
    },
    "complex64": (lambda tensor: tensor.to(torch.complex64), "complex64", ".real.float()"),
    "complex128": (lambda tensor: tensor.to(torch.complex128), "complex128", ".real.float()"),
    "complex32": (lambda tensor: tensor.to(torch.complex32), "complex32", ".real.float()"),
    "sparse": (lambda tensor: tensor.to_sparse(), "sparse tensors", ".to_dense()"),
    "CSR": (lambda tensor: tensor.to_sparse_csr(), "sparse tensors", ".to_dense()"),
    "quantized": (
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        "quantized tensors",
        ".dequantize()",
    ),
    "quantized by channel": (
        lambda tensor: torch.quantize_per_channel(
            tensor, torch.ones(160), torch.zeros(160), 0, torch.quint8
        ),
        "quantized tensors",
        ".dequantize()",
    ),
    "meta": (lambda tensor: tensor.to("meta"), "tensors on the meta device", "give them values"),
    "negated": (lambda tensor: torch._neg_view(tensor), "negated views", ".clone()"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about these types
@pytest.mark.parametrize("name", FOREIGN)
def test_a_type_that_no_model_has_is_called_by_its_name(name, tmp_path):
    convert, called, remedy = FOREIGN[name]

    def change(tensors):
        tensors["embedding.weight"] = convert(tensors["embedding.weight"])

    path = with_tensors(tmp_path / "a.pt", change)
    with pytest.raises(BridgeError) as caught:
        load_torch(path)
    line = caught.value.message
    assert called in line
    assert "MM-Rec's models " in line
    assert remedy in line
    assert not re.search("damaged|impossibl|executed|--model-only", line)


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float64, torch.uint16, torch.uint32, torch.uint64, torch.complex64),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*ComplexHalf")
def test_a_type_that_no_model_has_is_called_by_its_name_in_safetensors(dtype, tmp_path):
    tensors = content_of()["model_state_dict"]
    name = "fusion_proj.bias"
    tensors[name] = tensors[name].to(dtype)
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    called = str(dtype).removeprefix("torch.")
    with pytest.raises(MismatchError, match=rf"{name} \({called}\).*\.float\(\)") as caught:
        load_safetensors(tmp_path / "a.safetensors")
    assert caught.value.problems == {"of the wrong type": [f"{name} ({called})"]}


@pytest.mark.parametrize(
    ("kind", "bits", "called"),
    [
        *(("F4", 4, "float4_e2m1fn_x2"), ("F6_E2M3", 6, "float6_e2m3")),
        *(("F6_E3M2", 6, "float6_e3m2"), ("F99_NEW", 99, "F99_NEW")),
    ],
)
def test_types_that_numpy_lacks_are_called_by_their_names(kind, bits, called, tmp_path):
    header = {"w": {"dtype": kind, "shape": [4, 2], "data_offsets": [0, bits]}}
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(bits))
    with pytest.raises(FormatError, match=f"holds {called} tensors") as caught:
        load_safetensors(tmp_path / "a.safetensors")
    assert "impossibl" not in str(caught.value)
