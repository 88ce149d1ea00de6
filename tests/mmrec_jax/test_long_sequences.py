"""Sequences too long to run whole: cut by themselves, alike in every way to run them.

The limits are made small, so that a sequence is long at 17 tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from helpers.small_models import SMALL

from bridge.twin import twin
from bridge.weights import tensors_of
from mmrec_jax import ExpertModule, MMRec100M, MMRecModel
from mmrec_jax.config import LONG_CHUNK, LONGEST_WHOLE
from mmrec_jax.decoding import generate
from mmrec_jax.sampling import Sampling

CONFIG = dataclasses.replace(SMALL, dropout=0.0, use_uboo=True)
LIMIT, PIECE = 16, 4


@pytest.fixture(autouse=True)
def short_limits(monkeypatch):
    assert (LONGEST_WHOLE, LONG_CHUNK) == (32_768, 8_192)  # the original's
    monkeypatch.setattr("mmrec_jax.config.LONGEST_WHOLE", LIMIT)
    monkeypatch.setattr("mmrec_jax.config.LONG_CHUNK", PIECE)


@pytest.fixture(scope="module")
def model():
    return MMRecModel(CONFIG, rngs=nnx.Rngs(0))


def ids(tokens, batch=2):
    return jax.random.randint(jax.random.key(1), (batch, tokens), 0, CONFIG.vocab_size)


def assert_same(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def differ(a, b):
    return bool(jnp.abs(a - b).max() > 1e-3)


@pytest.mark.parametrize("kind", [MMRecModel, MMRec100M])
def test_a_full_pass_is_cut_above_the_limit_and_not_at_it(kind):
    model = kind(CONFIG, rngs=nnx.Rngs(0))
    at, above = ids(LIMIT), ids(LIMIT + 1)
    assert_same(model(at), model(at, chunk_size=LIMIT))
    assert_same(model(above), model(above, chunk_size=PIECE))
    whole = model(above, chunk_size=LIMIT + 1).logits
    assert differ(model(above).logits, whole)


def test_an_expert_alone_is_cut_too():
    expert = ExpertModule(CONFIG, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, LIMIT + 1, CONFIG.model_dim))
    assert_same(expert(x)[0], expert.hidden_states(x, chunk_size=PIECE).y)


def test_a_long_prompt_and_what_follows_it_are_cut(model):
    tokens = ids(LIMIT + 9)
    full = model(tokens).logits
    start = LIMIT + 2
    logits, state = model.prefill(tokens[:, :start], jnp.full(2, start))
    assert_same(logits, full[:, start - 1])
    rest, _ = model.decode(tokens[:, start:], state)
    assert_same(rest, full[:, start:])


@pytest.mark.parametrize("read", [0, PIECE - 1, PIECE])
def test_a_long_call_that_continues_is_cut_as_the_full_pass(read, model):
    tokens = ids(read + LIMIT + 5)
    state = model.start_decoding(2)
    if read:
        _, state = model.decode(tokens[:, :read], state)
    logits, state = model.decode(tokens[:, read : read + LIMIT + 1], state)
    last, _ = model.decode(tokens[:, read + LIMIT + 1 :], state)
    full = model(tokens).logits
    assert_same(jnp.concatenate([logits, last], axis=1), full[:, read:])


def test_a_short_prompt_stays_whole_however_far_it_is_continued(model):
    tokens = ids(LIMIT + 9)
    whole = model(tokens, chunk_size=LIMIT + 9).logits
    _, state = model.prefill(tokens[:, :LIMIT], jnp.full(2, LIMIT))
    rest, _ = model.decode(tokens[:, LIMIT:], state)
    assert_same(rest, whole[:, LIMIT:])


def test_generation_is_that_of_the_full_pass_after_a_long_prompt():
    model = MMRecModel(CONFIG, rngs=nnx.Rngs(0))
    model.embedding.embedding[...] = 8 * model.embedding.embedding[...]  # has clear favourites
    prompt = ids(LIMIT + 1)
    greedy = Sampling(temperature=0.0)
    found = generate(model, prompt, 9, key=jax.random.key(0), sampling=greedy)
    logits = model(jnp.concatenate([prompt, found], axis=1)[:, :-1]).logits
    np.testing.assert_array_equal(found, jnp.argmax(logits[:, LIMIT:], axis=-1))


def test_a_prompt_is_not_cut_because_of_what_stands_beside_it(model):
    options = {"key": jax.random.key(0), "sampling": Sampling(temperature=0.0)}
    prompts, lengths = ids(LIMIT + 1), jnp.array([LIMIT + 1, LIMIT])
    with pytest.raises(ValueError, match="of 17 tokens is cut into pieces and one of 16 is not"):
        generate(model, prompts, 9, lengths=lengths, **options)
    short = jnp.array([LIMIT, LIMIT - 1])  # padding alone makes no prompt long
    found = generate(model, prompts, 9, lengths=short, **options)
    np.testing.assert_array_equal(
        found, generate(model, prompts[:, :LIMIT], 9, lengths=short, **options)
    )


@pytest.mark.parametrize("kind", [MMRecModel, MMRec100M])
def test_the_twin_is_cut_alike(kind):
    model = kind(CONFIG, rngs=nnx.Rngs(0))
    class_name = type(model).__name__
    module = twin(class_name, CONFIG).eval()
    state = {name: torch.tensor(tensor.read()) for name, tensor in tensors_of(model).items()}
    module.load_state_dict(state)
    for tokens in (ids(LIMIT), ids(LIMIT + 1)):
        with torch.no_grad():
            found = module(torch.tensor(np.asarray(tokens)).long())
        expected = model(tokens)
        np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=1e-5)
        assert float(found.auxiliary_loss) == pytest.approx(
            float(expected.auxiliary_loss), rel=1e-5
        )
