"""The key table against torch's own naming, the JAX models, and the golden gradients."""

import types

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import torch
from flax import nnx
from helpers.paths import GOLDEN

from bridge import load_torch
from bridge.keys import MODEL_CLASSES, entries, named_parameters
from mmrec_jax import ModelConfig
from mmrec_jax.layers import Buffer


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    heads = draw(st.integers(1, 3))
    return ModelConfig(
        vocab_size=draw(st.integers(1, 40)),
        model_dim=heads * draw(st.integers(4, 7)),
        num_layers=draw(st.integers(1, 3)),
        num_heads=heads,
        ffn_dim=draw(st.integers(1, 50)),
        use_hem=draw(st.booleans()),
        pe_dim=draw(st.none() | st.integers(1, 9)),
        use_dpg=draw(st.booleans()),
        dpg_rank=draw(st.integers(1, 9)),
        use_uboo=draw(st.booleans()),
        use_sparse=draw(st.booleans()),
        num_experts=2 ** draw(st.integers(1, 4)),
        fusion_method=draw(st.sampled_from(["concatenate", "weighted"])),
    )


@pytest.mark.parametrize("model_class", MODEL_CLASSES)
@hypothesis.given(config=configs())
@hypothesis.settings(max_examples=40, deadline=None)
def test_names_shapes_and_order_are_torchs(model_class, config, skeleton):
    module = skeleton(model_class, config)
    table = entries(model_class, config)
    expected = [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]
    assert [(entry.key, entry.shape) for entry in table] == expected
    parameters = [name for name, _ in module.named_parameters()]
    assert [entry.key for entry in named_parameters(table)] == parameters
    buffers = {name for name, _ in module.named_buffers()}
    assert {e.key for e in table if e.kind in ("buffer", "constant")} == buffers
    linears = {
        f"{name}.weight"
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Linear)
    }
    transposed = {entry.key for entry in table if entry.transpose}
    assert transposed == linears - {e.key for e in table if e.kind == "tied"}


@pytest.mark.parametrize("model_class", MODEL_CLASSES)
@hypothesis.given(config=configs())
@hypothesis.settings(max_examples=8, deadline=None)
def test_the_table_covers_the_jax_model_exactly(model_class, config):
    key = jax.random.key(0)
    rngs = types.SimpleNamespace(params=lambda: key)
    model = nnx.eval_shape(lambda: MODEL_CLASSES[model_class](config, rngs=rngs))
    leaves = dict(nnx.to_flat_state(nnx.state(model)))
    stored = [e for e in entries(model_class, config) if e.kind in ("parameter", "buffer")]
    assert {
        e.path: (e.shape[::-1] if e.transpose else e.shape, e.kind == "buffer") for e in stored
    } == {path: (leaf.shape, type(leaf) is Buffer) for path, leaf in leaves.items()}
    assert len(stored) == len(leaves)


@pytest.mark.parametrize("model_class", MODEL_CLASSES)
def test_each_name_lies_at_the_path_of_the_same_name(model_class):
    """Two Linears of one shape, swapped in the table, would still make a round trip."""
    config = ModelConfig(vocab_size=9, model_dim=8, num_layers=2, num_heads=2, use_dpg=True)
    config_with_all = ModelConfig(**{**vars(config), "use_uboo": True, "fusion_method": "weighted"})
    leaf_names = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
    for entry in entries(model_class, config_with_all):
        if entry.kind == "tied":
            assert (entry.key, entry.path) == ("lm_head.weight", ("embedding", "embedding"))
            continue
        *parts, leaf = entry.path
        second = "3" if "ffn" in parts else "2"
        renamed = {"linear_in": "0", "linear_out": second, "gate": "gate.0"}
        names = [renamed.get(part, str(part)) for part in parts]
        assert ".".join([*names, leaf_names[leaf]]) == entry.key


@pytest.mark.parametrize(
    "folder", sorted(path.parent.name for path in GOLDEN.glob("*/checkpoint.pt"))
)
def test_the_parameters_with_a_gradient_are_the_originals(folder):
    loaded = load_torch(GOLDEN / folder / "checkpoint.pt")
    untrained = set(loaded.config.untrained_modules)
    table = named_parameters(entries(type(loaded.model).__name__, loaded.config))
    golden = np.load(GOLDEN / folder / "io.npz").files
    names = {key.removeprefix("grad.") for key in golden if key.startswith("grad.")}
    inputs = {"x", "text_output", "code_output"}
    assert {e.key for e in table if not untrained & set(e.path)} == names - inputs
