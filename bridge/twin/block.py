"""The block in PyTorch, part by part (docs/model.md section 2).

Classes and arguments are those of mmrec_jax, which describes them in more detail. The twin is
written for clarity, not for speed: the recurrence is a loop over tokens.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrec_jax import ModelConfig
from mmrec_jax.config import POOLING


class BlockOutput(NamedTuple):
    """What a block computes.

    Attributes:
        y: [B, T, D].
        h: the state after each sequence's last real token [B, D], without gradient.
        planning_loss: a scalar, the mean over all real tokens.
    """

    y: Tensor
    h: Tensor
    planning_loss: Tensor


class RMSNorm(nn.Module):
    """`weight * x / (sqrt(mean(x^2)) + 1e-6)`: the epsilon is outside the root (section 2.1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> [..., D]."""
        root = x.square().mean(dim=-1, keepdim=True).sqrt()
        return self.weight * (x / (root + 1e-6))


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


def _clip_decay(decay: Tensor) -> Tensor:
    return decay.clamp(1e-6, 1 - 1e-6)


class MDI(nn.Module):
    """The decay networks, the gate of h, and the networks of UBOO's planning loss."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.model_dim
        self.W_g = nn.Linear(2 * dim, dim)
        self.W_gamma = _mlp(dim, config.inner_dim, dim)
        self.W_context = _mlp(dim, config.inner_dim, dim)
        if config.use_uboo:
            self.W_planning_error = _mlp(dim, dim, dim)
            self.W_planning_target = _mlp(dim, dim, dim)

    def decay(self, z: Tensor, k: Tensor) -> Tensor:
        """g from z and k, all [B, T, D] (section 2.3)."""
        return _clip_decay(torch.sigmoid(self.W_gamma(z)) * torch.sigmoid(self.W_context(k)))

    def planning_error(self, z: Tensor, k: Tensor, gate: Tensor, previous: Tensor) -> Tensor:
        """Squared error of the planned update (section 2.10): all [B, T, D] -> [B, T, D]."""
        with torch.no_grad():
            update = (1 - gate) * previous + gate * z + self.decay(z, k) * previous
        return (self.W_planning_error(update) - self.W_planning_target(previous)).square()


class MultiMemoryAttention(nn.Module):
    """Attention of the states over a layer's memory (sections 2.5 and 2.6)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.W_q = nn.Linear(config.model_dim, config.model_dim)
        self.W_o = nn.Linear(config.model_dim, config.model_dim)
        self.num_heads = config.num_heads

    def forward(self, h: Tensor, q: Tensor, slots: tuple[Tensor, Tensor]) -> Tensor:
        """States h and queries q [B, T, D]; pooled keys and values [B, S, D] -> [B, T, D]."""
        query = self._heads(self.W_q(h) + 0.5 * q)
        k, v = (self._heads(each) for each in slots)
        scores = query @ k.mT / math.sqrt(query.shape[-1])
        read = scores.softmax(dim=-1) @ v
        return self.W_o(read.transpose(-3, -2).flatten(-2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.num_heads, -1).transpose(-3, -2)


def pool(slots: Tensor) -> Tensor:
    """All slots of a memory [..., M, D] -> those that attention reads [..., S, D] (section 2.5)."""
    for _ in range(2):
        *batch, count, dim = slots.shape
        slots = slots.reshape(*batch, count // POOLING, POOLING, dim).mean(dim=-2)
    return slots


class Router(nn.Module):
    """Chooses two experts by the signs of random projections (section 2.8)."""

    hyperplanes: Tensor
    powers: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        bits = config.num_experts.bit_length() - 1
        self.register_buffer("hyperplanes", torch.randn(config.model_dim, bits))
        self.register_buffer("powers", 2 ** torch.arange(bits))

    @torch.no_grad()
    def forward(self, means: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means of chunks [..., D] -> indices of both experts, and the certainty, all [...]."""
        projections = means @ self.hyperplanes
        first = ((projections > 0) * self.powers).sum(dim=-1)
        distance = projections.abs()
        second = first ^ self.powers[distance.argmin(dim=-1)]
        return first, second, distance.mean(dim=-1)


class SparseFFN(nn.Module):
    """Each chunk of tokens goes through the mean of two experts' matrices (section 2.8)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.model_dim
        self.expert_weights = nn.Parameter(0.02 * torch.randn(config.num_experts, dim, dim))
        self.router = Router(config)
        self.dropout = nn.Dropout(config.dropout)
        self.chunk_size = config.sparse_chunk_size

    def forward(self, x: Tensor, router_threshold: float = 0.0) -> Tensor:
        """x [B, T, D] -> [B, T, D]; chunks whose certainty is below the threshold give 0."""
        batch, tokens, dim = x.shape
        padded = F.pad(x, (0, 0, 0, -tokens % self.chunk_size))
        chunks = padded.reshape(batch, -1, self.chunk_size, dim)
        first, second, certainty = self.router(chunks.mean(dim=2))
        out = chunks @ self.expert_weights[first] + chunks @ self.expert_weights[second]
        certain = (certainty >= router_threshold)[..., None, None]
        return self.dropout(torch.where(certain, out / 2, 0)).flatten(1, 2)[:, :tokens]


class MMRecBlock(nn.Module):
    """The block of section 2."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.model_dim
        self.config = config
        if config.use_hem:
            self.W_fused = _fused_projection(config)
        else:
            self.W_q = nn.Linear(dim, dim)
            self.W_k = nn.Linear(dim, dim)
            self.W_v = nn.Linear(dim, dim)
            self.W_z = nn.Linear(dim, dim)
        self.W_g = nn.Linear(dim, dim)
        self.norm1 = RMSNorm(dim)
        self.norm2 = RMSNorm(dim)
        if config.use_dpg:
            self.W_gamma_down = nn.Linear(dim, config.dpg_rank)
            self.W_gamma_up = nn.Linear(config.dpg_rank, dim)
        self.mdi = MDI(config)
        self.multi_mem_attention = MultiMemoryAttention(config)
        self.dropout = nn.Dropout(config.dropout)
        self.ffn: nn.Module
        if config.use_sparse:
            self.ffn = SparseFFN(config)
        else:
            self.ffn = nn.Sequential(
                nn.Linear(dim, config.ffn_dim),
                nn.GELU(),
                nn.Dropout(config.dropout),
                nn.Linear(config.ffn_dim, dim),
                nn.Dropout(config.dropout),
            )

    def project(self, n: Tensor) -> tuple[Tensor, ...]:
        """q, k, v, z of the normalised input, all [B, T, D] (section 2.2)."""
        if self.config.use_hem:
            return self.W_fused(n)[..., : 4 * n.shape[-1]].chunk(4, dim=-1)
        return self.W_q(n), self.W_k(n), self.W_v(n), self.W_z(n)

    def decay(self, z: Tensor, k: Tensor) -> Tensor:
        """g, from z and k, all [B, T, D] (section 2.3)."""
        if self.config.use_dpg:
            return _clip_decay(torch.sigmoid(self.W_gamma_up(self.W_gamma_down(z).relu())))
        return self.mdi.decay(z, k)

    def recurrence(
        self,
        z: Tensor,
        decay: Tensor,
        h: Tensor | None = None,
        real: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Runs over all tokens, from z and g, both [B, T, D] (section 2.4).

        Args:
            z, decay: of each token.
            h: the state before the first token [B, D]; None for zeros.
            real: which tokens are not padding [B, T] bool, None for all; padding keeps the state.

        Returns:
            The states [B, T + 1, D], starting with the one before the first token, and the MDI gate
            m of each token [B, T, D].
        """
        W_z, W_h = self.mdi.W_g.weight.chunk(2, dim=1)
        gate_z = F.linear(z, W_z, self.mdi.W_g.bias)
        h = torch.zeros_like(z[:, 0]) if h is None else h
        states, gates = [h], []
        tokens = zip(z.unbind(1), decay.unbind(1), gate_z.unbind(1), strict=True)
        for index, (z_t, g_t, gate_t) in enumerate(tokens):
            m = torch.sigmoid(gate_t + F.linear(h, W_h))
            update = (1 - m) * h + m * z_t + g_t * h
            new = z_t * torch.sigmoid(self.W_g(h)) + g_t * h + 0.1 * update
            h = new if real is None else torch.where(real[:, index, None], new, h)
            states.append(h)
            gates.append(m)
        return torch.stack(states, dim=1), torch.stack(gates, dim=1)

    def forward(
        self,
        x: Tensor,
        slots: tuple[Tensor, Tensor],
        h: Tensor | None = None,
        *,
        real: Tensor | None = None,
        router_threshold: float = 0.0,
    ) -> BlockOutput:
        """x [B, T, D] and its layer's pooled memory -> the output; h and real as above."""
        q, k, v, z = self.project(self.norm1(x))
        states, gate = self.recurrence(z, self.decay(z, k), h, real)
        previous, h = states[:, :-1], states[:, 1:]
        planning_loss = x.new_zeros(())
        if self.config.use_uboo:
            error = self.mdi.planning_error(z, k, gate, previous).mean(dim=-1)
            planning_loss = error.mean() if real is None else error[real].mean()
        attended = self.multi_mem_attention(h, q, slots)
        r = x + self.dropout(h + attended + 0.1 * v)
        n = self.norm2(r)
        out = self.ffn(n, router_threshold) if self.config.use_sparse else self.ffn(n)
        return BlockOutput(r + out, states[:, -1].detach(), planning_loss)


def _fused_projection(config: ModelConfig) -> nn.Linear:
    """Draws each of Q, K, V, Z, P, E as if it were a separate layer (section 4)."""
    dim = config.model_dim
    layer = nn.Linear(dim, config.fused_projection_dim)
    widths = [dim, dim, dim, dim, config.fused_projection_dim - 5 * dim, dim]
    for part in torch.split(layer.weight.detach(), widths):
        nn.init.xavier_uniform_(part)
    nn.init.zeros_(layer.bias)
    return layer
