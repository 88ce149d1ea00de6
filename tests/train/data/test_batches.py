"""Batches (train/data.py): which tokens they hold, in which order, and what padding counts for."""

import itertools
import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmrec_jax import MMRec100M, ModelConfig
from train.data.batch_documents import documents_of, named
from train.data.batches import (
    Batch,
    batch_of,
    check_batch,
    fingerprint,
    padding_share,
    row_bounds,
    training_batches,
    training_rows,
)
from train.data.data_folder import Manifest
from train.data.token_files import check_ids
from train.settings.config import Config, OptimizerConfig, TrainingConfig
from train.stages import fusion
from train.stages.base import initial_model
from train.step import loop
from train.step.trainer import Trainer
from train.system.errors import UserError
from train.system.watchdog import Watchdog

CODE = 30_000
"""The tokens of code begin here; each token is its own place in its file."""

PACKINGS = ["contiguous", "documents"]
SIZE = np.random.default_rng(0).integers(1, 25, (3, 1500)).tolist()
DOCUMENTS = dict(zip(("text", "code", "mixed"), SIZE, strict=True))
"""Thousands of rows: Grain takes milliseconds to shuffle each of only a few."""

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=30).filter(lambda sizes: sum(sizes) > 1)


def write(folder, documents):
    """Token files of split train, from the documents' sizes by domain."""
    for domain, sizes in documents.items():
        target = folder / domain / "train"
        target.mkdir(parents=True, exist_ok=True)
        first = CODE if domain == "code" else 0
        np.save(target / "tokens.npy", np.arange(first, first + sum(sizes), dtype=np.uint16))
        np.save(target / "ends.npy", np.cumsum(sizes, dtype=np.int64))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write(folder, DOCUMENTS)
    return folder


def config_of(data_dir, **training):
    return Config(
        data_dir=str(data_dir),
        run_dir="unused",
        training=TrainingConfig(**{"sequence_length": 8, "steps": 9000, **training}),
    )


def batches_of(config, *process):
    return training_batches(config, "base", training_rows(config), *process)


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


@settings(deadline=None, max_examples=150)
@given(sizes=SIZES, length=st.integers(1, 50), block=st.sampled_from([1, 3, 1 << 20]))
@example(sizes=[1, 30], length=5, block=1)
@example(sizes=[20], length=5, block=1)
def test_rows_hold_whole_documents(sizes, length, block):
    ends = np.cumsum(sizes, dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.data.batches._BLOCK", block)
        bounds = row_bounds(ends, length)
    # The labels are the tokens (bounds[i], bounds[i + 1]]: all but the file's first, each once.
    assert (bounds[0], bounds[-1]) == (0, ends[-1] - 1)
    assert np.all(np.diff(bounds) >= 1) and np.all(np.diff(bounds) <= length)
    boundaries = {0, *(ends - 1).tolist()}
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        following = min((end for end in boundaries if end > last), default=None)
        if first in boundaries and last in boundaries:
            # Whole documents, and as many as fit.
            assert following is None or following - first > length
        else:
            # A piece of one document: no document ends within, and only its last may be short.
            assert not any(first < end < last for end in boundaries)
            assert last in boundaries or last - first == length
            document = max(end for end in boundaries if end <= first)
            end = min(end for end in boundaries if end > first)
            assert end - document > length


@pytest.mark.parametrize(
    ("sizes", "length", "rows"),
    [
        ([3, 3, 3], 6, [[0, 1, 2, 3, 4, 5, -1], [5, 6, 7, 8, -1, -1, -1]]),
        # The second is too long: its tail has a row of its own, though the third would fit there.
        ([2, 5, 1], 3, [[0, 1, -1, -1], [1, 2, 3, 4], [4, 5, 6, -1], [6, 7, -1, -1]]),
        ([1, 4], 3, [[0, 1, 2, 3], [3, 4, -1, -1]]),
    ],
)
def test_rows_by_hand(tmp_path, sizes, length, rows):
    write(tmp_path, {"mixed": sizes})
    config = config_of(tmp_path, packing="documents", sequence_length=length)
    (source,) = training_rows(config).values()
    assert [source[i].tolist() for i in range(len(source))] == rows
    assert source[0].dtype == np.int32
    padding = np.mean([label < 0 for row in rows for label in row[1:]])
    assert padding_share(config, {"mixed": source}) == pytest.approx(padding)
    assert batch_of(np.array(rows), padded=True).label_count == sum(sizes) - 1


@settings(deadline=None, max_examples=12)
@given(sizes=SIZES, packing=st.sampled_from(PACKINGS), seed=st.integers(0, 9))
def test_every_token_is_predicted_once_an_epoch(tmp_path_factory, sizes, packing, seed):
    folder = tmp_path_factory.mktemp("epoch")
    write(folder, {"mixed": [*sizes, 9]})
    config = config_of(folder, packing=packing, batch_size=3)
    count = len(next(iter(training_rows(config).values())))
    batches = take(batches_of(config), 2 * count // 3 + 1)
    inputs, labels = (np.concatenate([batch[i] for batch in batches]) for i in range(2))
    real = np.ones(labels.shape, bool)
    if packing == "documents":
        real = np.concatenate([batch.weights for batch in batches]) > 0
    for epoch in (slice(count), slice(count, 2 * count)):
        found = labels[epoch][real[epoch]]
        tokens = sum(sizes) + 9
        whole = tokens if packing == "documents" else (tokens - 1) // 8 * 8 + 1
        np.testing.assert_array_equal(np.sort(found), np.arange(1, whole))
        # What a label is predicted from is the token before it.
        np.testing.assert_array_equal(inputs[epoch][real[epoch]] + 1, found)


@settings(deadline=None, max_examples=40)
@given(
    batch_size=st.integers(2, 12),
    weights=st.tuples(st.floats(0.01, 50), st.floats(0.01, 50)),
    packing=st.sampled_from(PACKINGS),
)
@example(batch_size=4, weights=(0.1, 0.3), packing="contiguous")
@example(batch_size=8, weights=(0.7, 0.1), packing="documents")
def test_mixed_batches_hold_both_domains(data_dir, batch_size, weights, packing):
    mix = dict(zip(("text", "code"), weights, strict=True))
    if batch_size * min(weights) < sum(weights):
        with pytest.raises(ValueError, match=rf"mix leaves some of the batches of {batch_size} "):
            config_of(data_dir, batch_size=batch_size, mix=mix, packing=packing)
        return
    config = config_of(data_dir, batch_size=batch_size, mix=mix, packing=packing)
    code = np.array([(b.inputs[:, 0] >= CODE).sum() for b in take(batches_of(config), 60)])
    assert code.min() >= 1
    assert code.max() <= batch_size - 1
    share = mix["code"] / sum(weights)
    assert abs(code.mean() / batch_size - share) <= 0.0025 + 1 / (60 * batch_size)
    assert code.max() - code.min() <= 1


def test_without_a_mix_the_mixed_file_is_read(tmp_path):
    write(tmp_path, {"mixed": [50, 20, 80]})
    config = config_of(tmp_path, batch_size=18)  # all of it in one batch
    assert set(take(batches_of(config), 1)[0].inputs[:, 0]) == set(range(0, 144, 8))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"batch_size": 19}, r"19 sequences are more than the 18 of .*/mixed/train: set it to 18 "),
        ({"batch_size": 10**9}, "1000000000 sequences are more than the 18 of"),
        (
            {"batch_size": 40, "mix": {"text": 0.75, "code": 0.25}},
            r"40 sequences with 75% text are more than the 12 of .*/text/train: set it to 16 ",
        ),
    ],
)
def test_a_batch_larger_than_the_data_is_refused(tmp_path, training, message):
    write(tmp_path, {"mixed": [50, 20, 80], "text": [100], "code": [100]})
    config = config_of(tmp_path, **training)
    with pytest.raises(UserError, match=f"training.batch_size: {message}"):
        check_batch(config, training_rows(config))
    fitting = config_of(tmp_path, **training | {"batch_size": 16})
    check_batch(fitting, training_rows(fitting))


RUNS = {
    "packing": st.sampled_from(PACKINGS),
    "mix": st.sampled_from([None, {"text": 0.7, "code": 0.3}]),
}


@settings(deadline=None, max_examples=30)
@given(count=st.sampled_from([1, 2, 3, 6]), **RUNS)
def test_processes_share_every_batch(data_dir, count, packing, mix):
    config = config_of(data_dir, batch_size=6, packing=packing, mix=mix)
    shards = [take(batches_of(config, index, count), 12) for index in range(count)]
    for whole, *parts in zip(take(batches_of(config), 12), *shards, strict=True):
        assert whole.inputs.shape == (6, 8) and whole.inputs.dtype == np.int32
        assert (whole.weights is None) == (packing == "contiguous")
        for field, *of_parts in zip(whole, *parts, strict=True):
            if field is not None:
                np.testing.assert_array_equal(np.concatenate(of_parts), field)


def test_a_batch_that_cannot_be_shared_is_refused(data_dir):
    with pytest.raises(UserError, match=r"training.batch_size must be a multiple of .* 4, not 6"):
        batches_of(config_of(data_dir, batch_size=6), 0, 4)


@settings(deadline=None, max_examples=40)
@given(position=st.integers(0, 40), count=st.sampled_from([1, 2]), **RUNS)
def test_any_position_can_be_gone_on_from(data_dir, position, count, packing, mix):
    config = config_of(data_dir, batch_size=4, packing=packing, mix=mix)
    whole = take(batches_of(config, 0, count), position + 9)
    before = batches_of(config, 0, count)
    take(before, position)
    state = json.loads(json.dumps(before.get_state()))
    assert state == {"next_index": position}
    resumed = batches_of(config, 0, count)
    resumed.set_state(state)
    for found, expected in zip(take(resumed, 9), whole[position:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_fingerprint_tells_orders_apart(data_dir):
    manifest = Manifest(1, {}, "", [], {}, {"a": {"sha256": "b"}}, {})
    changes = [
        {},
        {"packing": "documents"},
        {"mix": {"text": 1, "code": 1}},
        {"mix": {"text": 1, "code": 2}},
        {"mix": {"text": 1, "code": 2}, "packing": "documents"},
        {"sequence_length": 9},
    ]
    found = [fingerprint(config_of(data_dir, **change), manifest, "base") for change in changes]
    assert len(set(found)) == len(changes)
    # As it was before there were packing and mix: older runs go on.
    assert found[0] == "a899fbf27b2623f92ae5e76d77614e7cee27b1672e8622b2933ab56035e8822a"


def test_a_file_of_one_token_is_refused(tmp_path):
    write(tmp_path, {"mixed": [1]})
    with pytest.raises(UserError, match="mixed/train has one token"):
        training_rows(config_of(tmp_path, packing="documents"))


# What padding counts for.

VARIANTS = [
    ({}, None),
    ({}, 3),
    ({"use_uboo": True}, None),
    ({"use_uboo": True}, 3),
    ({"use_sparse": True, "num_experts": 4, "sparse_chunk_size": 4}, 5),
]
LENGTHS = [9, 2, 6, 4]


def trainer_of(variant=None, **training):
    model = ModelConfig(
        vocab_size=30,
        model_dim=8,
        num_layers=2,
        num_heads=2,
        ffn_dim=12,
        dropout=0.0,
        **(variant or {}),
    )
    settings = {"packing": "documents", "accumulation": 1, "steps": 9000, **training}
    config = Config(
        data_dir="unused",
        run_dir="unused",
        model=model,
        training=TrainingConfig(**settings),
        optimizer=OptimizerConfig(warmup_steps=0),
    )
    trainer = Trainer(config, initial_model(config))
    return trainer, trainer.initial_state(initial_model(config))


@pytest.fixture(scope="module")
def padded():
    """Rows of LENGTHS tokens, [4, 9], the rest of each negative."""
    tokens = np.random.default_rng(0).integers(0, 30, (len(LENGTHS), 9), np.int32)
    tokens[np.arange(9) >= np.array(LENGTHS)[:, None]] = -1
    return tokens


def assert_trees_close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "chunk_size"), VARIANTS)
def test_a_padded_batch_is_its_rows_alone(padded, variant, chunk_size):
    trainer, state = trainer_of(variant, chunk_size=chunk_size)
    grads, metrics = trainer.gradient(state, batch_of(padded, padded=True), 0, share=1.0)
    alone, _ = trainer_of(variant, chunk_size=chunk_size)
    each = [
        alone.gradient(state, batch_of(row[None, :length]), 0)
        for row, length in zip(padded, LENGTHS, strict=True)
    ]
    shares = [(length - 1) / (sum(LENGTHS) - 4) for length in LENGTHS]
    expected, values = jax.tree.map(
        lambda *rows: sum(row * share for row, share in zip(rows, shares, strict=True)), *each
    )
    assert_trees_close(grads, expected)
    for name in ("loss", "auxiliary_loss", "mean_decay"):
        assert float(metrics[name]) == pytest.approx(float(values[name]), rel=1e-5), name
    largest = max(float(metrics["max_state"]) for _, metrics in each)
    assert float(metrics["max_state"]) == pytest.approx(largest, rel=1e-5)
    if "use_uboo" in variant:
        assert float(metrics["auxiliary_loss"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "chunk_size"), VARIANTS)
def test_what_stands_for_padding_changes_nothing(padded, variant, chunk_size):
    trainer, state = trainer_of(variant, chunk_size=chunk_size)
    batch = batch_of(padded, padded=True)
    expected = trainer.gradient(state, batch, 0)
    inputs, labels = (
        np.where(tokens < 0, other, tokens)
        for tokens, other in ((padded[:, :-1], 17), (padded[:, 1:], 23))
    )
    found = trainer.gradient(state, Batch(inputs, labels, batch.weights, batch.real), 0)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


# What is read and not learned.


def masked(rows, learned):
    """Rows whose tokens are not learned where `learned` is False."""
    return np.where(learned, rows, -2 - rows)


@pytest.mark.parametrize("packing", PACKINGS)
def test_tokens_that_are_not_learned_are_in_the_inputs(tmp_path, packing):
    write(tmp_path, {"mixed": [30, 7, 50, 8, 400]})
    learned = np.random.default_rng(0).random(495) < 0.4
    np.save(tmp_path / "mixed" / "train" / "learned.npy", learned)
    config = config_of(tmp_path, packing=packing, batch_size=3)
    batches = training_batches(config, "base", training_rows(config))
    for batch in itertools.islice(batches, 20):
        inputs, labels, weights, real = batch
        assert packing == "documents" or real.all()
        known = real[:, :-1]  # where the next input is a label too
        np.testing.assert_array_equal(inputs[:, 1:][known], labels[:, :-1][known])
        np.testing.assert_array_equal(inputs[real] + 1, labels[real])
        np.testing.assert_array_equal(weights > 0, learned[labels] & real)
        assert batch.label_count == (learned[labels] & real).sum()


def test_the_loss_is_that_of_the_learned_labels(padded):
    trainer, state = trainer_of()
    rows = np.where(padded < 0, 5, padded)
    learned = np.random.default_rng(1).random(rows.shape) < 0.5
    grads, metrics = trainer.gradient(state, batch_of(masked(rows, learned), padded=True), 0)
    whole, all_metrics = trainer.gradient(state, batch_of(rows), 0)
    losses = np.asarray(trainer.token_losses(state, batch_of(rows)))
    assert float(metrics["loss"]) == pytest.approx(losses[learned[:, 1:]].mean(), rel=1e-5)
    # What is read is all of it, learned or not.
    for name in ("max_state", "mean_decay"):
        assert float(metrics[name]) == pytest.approx(float(all_metrics[name]), rel=1e-6)
    others, _ = trainer.gradient(state, batch_of(masked(rows, ~learned), padded=True), 0)
    share = learned[:, 1:].mean()
    sums = jax.tree.map(lambda a, b: share * a + (1 - share) * b, grads, others)
    assert_trees_close(sums, whole)


def test_a_batch_with_nothing_to_learn_changes_nothing(padded):
    trainer, state = trainer_of(accumulation=2, steps=1)
    rows = np.where(padded < 0, 5, padded)
    nothing = batch_of(masked(rows, np.zeros(rows.shape, bool)), padded=True)
    grads, metrics = trainer.gradient(state, nothing, 0)
    assert float(metrics["loss"]) == 0
    assert all(not np.any(grad) for grad in jax.tree.leaves(grads))
    _, values = trainer.step(state, iter([nothing, nothing]), lambda *_: None)
    assert values["loss"] == 0 and np.isfinite(values["parameter_norm"])


def test_without_padding_packing_is_the_same(padded):
    trainer, state = trainer_of()
    with_weights, without = batch_of(padded[:1], padded=True), batch_of(padded[:1])
    assert_trees_close(
        trainer.gradient(state, with_weights, 0), trainer.gradient(state, without, 0)
    )


def test_a_step_is_the_mean_over_all_its_targets(padded):
    nothing = types.SimpleNamespace(advance=lambda *_: None, paused=lambda: None)
    seen = {}
    for count in (1, 2):
        trainer, state = trainer_of({"use_uboo": True}, accumulation=count, steps=1)
        batches = [batch_of(rows, padded=True) for rows in np.split(padded, count)]
        assert count == 1 or batches[0].label_count == batches[1].label_count + 1

        def note(state, values, count=count):
            seen[count] = state.params, values

        ends = (note, pytest.fail, nothing, Watchdog(99), dict)
        loop.train(trainer, state, iter(batches), [(1, note)], *ends)
    assert_trees_close(seen[2][0], seen[1][0])
    assert seen[2][1] == pytest.approx(seen[1][1], rel=1e-5)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("mixed", [False, True])
def test_the_documents_of_batches_are_named(data_dir, packing, mixed):
    kind = {"mix": {"text": 0.7, "code": 0.3}} if mixed else {"domain": "text"}
    config = config_of(data_dir, packing=packing, batch_size=8, accumulation=1, **kind)
    rows = training_rows(config)
    batches = take(training_batches(config, "base", rows), 4)
    expected = {}
    for batch in (batches[1], batches[3]):
        real = np.ones(batch.inputs.shape, bool) if batch.real is None else batch.real
        for token in {*batch.inputs[real].tolist(), *batch.labels[real].tolist()}:
            domain = "code" if token >= CODE else "text"
            ends = np.cumsum(DOCUMENTS[domain])
            document = np.searchsorted(ends, token - CODE * (domain == "code"), side="right")
            expected.setdefault(domain, set()).add(int(document))
    found = documents_of(config, "base", rows, [1, 3])
    assert {domain: set(numbers) for domain, numbers in found.items()} == expected
    assert set(found) == ({"text", "code"} if mixed else {"text"})


def test_documents_in_words():
    few, many = [3, 4], list(range(100, 130))
    assert named({"text": few, "code": [8]}) == "documents 3, 4 of text/train and 8 of code/train"
    assert named({"code": many}).endswith(", 118, 119 and 10 more of code/train")


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32])
def test_tokens_that_are_not_of_the_vocabulary_are_found(tmp_path, dtype):
    path = tmp_path / "tokens.npy"
    np.save(path, np.array([3, 29, 5], dtype))
    check_ids(path, 30)
    np.save(path, np.array([3, 29, 30], dtype))
    message = "tokens.npy has token 30 at place 2, and the vocabulary has 30 tokens: run"
    with pytest.raises(UserError, match=message):
        check_ids(path, 30)
    np.save(path, np.array([], dtype))
    check_ids(path, 30)


def test_the_fusions_scale_is_measured_without_padding(tmp_path):
    write(tmp_path, {"mixed": [3, 7, 5, 8, 4]})
    variant = {"use_sparse": True, "num_experts": 4, "sparse_chunk_size": 4}
    model = ModelConfig(
        vocab_size=30, model_dim=8, num_layers=1, num_heads=2, ffn_dim=12, dropout=0.0, **variant
    )
    training = TrainingConfig(steps=9000, packing="documents", batch_size=1, sequence_length=8)
    config = Config(data_dir=str(tmp_path), run_dir="unused", model=model, training=training)
    network = MMRec100M(model, rngs=nnx.Rngs(0))
    sizes = []
    for batch in take(training_batches(config, "fusion", training_rows(config)), 4):
        x = network.embedding(batch.inputs[batch.weights > 0][None])
        both = jnp.concatenate(
            [expert.hidden_states(x).y for expert in network.experts(None).values()], axis=-1
        )
        sizes.append(float(jnp.sqrt(jnp.square(both).mean(axis=-1)).mean()))
    assert fusion._output_size(network, config) == pytest.approx(math.fsum(sizes) / 4, rel=1e-5)


@pytest.mark.parametrize("packing", PACKINGS)
def test_data_without_a_token_to_learn_are_refused(packing, tmp_path):
    write(tmp_path, {"mixed": [20, 21]})
    learned = np.arange(41) < 1  # the first token is never predicted
    np.save(tmp_path / "mixed" / "train" / "learned.npy", learned)
    training = TrainingConfig(sequence_length=8, packing=packing)
    config = Config(data_dir=str(tmp_path), run_dir="r", training=training)
    with pytest.raises(UserError, match="mixed/train has no token to learn from: prepare chats"):
        training_rows(config)
