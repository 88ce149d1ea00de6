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
    keys = jax.random.split(jax.random.key(0), 400)
    found = generate(model, prompt, 1, key=keys, sampling=Sampling(temperature=2.0, top_k=3))[:, 0]
    assert set(np.unique(found)) <= set(best.tolist())
    free = generate(model, prompt, 1, key=keys, sampling=Sampling(temperature=2.0))[:, 0]
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


@pytest.mark.parametrize(
    ("kind", "sampling"), [(MMRecModel, Sampling()), (MMRec100M, Sampling(top_k=9, top_p=0.9))]
)
def test_a_sampled_row_is_what_its_prompt_gives_alone(kind, sampling):
    model = kind(SMALL, rngs=nnx.Rngs(0))
    lengths = jnp.array([1, 4, 16, 16])
    rows = jax.random.randint(jax.random.key(2), (4, 16), 0, SMALL.vocab_size)
    rows = rows.at[3].set(rows[2])
    keys = jax.random.split(jax.random.key(5), 4)
    for key in (jax.random.key(0), keys):
        found = generate(model, rows, 64, key=key, lengths=lengths, sampling=sampling)
        for row, length, own, tokens in zip(rows, lengths, keys, found, strict=True):
            own = own if key.shape else key
            alone = generate(model, row[None, :length], 64, key=own, sampling=sampling)[0]
            np.testing.assert_array_equal(tokens, alone)
        assert np.array_equal(found[2], found[3]) == (not key.shape)


def test_scores_that_differ_in_their_last_digits_give_the_same_tokens():
    """As those of a batch and of a row alone do. A place in the sum of all weights does not."""
    logits = jnp.repeat(jax.random.normal(jax.random.key(0), (1, 32_000)), 1000, axis=0)
    others = logits + 1e-6 * jnp.sin(jnp.arange(32_000) / 5000)
    keys = jax.random.split(jax.random.key(1), 1000)
    first, second = (draw(each, keys, Sampling()) for each in (logits, others))
    np.testing.assert_array_equal(first, second)


def test_a_key_of_the_old_kind_is_as_good(model, prompt):
    first, second = (
        generate(model, prompt, 3, key=key) for key in (jax.random.key(0), jax.random.PRNGKey(0))
    )
    np.testing.assert_array_equal(first, second)


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
    keys = jax.random.split(jax.random.key(top_k), 50)
    found = draw(jnp.repeat(jnp.asarray(scores), 50, axis=0), keys, sampling)
    assert np.all(scores[0, np.asarray(found)] >= least - 1e-6)


def test_draw_from_many_tokens_keeps_to_those_allowed():
    logits = jnp.repeat(3 * jax.random.normal(jax.random.key(0), (1, 32_000)), 500, axis=0)
    shares = np.asarray(jax.nn.softmax(logits[0]), np.float64)
    ordered = np.sort(shares)[::-1]
    least = ordered[np.searchsorted(np.cumsum(ordered), 0.9 + 1e-4)]
    keys = jax.random.split(jax.random.key(1), 500)
    found = np.asarray(draw(logits, keys, Sampling(top_p=0.9)))
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
    keys = jax.random.split(jax.random.key(0), 4000)
    found = np.bincount(draw(logits, keys, Sampling(top_p=0.8)), minlength=5) / 4000
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
        ({"key": jax.random.split(jax.random.key(0), 2)}, "one key or 3 keys"),
        ({"prompt": jnp.full((3, 5), 31)}, "from 0 to 30, not 31"),
        ({"prompt": np.full((3, 5), -1)}, "from 0 to 30, not -1"),
        ({"prompt": jnp.zeros((3, 5))}, "integers, not float32"),
    ],
)
def test_wrong_arguments(model, prompt, change, message):
    arguments = {"prompt": prompt, "length": 3, "key": jax.random.key(0)} | change
    with pytest.raises(ValueError, match=message):
        generate(model, **arguments)


@pytest.mark.parametrize("wrong", [-1, 31, 2**31 - 1])
@pytest.mark.parametrize("kind", [MMRecModel, MMRec100M])
def test_ids_outside_the_vocabulary_are_refused(kind, wrong):
    """JAX would read the last token for 31, and the one before it for -2."""
    model = kind(SMALL, rngs=nnx.Rngs(0))
    ids = jnp.array([[3, wrong]])
    for call in (
        lambda: model(ids),
        lambda: model.features(ids),
        lambda: model.decode(ids, model.start_decoding(1)),
        lambda: model.prefill(ids, jnp.array([2])),
        lambda: next(stream(model, ids, key=jax.random.key(0))),
    ):
        with pytest.raises(ValueError, match=f"from 0 to 30, not {wrong}"):
            call()
    model.prefill(ids, jnp.array([1]))  # padding may be anything
