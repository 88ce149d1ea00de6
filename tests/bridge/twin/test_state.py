"""The twin's state: what is computed piece by piece equals a full pass."""

import dataclasses

import pytest
import torch
from helpers.small_models import SMALL

from bridge.twin import twin

CONFIG = dataclasses.replace(SMALL, dropout=0.0, use_uboo=True)
IDS = torch.randint(0, CONFIG.vocab_size, (3, 23), generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([23, 10, 14])  # with a chunk_size of 5, one ends with a full chunk
REAL = torch.arange(23) < LENGTHS[:, None]


@pytest.fixture(scope="module", params=["MMRecModel", "MMRec100M"])
def model(request):
    module = twin(request.param, CONFIG).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 3
    return module


def states_of(state):
    return list(state.values()) if isinstance(state, dict) else [state]


@torch.no_grad()
@pytest.mark.parametrize("chunk_size", [None, 5, 23])
@pytest.mark.parametrize("sizes", [(23,), (1, 6, 1, 1, 14), (1,) * 23])
def test_pieces_equal_a_full_pass(model, chunk_size, sizes):
    full = model(IDS, chunk_size=chunk_size)
    state, found = model.start_decoding(IDS, chunk_size), []
    for piece in IDS.split(sizes, dim=1):
        y, _, state = model.decode(piece, state)
        found.append(model.lm_head(y))
    torch.testing.assert_close(torch.cat(found, dim=1), full.logits, rtol=0, atol=1e-5)
    memories = full.memory.values() if isinstance(full.memory, dict) else [full.memory]
    for each, memory in zip(states_of(state), memories, strict=True):
        for found_layer, layer in zip(each.long_term_memory(), memory, strict=True):
            torch.testing.assert_close(found_layer.k, layer.k, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_padding_changes_nothing(model, chunk_size):
    """Neither the outputs before it nor what comes after it, nor the loss."""
    y, loss, state = model.decode(IDS, model.start_decoding(IDS, chunk_size), real=REAL)
    after, _, _ = model.decode(IDS[:, :7], state)
    losses = []
    for row, length in enumerate(LENGTHS):
        alone = IDS[row : row + 1, :length]
        y_alone, loss_alone, state_alone = model.decode(
            alone, model.start_decoding(alone, chunk_size)
        )
        after_alone, _, _ = model.decode(IDS[row : row + 1, :7], state_alone)
        torch.testing.assert_close(y[row, :length], y_alone[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(after[row], after_alone[0], rtol=0, atol=1e-5)
        for in_batch, by_itself in zip(states_of(state), states_of(state_alone), strict=True):
            means = by_itself.means[:, 0]
            torch.testing.assert_close(in_batch.means[:, row], means, rtol=1e-5, atol=1e-5)
        losses.append(loss_alone * length)
    if chunk_size is None:
        torch.testing.assert_close(loss, sum(losses) / LENGTHS.sum(), rtol=1e-5, atol=0)


@torch.no_grad()
def test_a_state_is_taken_apart_by_sequences(model):
    _, _, state = model.decode(IDS, model.start_decoding(IDS, 5))
    swapped = torch.tensor([2, 0, 0])
    expected, _, _ = model.decode(IDS[:, :7], state)
    if isinstance(state, dict):
        taken = {name: each.of(swapped) for name, each in state.items()}
    else:
        taken = state.of(swapped)
    found, _, _ = model.decode(IDS[swapped, :7], taken)
    torch.testing.assert_close(found, expected[swapped], rtol=0, atol=1e-6)
