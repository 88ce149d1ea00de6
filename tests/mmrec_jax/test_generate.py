"""Sampling: what is drawn, from what, and what cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.small_models import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmrec_jax import MMRec100M, MMRecModel
from mmrec_jax.block_forms import stack_blocks
from mmrec_jax.decoding import PIECE, generate, stream
from mmrec_jax.sampling import Sampling, draw

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def model():
    model = MMRecModel(SMALL, rngs=nnx.Rngs(0))
    # Small tables make every token about as likely; this one has clear favourites.
    model.embedding.embedding[...] = 8 * model.embedding.embedding[...]
    return model


@pytest.fixture(scope="module")
def prompt():
    return jax.random.randint(jax.random.key(1), (3, 5), 0, SMALL.vocab_size)


@pytest.mark.parametrize(("chunk_size", "length"), [(None, 7), (4, 7), (20, 24)])
def test_greedy_takes_the_likeliest_token_of_the_full_pass(model, prompt, chunk_size, length):
    found = generate(
        model, prompt, length, key=jax.random.key(0), sampling=GREEDY, chunk_size=chunk_size
    )
    assert found.shape == (3, length)
    # Each token is the likeliest after those before it, in one pass over all of them.
    tokens = jnp.concatenate([prompt, found], axis=1)
    logits = model(tokens[:, :-1], chunk_size=chunk_size).logits
    np.testing.assert_array_equal(found, jnp.argmax(logits[:, 4:], axis=-1))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(top_k=3), Sampling(top_p=0.5)])
def test_scores_that_are_not_finite_are_no_tokens(model, prompt, sampling):
    broken = nnx.clone(model)
    broken.norm.scale[...] = jnp.inf * broken.norm.scale[...]
    with pytest.raises(FloatingPointError, match="not finite after 32 tokens"):
        generate(broken, prompt, 3, key=jax.random.key(0), sampling=sampling)


def test_the_key_decides(model, prompt):
    first = generate(model, prompt, 9, key=jax.random.key(0))
    np.testing.assert_array_equal(first, generate(model, prompt, 9, key=jax.random.key(0)))
    assert np.any(first != generate(model, prompt, 9, key=jax.random.key(1)))


def test_top_k_keeps_to_the_likeliest(model):
    prompt = jnp.zeros((400, 1), jnp.int32)
    probabilities = jax.nn.softmax(model(prompt[:1]).logits[0, -1] / 2)
    best = np.argsort(probabilities)[-3:]
    found = generate(
        model, prompt, 1, key=jax.random.key(0), sampling=Sampling(temperature=2.0, top_k=3)
    )[:, 0]
    assert set(np.unique(found)) <= set(best.tolist())
    free = generate(model, prompt, 1, key=jax.random.key(0), sampling=Sampling(temperature=2.0))[
        :, 0
    ]
    shares = np.bincount(free, minlength=SMALL.vocab_size) / 400
    np.testing.assert_allclose(shares, probabilities, atol=4 * np.sqrt(0.25 / 400))
    assert len(np.unique(free)) > 3


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("kind", [MMRecModel, MMRec100M])
def test_prompts_of_unequal_length_are_as_good_as_alone(kind, chunk_size):
    model = kind(SMALL, rngs=nnx.Rngs(0))
    lengths = [1, 4, 5, 8, 11, 20]
    rows = jax.random.randint(jax.random.key(2), (len(lengths), 20), 0, SMALL.vocab_size)
    options = {"key": jax.random.key(0), "sampling": GREEDY, "chunk_size": chunk_size}
    found = generate(model, rows, 20, lengths=jnp.array(lengths), **options)
    for row, length, tokens in zip(rows, lengths, found, strict=True):
        alone = generate(model, row[None, :length], 20, **options)[0]
        np.testing.assert_array_equal(tokens, alone)


def test_what_stands_behind_a_prompt_is_not_read(model, prompt):
    lengths = jnp.array([1, 3, 5])
    other = jnp.where(jnp.arange(5) < lengths[:, None], prompt, 7)
    first, second = (
        generate(model, each, 9, key=jax.random.key(0), lengths=lengths) for each in (prompt, other)
    )
    np.testing.assert_array_equal(first, second)


def test_a_stream_goes_on_where_generate_ends(model, prompt):
    pieces = stream(model, prompt, key=jax.random.key(3))
    streamed = jnp.concatenate([next(pieces) for _ in range(3)], axis=1)
    assert streamed.shape == (3, 3 * PIECE)
    length = 2 * PIECE + 3
    found = generate(stack_blocks(model), prompt, length, key=jax.random.key(3))
    np.testing.assert_array_equal(found, streamed[:, :length])


# Few sizes, as each is compiled.
scores = st.sampled_from([1, 2, 7, 40]).flatmap(
    lambda size: hnp.arrays(np.float32, (1, size), elements=st.floats(-30, 30, width=32))
)


@given(scores, st.integers(1, 45), st.floats(0.01, 1), st.floats(0.2, 3))
@settings(deadline=None, max_examples=25)
def test_draw_keeps_to_the_likeliest(scores, top_k, top_p, temperature):
    """Each token drawn is in the smallest set that both limits allow, ties with its last included.

    Shares that equal top_p but for rounding may be counted to either side, and scores whose weights
    are the same float32 tie.
    """
    ordered = np.sort(scores[0].astype(np.float64))[::-1][:top_k]
    shares = np.exp((ordered - ordered[0]) / temperature)
    before = np.cumsum(shares / shares.sum()) - shares / shares.sum()
    least = ordered[before < top_p + 1e-4][-1]
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    found = draw(jnp.repeat(jnp.asarray(scores), 50, axis=0), jax.random.key(top_k), sampling)
    assert np.all(scores[0, np.asarray(found)] >= least - 1e-6)


def test_draw_from_many_tokens_keeps_to_those_allowed():
    logits = jnp.repeat(3 * jax.random.normal(jax.random.key(0), (1, 32_000)), 500, axis=0)
    shares = np.asarray(jax.nn.softmax(logits[0]), np.float64)
    ordered = np.sort(shares)[::-1]
    least = ordered[np.searchsorted(np.cumsum(ordered), 0.9 + 1e-4)]
    found = np.asarray(draw(logits, jax.random.key(1), Sampling(top_p=0.9)))
    assert shares[found].min() >= least
    # The mean logarithm of a drawn token's share is what it should be.
    kept = shares * (shares >= least) / shares[shares >= least].sum()
    logs = np.log(shares)
    mean = (kept * logs).sum()
    deviation = np.sqrt((kept * (logs - mean) ** 2).sum() / 500)
    assert abs(logs[found].mean() - mean) < 4 * deviation


def test_a_tiny_temperature_takes_the_likeliest():
    scores = jax.random.normal(jax.random.key(0), (4, 300))
    found = draw(scores, jax.random.key(1), Sampling(temperature=1e-50))
    np.testing.assert_array_equal(found, scores.argmax(axis=-1))


def test_top_p_leaves_the_shares_of_what_it_keeps():
    shares = np.array([0.05, 0.4, 0.3, 0.05, 0.2])
    logits = jnp.repeat(jnp.log(jnp.asarray(shares))[None], 4000, axis=0)
    found = np.bincount(draw(logits, jax.random.key(0), Sampling(top_p=0.8)), minlength=5) / 4000
    expected = np.array([0, 0.4, 0.3, 0, 0.2]) / 0.9
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(0.25 / 4000))
    assert found[0] == found[3] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
    ],
)
def test_wrong_sampling(change, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 0}, "length"),
        ({"prompt": jnp.zeros((2, 0), jnp.int32)}, "prompt"),
        ({"lengths": jnp.array([5, 5])}, "lengths"),
        ({"lengths": jnp.array([5, 0, 5])}, "lengths"),
        ({"lengths": jnp.array([5, 6, 5])}, "lengths"),
    ],
)
def test_wrong_arguments(model, prompt, change, message):
    arguments = {"prompt": prompt, "length": 3, "key": jax.random.key(0)} | change
    with pytest.raises(ValueError, match=message):
        generate(model, **arguments)
