"""The models against the original's own outputs and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.losses import cross_entropies

from bridge.keys import entries
from mmrec_jax.block_forms import stack_blocks, unstack_blocks

pytestmark = pytest.mark.golden

TOLERANCE = 1e-5
MODELS = [
    "base",
    "base_chunked",
    "base_dpg",
    "base_hem",
    "base_hem_dpg",
    "base_sparse",
    "base_uboo",
]


def flat(state):
    return {path: leaf[...] for path, leaf in nnx.to_flat_state(state)}


def assert_close(found, expected):
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=TOLERANCE)


def assert_gradients(golden, grads):
    errors = golden.gradient_errors(grads)
    checkpoint = golden.checkpoint
    table = entries(type(checkpoint.model).__name__, checkpoint.config)
    untrained = set(checkpoint.config.untrained_modules)
    assert set(errors) == {
        entry.key
        for entry in table
        if entry.kind == "parameter" and not untrained & set(entry.path)
    }
    wrong = {key: error for key, error in errors.items() if not error <= TOLERANCE}
    assert not wrong


@pytest.mark.parametrize("blocks", ["list", "stacked"])
@pytest.mark.parametrize("folder", MODELS)
def test_model(golden, folder, blocks):
    data = golden(folder)
    chunk_size = int(data.arrays["chunk_size"]) if "chunk_size" in data.arrays else None
    model = data.checkpoint.model
    if blocks == "stacked":
        model = stack_blocks(model)
    graphdef, params, buffers = nnx.split(model, nnx.Param, ...)

    def loss(params):
        out = nnx.merge(graphdef, params, buffers)(
            data.ids("input_ids"), data.memory(), chunk_size=chunk_size
        )
        return cross_entropies(out.logits, data.ids("labels")).mean() + out.auxiliary_loss, out

    (total, out), grads = jax.value_and_grad(loss, has_aux=True)(params)
    assert_close(out.logits, data.arrays["logits"])
    assert_close(total, data.arrays["loss"])
    if "auxiliary_loss" in data.arrays:
        assert_close(out.auxiliary_loss, data.arrays["auxiliary_loss"])
    else:
        assert float(out.auxiliary_loss) == 0
    for i, memory in enumerate(out.memory):
        for name, slots in zip("kv", memory, strict=True):
            assert slots.shape == (2, 1024, data.checkpoint.config.model_dim)
            expected = data.arrays.get(f"long_term_after.{i}.{name}")
            if expected is not None:
                assert_close(slots, np.broadcast_to(expected[:, None], slots.shape))
    gradients = nnx.merge(graphdef, grads, buffers)
    if blocks == "stacked":
        gradients = unstack_blocks(gradients)
    assert_gradients(data, flat(nnx.state(gradients, nnx.Param)))


def test_expert(golden):
    data = golden("expert")
    graphdef, params = nnx.split(data.checkpoint.model)

    def projected(params, x):
        output, _ = nnx.merge(graphdef, params)(x, data.memory())
        return jnp.sum(output * data.arrays["cotangent"]), output

    grad = jax.value_and_grad(projected, argnums=(0, 1), has_aux=True)
    (_, output), (grads, grad_x) = grad(params, jnp.asarray(data.arrays["x"]))
    assert_close(output, data.arrays["output"])
    assert_gradients(data, flat(grads))
    expected = data.arrays["grad.x"]
    assert np.linalg.norm(grad_x - expected) <= TOLERANCE * np.linalg.norm(expected)


def test_fusion(golden):
    data = golden("fusion_concatenate")
    graphdef, params = nnx.split(data.checkpoint.model)

    def projected(params, text_output, code_output):
        output = nnx.merge(graphdef, params)(text_output, code_output)
        return jnp.sum(output * data.arrays["cotangent"]), output

    inputs = {name: jnp.asarray(data.arrays[name]) for name in ("text_output", "code_output")}
    grad = jax.value_and_grad(projected, argnums=(0, 1, 2), has_aux=True)
    (_, output), (grads, *input_grads) = grad(params, *inputs.values())
    for name, found in zip(inputs, input_grads, strict=True):
        expected = data.arrays[f"grad.{name}"]
        assert np.linalg.norm(found - expected) <= TOLERANCE * np.linalg.norm(expected)
    assert_close(output, data.arrays["output"])
    assert_gradients(data, flat(grads))


def test_mmrec100m(golden):
    data = golden("mmrec100m_concatenate")
    model = data.checkpoint.model
    memory = {name: data.memory(f"{name}.") for name in ("text", "code")}
    graphdef, params = nnx.split(model)

    def loss(params):
        out = nnx.merge(graphdef, params)(data.ids("input_ids"), memory)
        return cross_entropies(out.logits, data.ids("labels")).mean(), out

    (total, out), grads = jax.value_and_grad(loss, has_aux=True)(params)
    assert_close(out.logits, data.arrays["logits.both"])
    assert_close(total, data.arrays["loss"])
    assert_gradients(data, flat(grads))
    for expert_type in ("text", "code"):
        out = model(data.ids("input_ids"), memory, expert_type=expert_type)
        assert_close(out.logits, data.arrays[f"logits.{expert_type}"])
        assert list(out.memory) == [expert_type]
