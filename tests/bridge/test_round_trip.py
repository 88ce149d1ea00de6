"""From .pt to JAX and back, also by way of the other formats.

Bitwise, in order, of one dtype, tied tensors shared, training state included.
"""

import dataclasses
import warnings

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import torch
from flax import nnx
from helpers.paths import GOLDEN

from bridge import (
    NonFiniteWarning,
    load,
    load_torch,
    save_orbax,
    save_safetensors,
    save_torch,
)
from bridge.config.metadata import to_checkpoint
from bridge.keys import MODEL_CLASSES, entries
from bridge.weights import model_from_tensors, variables
from mmrec_jax import ModelConfig
from mmrec_jax.block_forms import stack_blocks

CHECKPOINTS = sorted(GOLDEN.glob("*/*.pt"))
INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def read(path):
    return torch.load(path, weights_only=True)


def assert_same_bits(tensors, expected):
    assert list(tensors) == list(expected)
    for key, tensor in tensors.items():
        assert tensor.dtype == expected[key].dtype
        integers = INTEGERS.get(tensor.dtype, tensor.dtype)
        assert torch.equal(tensor.view(integers), expected[key].view(integers)), key


def assert_same_checkpoint(written, original):
    assert list(written) == [*original, "model_config", "args"]
    assert_same_bits(written["model_state_dict"], original["model_state_dict"])
    for key in ("step", "avg_loss", "metadata", "scheduler_state_dict"):
        assert written[key] == original[key]
    if original["optimizer_state_dict"] is None:
        assert written["optimizer_state_dict"] is None
        return
    again, before = written["optimizer_state_dict"], original["optimizer_state_dict"]
    assert again["param_groups"] == before["param_groups"]
    assert list(again["state"]) == list(before["state"])
    for index, state in again["state"].items():
        assert_same_bits(state, before["state"][index])


def save_again(path, loaded, by_way_of="memory"):
    """What torch reads of a checkpoint that was saved once more, by way of another format."""
    if by_way_of != "memory":
        between = path.with_name(by_way_of)
        save = save_orbax if by_way_of == "orbax" else save_safetensors
        save(between, loaded.model, **loaded.training_state())
        loaded = load(between)
    save_torch(path, loaded.model, **loaded.training_state())
    return read(path)


FORMATS = ["memory", "a.safetensors", "orbax"]


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
@pytest.mark.parametrize("by_way_of", FORMATS)
def test_golden_files_come_back_unchanged(path, by_way_of, tmp_path):
    original = read(path)
    written = save_again(tmp_path / "again.pt", load_torch(path), by_way_of)
    assert_same_checkpoint(written, original)


@pytest.mark.parametrize(
    "folder",
    [
        "base",
        "base_hem_dpg",
        "base_sparse",
        "base_uboo",
        "expert",
        "fusion_concatenate",
        "mmrec100m_concatenate",
    ],
)
def test_the_originals_scripts_find_the_config_where_they_look(folder, tmp_path):
    """They read model_config or args, of files whose metadata they do not know."""
    config = read(GOLDEN / folder / "checkpoint.pt")["metadata"]["config"]
    loaded = load_torch(GOLDEN / folder / "checkpoint.pt")
    save_torch(tmp_path / "own.pt", loaded.model)
    written = read(tmp_path / "own.pt")
    if "max_seq_len" in config:
        config["max_seq_len"] = 32_768  # a model has none, and no number depends on it
    assert written["model_config"] == config
    assert written["args"].items() >= config.items()
    assert written["args"].get("model_dim", loaded.config.model_dim) == loaded.config.model_dim
    for entry in ("model_config", "args"):
        alone = {"model_state_dict": written["model_state_dict"], entry: written[entry]}
        torch.save(alone, tmp_path / "alone.pt")
        assert load_torch(tmp_path / "alone.pt").config == loaded.config


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("folder", ["base_sparse", "mmrec100m_concatenate"])
@pytest.mark.parametrize("by_way_of", FORMATS)
def test_half_precision_keeps_its_dtype(dtype, folder, by_way_of, tmp_path):
    original = read(GOLDEN / folder / "checkpoint.pt")
    tensors = {
        key: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for key, tensor in original["model_state_dict"].items()
    }
    torch.save({**original, "model_state_dict": tensors}, tmp_path / "half.pt")
    loaded = load_torch(tmp_path / "half.pt")
    assert {str(array.dtype) for array in variables(loaded.model).values()} == {
        str(dtype).removeprefix("torch.")
    }
    written = save_again(tmp_path / "again.pt", loaded, by_way_of)
    assert_same_bits(written["model_state_dict"], tensors)


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    heads = draw(st.sampled_from([2, 3]))
    return ModelConfig(
        vocab_size=draw(st.integers(1, 40)),
        model_dim=heads * draw(st.integers(4, 7)),
        num_layers=draw(st.integers(1, 2)),
        num_heads=heads,
        ffn_dim=draw(st.integers(1, 50)),
        dropout=draw(st.sampled_from([0.0, 0.1])),
        use_hem=draw(st.booleans()),
        pe_dim=draw(st.none() | st.integers(1, 9)),
        use_dpg=draw(st.booleans()),
        dpg_rank=draw(st.integers(1, 9)),
        use_uboo=draw(st.booleans()),
        lambda_P=draw(st.sampled_from([0.1, 0.5])),
        use_sparse=draw(st.booleans()),
        num_experts=2 ** draw(st.integers(1, 4)),
        sparse_chunk_size=draw(st.sampled_from([8, 128])),
        fusion_method=draw(st.sampled_from(["concatenate", "weighted"])),
    )


@pytest.mark.parametrize("model_class", MODEL_CLASSES)
@hypothesis.given(
    config=configs(),
    seed=st.integers(0, 99),
    wrapper=st.sampled_from(["", "module.", "_orig_mod."]),
    by_way_of=st.sampled_from(FORMATS),
)
@hypothesis.settings(max_examples=5, deadline=None)
def test_random_models_make_the_round_trip(
    model_class, config, seed, wrapper, by_way_of, skeleton, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("random")
    module = skeleton(model_class, config, seed)
    tensors = module.state_dict()
    # Without any config: heads are given and everything else is inferred.
    wrapped = {f"{wrapper}{key}": tensor for key, tensor in tensors.items()}
    torch.save(wrapped, folder / "bare.pt")
    loaded = load_torch(folder / "bare.pt", num_heads=config.num_heads)
    assert type(loaded.model) is MODEL_CLASSES[model_class]
    written = save_again(folder / "again.pt", loaded, by_way_of)
    assert_same_bits(written["model_state_dict"], tensors)
    assert written["metadata"]["model_class"] == model_class
    other = skeleton(model_class, config, seed + 1)
    other.load_state_dict(written["model_state_dict"], strict=True)

    arrays = variables(loaded.model)
    linears = {
        f"{name}.weight"
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Linear)
    }
    for entry in entries(model_class, loaded.config):
        if entry.kind in ("parameter", "buffer"):
            tensor = tensors[entry.key]
            wanted = tensor.T if entry.key in linears else tensor
            assert np.array_equal(np.asarray(arrays[entry.path]), wanted.numpy()), entry.key

    # The written metadata says all that load_torch needs.
    again = load_torch(folder / "again.pt")
    assert again.config == loaded.config
    assert nnx.graphdef(again.model) == nnx.graphdef(loaded.model)


@pytest.mark.parametrize("model_class", MODEL_CLASSES)
@hypothesis.given(
    config=configs(),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    steps=st.integers(0, 4),
    by_way_of=st.sampled_from(FORMATS),
)
@hypothesis.settings(max_examples=5, deadline=None)
def test_random_training_states_make_the_round_trip(
    model_class, config, seed, dtype, steps, by_way_of, skeleton, tmp_path_factory
):
    path = tmp_path_factory.mktemp("trained") / "trained.pt"
    module = skeleton(model_class, config, seed).to(dtype)
    # An eps that float16 can hold.
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, betas=(0.8, 0.9), eps=1e-3)
    parts = [
        torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=2),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5),
    ]
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])
    rng = np.random.default_rng(seed)
    without = {name for name, _ in module.named_parameters() if rng.random() < 0.2}
    for _ in range(steps):
        for name, parameter in module.named_parameters():
            parameter.grad = None if name in without else torch.randn_like(parameter)
        optimizer.step()
        schedule.step()
    content = {
        "model_state_dict": dict(module.state_dict()),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": schedule.state_dict(),
        "step": steps,
        "avg_loss": 1.5,
        "metadata": {
            "note": (1, [None, {2: "x"}]),
            "model_class": model_class,
            "config": to_checkpoint(model_class, config, {"max_seq_len": 7}),
        },
    }
    torch.save(content, path)
    assert_same_checkpoint(save_again(path, load_torch(path), by_way_of), content)


@pytest.mark.parametrize("model_class", MODEL_CLASSES)
@hypothesis.given(config=configs())
@hypothesis.settings(max_examples=5, deadline=None)
def test_a_models_own_config_is_written_whole(
    model_class, config, skeleton, unread, tmp_path_factory
):
    path = tmp_path_factory.mktemp("own") / "own.pt"
    tensors = skeleton(model_class, config).state_dict()
    save_torch(path, model_from_tensors(model_class, config, unread(tensors)))
    assert_same_bits(read(path)["model_state_dict"], tensors)
    loaded = load_torch(path).config
    seen = ["model_dim"]
    if model_class != "FusionLayer":
        seen += ["num_layers", "num_heads", "dropout", "use_hem", "use_dpg", "use_uboo"]
        seen += ["use_sparse", "ffn_dim"]
        seen += ["fused_projection_dim"] if config.use_hem else []
        seen += ["dpg_rank"] if config.use_dpg else []
        seen += ["lambda_P"] if config.use_uboo else []
        seen += ["num_experts", "sparse_chunk_size"] if config.use_sparse else []
    if model_class in ("FusionLayer", "MMRec100M"):
        seen += ["fusion_method", "fusion_dim"]
    if model_class in ("MMRecModel", "MMRec100M"):
        seen += ["vocab_size"]
    assert {key: getattr(loaded, key) for key in seen} == {
        key: getattr(config, key) for key in seen
    }


OWN = ModelConfig(vocab_size=9, model_dim=8, num_layers=1, num_heads=2, ffn_dim=7, dropout=0.0)
BLOCKS = {"num_layers": 1, "num_heads": 2, "ffn_dim": 7, "mem_dim": 8, "dropout": 0.0}


@pytest.mark.parametrize(
    ("model_class", "changes", "written"),
    [
        ("MMRecModel", {}, {"vocab_size": 9, "model_dim": 8, **BLOCKS}),
        ("ExpertModule", {}, {"model_dim": 8, **BLOCKS}),
        (
            "ExpertModule",
            {"use_hem": True, "use_dpg": True, "dpg_rank": 3},
            {"model_dim": 8, **BLOCKS, "use_hem": True, "use_dpg": True, "dpg_rank": 3},
        ),
        ("FusionLayer", {}, {"expert_dim": 8, "fused_dim": 16, "fusion_method": "concatenate"}),
        (
            "MMRec100M",
            {"fusion_method": "weighted"},
            {"vocab_size": 9, "expert_dim": 8, **BLOCKS, "fusion_method": "weighted"},
        ),
    ],
)
def test_a_config_is_written_in_the_checkpoints_names(
    model_class, changes, written, skeleton, unread, tmp_path
):
    config = dataclasses.replace(OWN, **changes)
    tensors = skeleton(model_class, config).state_dict()
    save_torch(tmp_path / "own.pt", model_from_tensors(model_class, config, unread(tensors)))
    assert read(tmp_path / "own.pt")["metadata"] == {"model_class": model_class, "config": written}


def test_tied_tensors_share_their_storage_in_the_file(tmp_path):
    path = GOLDEN / "base" / "checkpoint.pt"
    tensors = save_again(tmp_path / "again.pt", load_torch(path))["model_state_dict"]
    assert tensors["lm_head.weight"].data_ptr() == tensors["embedding.weight"].data_ptr()
    fused = load_torch(GOLDEN / "mmrec100m_concatenate" / "checkpoint.pt")
    tensors = save_again(tmp_path / "fused.pt", fused)["model_state_dict"]
    assert tensors["lm_head.weight"].data_ptr() != tensors["embedding.weight"].data_ptr()


def test_every_bit_pattern_survives_and_nan_is_reported(tmp_path):
    content = read(GOLDEN / "expert" / "checkpoint.pt")
    patterns = torch.tensor(
        [0x7FC00001, 0x7F800001, -1, 0x00000001, -(2**31), 0x7F800000], dtype=torch.int32
    ).view(torch.float32)
    content["model_state_dict"]["blocks.1.ffn.3.weight"][5, :6] = patterns
    content["model_state_dict"]["blocks.0.norm1.weight"][:6] = patterns
    torch.save(content, tmp_path / "odd.pt")
    with pytest.warns(NonFiniteWarning) as caught:
        loaded = load_torch(tmp_path / "odd.pt")
    assert len(caught) == 1
    assert "blocks.1.ffn.3.weight (4 of 2560 values)" in str(caught[0].message)
    assert "blocks.0.norm1.weight (4 of 32 values)" in str(caught[0].message)
    written = save_again(tmp_path / "again.pt", loaded)
    assert_same_bits(written["model_state_dict"], content["model_state_dict"])


def test_finite_weights_load_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_torch(GOLDEN / "base_sparse" / "checkpoint.pt")


@pytest.mark.parametrize("folder", ["base_sparse", "expert", "mmrec100m_concatenate"])
def test_a_model_with_stacked_blocks_is_written_as_a_list(folder, tmp_path):
    path = GOLDEN / folder / "checkpoint.pt"
    save_torch(tmp_path / "stacked.pt", stack_blocks(load_torch(path).model))
    written = read(tmp_path / "stacked.pt")["model_state_dict"]
    assert_same_bits(written, read(path)["model_state_dict"])


def test_the_loaded_arrays_are_jax_arrays_of_the_model(tmp_path):
    model = load_torch(GOLDEN / "fusion_concatenate" / "checkpoint.pt").model
    assert all(isinstance(array, jax.Array) for array in variables(model).values())
    weight = read(GOLDEN / "fusion_concatenate" / "checkpoint.pt")["model_state_dict"]
    kernel = np.asarray(model.fusion_proj.kernel[...])
    assert np.array_equal(kernel, weight["fusion_proj.weight"].numpy().T)
