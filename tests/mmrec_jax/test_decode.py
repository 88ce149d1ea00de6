"""Decoding token by token equals the full pass, and its state does not grow."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmrec_jax import ExpertModule, LongTermMemory, MMRec100M, MMRecModel, ModelConfig

TOKENS = 200
CONFIG = ModelConfig(
    vocab_size=97, model_dim=24, num_layers=3, num_heads=4, ffn_dim=40, dpg_rank=10, pe_dim=14
)
VARIANTS = {
    "plain": {},
    "hem": {"use_hem": True},
    "dpg": {"use_dpg": True},
    "hem_dpg": {"use_hem": True, "use_dpg": True},
    "uboo": {"use_uboo": True},
}


def perturbed(model, seed=1):
    """The model with every parameter moved, so that none keeps a special value."""
    graphdef, state = nnx.split(model)
    leaves, structure = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [
        leaf + 0.05 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return nnx.merge(graphdef, jax.tree.unflatten(structure, moved))


def random_memory(batch=None, seed=2):
    shape = (1024, CONFIG.model_dim) if batch is None else (batch, 1024, CONFIG.model_dim)
    keys = jax.random.split(jax.random.key(seed), 2 * CONFIG.num_layers)
    return [
        LongTermMemory(jax.random.normal(k, shape), jax.random.normal(v, shape))
        for k, v in zip(keys[::2], keys[1::2], strict=True)
    ]


def token_by_token(model, inputs, state, method="decode", **options):
    graphdef, params = nnx.split(model)
    decode = jax.jit(lambda p, *args: getattr(nnx.merge(graphdef, p), method)(*args, **options))
    outputs = []
    for t in range(inputs.shape[1]):
        output, state = decode(params, inputs[:, t : t + 1], state)
        outputs.append(output)
    return jnp.concatenate(outputs, axis=1), state


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def ids(batch=2):
    return jax.random.randint(jax.random.key(0), (batch, TOKENS), 0, CONFIG.vocab_size)


@pytest.mark.parametrize("chunk_size", [None, 64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_model(variant, chunk_size):
    config = dataclasses.replace(CONFIG, **VARIANTS[variant])
    model = perturbed(MMRecModel(config, rngs=nnx.Rngs(0)))
    memory = random_memory()
    full = model(ids(), memory, chunk_size=chunk_size)
    logits, state = token_by_token(
        model, ids(), model.start_decoding(2, memory, chunk_size=chunk_size)
    )
    assert_close(logits, full.logits)
    for found, expected in zip(state.long_term_memory(), full.memory, strict=True):
        assert_close(found.k, expected.k)
        assert_close(found.v, expected.v)


@pytest.mark.parametrize("memory", ["zeros", "shared", "batched"])
def test_prompt_in_one_call_then_tokens(memory):
    model = perturbed(MMRecModel(CONFIG, rngs=nnx.Rngs(0)))
    given = {"zeros": None, "shared": random_memory(), "batched": random_memory(2)}[memory]
    full = model(ids(), given)
    prompt, rest = ids()[:, :150], ids()[:, 150:]
    first, state = model.decode(prompt, model.start_decoding(2, given))
    sizes = [leaf.shape for leaf in jax.tree.leaves(state)]
    last, state = token_by_token(model, rest, state)
    assert_close(jnp.concatenate([first, last], axis=1), full.logits)
    assert sizes == [leaf.shape for leaf in jax.tree.leaves(state)]


def test_expert():
    model = perturbed(ExpertModule(CONFIG, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(0), (2, TOKENS, CONFIG.model_dim))
    full, _ = model(x, random_memory())
    found, _ = token_by_token(
        model, x, model.start_decoding(2, random_memory()), "decode_hidden_states"
    )
    assert_close(found, full)


@pytest.mark.parametrize("fusion_method", ["concatenate", "weighted"])
@pytest.mark.parametrize("expert_type", [None, "text", "code"])
def test_mmrec100m(fusion_method, expert_type):
    config = dataclasses.replace(CONFIG, fusion_method=fusion_method)
    model = perturbed(MMRec100M(config, rngs=nnx.Rngs(0)))
    memory = {"text": random_memory(), "code": random_memory(seed=3)}
    full = model(ids(), memory, expert_type=expert_type)
    logits, state = token_by_token(
        model, ids(), model.start_decoding(2, memory), expert_type=expert_type
    )
    assert_close(logits, full.logits)
    assert set(state) == {"text", "code"}


def test_sparse_has_no_decoding():
    config = dataclasses.replace(CONFIG, use_sparse=True, num_experts=4, sparse_chunk_size=8)
    model = MMRecModel(config, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="no token-by-token decoding"):
        model.start_decoding(2)


def test_the_memory_of_many_tokens_in_half_precision():
    model = MMRecModel(dataclasses.replace(CONFIG, num_layers=1), rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(perturbed(model))
    half = nnx.merge(graphdef, jax.tree.map(lambda array: array.astype(jnp.bfloat16), params))
    many = jnp.tile(ids(1), 2)
    expected = half(many).memory[0].k
    _, state = token_by_token(half, many, half.start_decoding(1))
    # A sum in bfloat16 would round off 2 % of it.
    difference = jnp.abs(state.long_term_memory()[0].k - expected).max()
    assert difference < 0.002 * jnp.abs(expected).max()
