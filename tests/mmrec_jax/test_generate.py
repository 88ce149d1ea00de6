"""Sampling: what is drawn, from what, and what cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmrec_jax import MMRecModel, ModelConfig
from mmrec_jax.generate import generate

CONFIG = ModelConfig(vocab_size=31, model_dim=12, num_layers=2, num_heads=3, ffn_dim=20)


@pytest.fixture(scope="module")
def model():
    model = MMRecModel(CONFIG, rngs=nnx.Rngs(0))
    # Small tables make every token about as likely; this one has clear favourites.
    model.embedding.embedding[...] = 8 * model.embedding.embedding[...]
    return model


@pytest.fixture(scope="module")
def prompt():
    return jax.random.randint(jax.random.key(1), (3, 5), 0, CONFIG.vocab_size)


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_greedy_takes_the_likeliest_token_of_the_full_pass(model, prompt, chunk_size):
    found = generate(model, prompt, 7, key=jax.random.key(0), temperature=0, chunk_size=chunk_size)
    assert found.shape == (3, 7)
    tokens = prompt
    for _ in range(7):
        logits = model(tokens, chunk_size=chunk_size).logits
        tokens = jnp.concatenate([tokens, jnp.argmax(logits[:, -1:], axis=-1)], axis=1)
    np.testing.assert_array_equal(found, tokens[:, 5:])


def test_the_key_decides(model, prompt):
    first = generate(model, prompt, 9, key=jax.random.key(0))
    np.testing.assert_array_equal(first, generate(model, prompt, 9, key=jax.random.key(0)))
    assert np.any(first != generate(model, prompt, 9, key=jax.random.key(1)))


def test_top_k_keeps_to_the_likeliest(model):
    prompt = jnp.zeros((400, 1), jnp.int32)
    probabilities = jax.nn.softmax(model(prompt[:1]).logits[0, -1] / 2)
    best = np.argsort(probabilities)[-3:]
    found = generate(model, prompt, 1, key=jax.random.key(0), temperature=2.0, top_k=3)[:, 0]
    assert set(np.unique(found)) <= set(best.tolist())
    free = generate(model, prompt, 1, key=jax.random.key(0), temperature=2.0)[:, 0]
    shares = np.bincount(free, minlength=CONFIG.vocab_size) / 400
    np.testing.assert_allclose(shares, probabilities, atol=4 * np.sqrt(0.25 / 400))
    assert len(np.unique(free)) > 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 0}, "length"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"prompt": jnp.zeros((2, 0), jnp.int32)}, "prompt"),
    ],
)
def test_wrong_arguments(model, prompt, change, message):
    arguments = {"prompt": prompt, "length": 3, "key": jax.random.key(0)} | change
    with pytest.raises(ValueError, match=message):
        generate(model, **arguments)
