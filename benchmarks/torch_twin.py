"""Times of the PyTorch twin for the same work, eager or with torch.compile."""

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from bridge.twin import block as twin_block
from bridge.twin import models as twin
from mmrec_jax import ModelConfig

STEPS = 5


def training(config: ModelConfig, batch: int, tokens: int, *, compiled: bool) -> dict[str, float]:
    """The shortest time of a training step: loss, gradient, clipping and AdamW.

    torch.compile would unroll the whole loop over tokens for each layer, which takes hours. So only
    one token's step of the recurrence is compiled, and the other parts of each layer.
    """
    torch.manual_seed(0)
    model = twin.MMRecModel(config).train()
    start = time.perf_counter()
    if compiled:
        _compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.1)
    ids = torch.randint(0, config.vocab_size, (batch, tokens + 1))
    times = []
    first = 0.0
    for step in range(STEPS + 1):
        begun = time.perf_counter()
        logits = model(ids[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - begun)
        if step == 0:
            first = time.perf_counter() - start
    return {"step_seconds": min(times[1:]), "first_step_seconds": first}


def _step(
    h: Tensor, z: Tensor, g: Tensor, gate: Tensor, W_h: Tensor, W: Tensor, b: Tensor
) -> Tensor:
    m = torch.sigmoid(gate + F.linear(h, W_h))
    update = (1 - m) * h + m * z + g * h
    return z * torch.sigmoid(F.linear(h, W, b)) + g * h + 0.1 * update


def _compile(model: twin.MMRecModel) -> None:
    step = torch.compile(_step)

    def recurrence(
        block: twin_block.MMRecBlock, z: Tensor, decay: Tensor, h: Tensor, real: None
    ) -> tuple[Tensor, Tensor]:
        W_z, W_h = block.mdi.W_g.weight.chunk(2, dim=1)
        gate_z = F.linear(z, W_z, block.mdi.W_g.bias)
        states = [h]
        for z_t, g_t, gate_t in zip(z.unbind(1), decay.unbind(1), gate_z.unbind(1), strict=True):
            h = step(h, z_t, g_t, gate_t, W_h, block.W_g.weight, block.W_g.bias)
            states.append(h)
        return torch.stack(states, dim=1), gate_z

    for block in model.blocks:
        block.recurrence = recurrence.__get__(block)  # type: ignore[method-assign]
        for part in (block.norm1, block.norm2, block.ffn, block.multi_mem_attention):
            part.compile()
        for name in ("project", "decay"):
            setattr(block, name, torch.compile(getattr(block, name)))


@torch.no_grad()
def decoding(config: ModelConfig, batch: int, tokens: int) -> float:
    """The shortest time of a token in greedy decoding that keeps each layer's state, eager."""
    model = twin.MMRecModel(config).eval()
    ids = torch.zeros(batch, 1, dtype=torch.long)
    state = model.start_decoding(ids)
    times = []
    for _ in range(tokens):
        start = time.perf_counter()
        y, _, state = model.decode(ids, state)
        ids = model.lm_head(y).argmax(dim=-1)
        times.append(time.perf_counter() - start)
    return min(times)
