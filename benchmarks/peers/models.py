"""The peers: one frame of residual layers, in which only what mixes the tokens differs.

Every layer is `x + mix(norm(x))` and then `x + feed_forward(norm(x))`, as in MM-Rec, with the
embedding as head, as there.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mmrec_jax import MMRecModel, ModelConfig, block, recurrence
from mmrec_jax.layers import MLP, RMSNorm, dropout, linear, uniform

Output = tuple[jax.Array, jax.Array]

DROPOUT = 0.1
HEADS = 4


class LSTM(nnx.Module):
    """A long short-term memory; its forget gate begins open."""

    def __init__(self, dim: int, rngs: nnx.Rngs) -> None:
        self.from_x = linear(dim, 4 * dim, rngs=rngs)
        self.from_h = linear(dim, 4 * dim, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""

        def step(
            carry: tuple[jax.Array, jax.Array], gates: jax.Array
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            h, c = carry
            i, f, g, o = jnp.split(gates + self.from_h(h), 4, axis=-1)
            c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros_like(x[:, 0])
        return _over_time(step, (zeros, zeros), self.from_x(x))


class GRU(nnx.Module):
    """A gated recurrent unit, with the reset gate after the product, as cuDNN has it."""

    def __init__(self, dim: int, rngs: nnx.Rngs) -> None:
        self.from_x = linear(dim, 3 * dim, rngs=rngs)
        self.from_h = linear(dim, 3 * dim, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""

        def step(h: jax.Array, of_x: jax.Array) -> tuple[jax.Array, jax.Array]:
            r, z, n = jnp.split(of_x, 3, axis=-1)
            r_h, z_h, n_h = jnp.split(self.from_h(h), 3, axis=-1)
            z = jax.nn.sigmoid(z + z_h)
            h = z * h + (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + r_h) * n_h)
            return h, h

        return _over_time(step, jnp.zeros_like(x[:, 0]), self.from_x(x))


class MinGRU(nnx.Module):
    """A GRU whose gates do not see the state, so that it is a parallel scan (arXiv 2410.01201)."""

    def __init__(self, dim: int, rngs: nnx.Rngs) -> None:
        self.from_x = linear(dim, 2 * dim, rngs=rngs)
        self.out = linear(dim, dim, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        gate, new = jnp.split(self.from_x(x), 2, axis=-1)
        gate = jax.nn.sigmoid(gate)

        def join(
            a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array]:
            return a[0] * b[0], b[0] * a[1] + b[1]

        _, h = jax.lax.associative_scan(join, (1 - gate, gate * new), axis=1)
        return self.out(h)


class Attention(nnx.Module):
    """Causal attention with rotary positions."""

    def __init__(self, dim: int, rngs: nnx.Rngs) -> None:
        self.qkv = linear(dim, 3 * dim, use_bias=False, rngs=rngs)
        self.out = linear(dim, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        heads = (*x.shape[:2], HEADS, -1)
        q, k, v = (part.reshape(heads) for part in jnp.split(self.qkv(x), 3, axis=-1))
        mixed = jax.nn.dot_product_attention(_rotated(q), _rotated(k), v, is_causal=True)
        return self.out(mixed.reshape(x.shape))


class SwiGLU(nnx.Module):
    """The feed-forward layer of the GPT."""

    def __init__(self, dim: int, hidden: int, rngs: nnx.Rngs) -> None:
        self.gate = linear(dim, hidden, use_bias=False, rngs=rngs)
        self.up = linear(dim, hidden, use_bias=False, rngs=rngs)
        self.down = linear(hidden, dim, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Layer(nnx.Module):
    """A mixer and a feed-forward layer, both with a norm before and a residual around them."""

    def __init__(
        self, mixer: type[nnx.Module], dim: int, hidden: int, rngs: nnx.Rngs, dropout: float
    ) -> None:
        self.dropout = dropout
        self.norms = nnx.List([RMSNorm(dim), RMSNorm(dim)])
        self.mixer = mixer(dim, rngs)
        gated = mixer is Attention
        self.ffn = SwiGLU(dim, hidden, rngs) if gated else MLP(dim, hidden, dim, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        """[B, T, D] -> [B, T, D]; no dropout without a key."""
        for part, (norm, function) in enumerate(
            zip(self.norms, (self.mixer, self.ffn), strict=True)
        ):
            own = None if key is None else jax.random.fold_in(key, part)
            x = x + dropout(function(norm(x)), self.dropout, own)
        return x


class Peer(nnx.Module):
    """A language model of such layers."""

    def __init__(
        self,
        mixer: type[nnx.Module],
        vocab_size: int,
        dim: int,
        layers: int,
        hidden: int,
        rngs: nnx.Rngs,
        dropout: float = DROPOUT,
    ) -> None:
        table = uniform(1 / math.sqrt(dim))(rngs.params(), (vocab_size, dim))
        self.embedding = nnx.Param(table)
        self.layers = nnx.List([Layer(mixer, dim, hidden, rngs, dropout) for _ in range(layers)])
        self.norm = RMSNorm(dim)

    def __call__(self, ids: jax.Array, key: jax.Array | None = None) -> Output:
        """Ids [B, T] -> logits [B, T, V] and an auxiliary loss, 0; no dropout without a key."""
        x = self.embedding[ids]
        for number, layer in enumerate(self.layers):
            x = layer(x, None if key is None else jax.random.fold_in(key, number))
        return self.norm(x) @ self.embedding[...].T, jnp.zeros(())


class MMRec(nnx.Module):
    """MMRecModel, called as the peers are."""

    def __init__(
        self,
        config: ModelConfig,
        rngs: nnx.Rngs,
        *,
        chunk_size: int | None = None,
        cut: int | None = None,
        initial_decay: tuple[float, float] | None = None,
    ) -> None:
        """With `chunk_size`, the memory is written so often; with `cut`, nothing is carried on.

        With `initial_decay`, the decay is about these values before training, from the first
        channel's to the last one's.
        """
        self.model = MMRecModel(config, rngs=rngs)
        self.chunk_size, self.cut = chunk_size, cut
        if initial_decay is not None:
            factor = jnp.sqrt(jnp.linspace(*initial_decay, config.model_dim))
            for block_ in self.model.blocks:
                for network in (block_.mdi.W_gamma, block_.mdi.W_context):
                    network.linear_out.bias[...] = jnp.log(factor / (1 - factor))

    def __call__(self, ids: jax.Array, key: jax.Array | None = None) -> Output:
        """As `Peer` has it."""
        read = ids if self.cut is None else ids.reshape(-1, self.cut)
        out = self.model(read, chunk_size=self.chunk_size, dropout_key=key)
        return out.logits.reshape(*ids.shape, -1), out.auxiliary_loss


Build = Callable[[nnx.Rngs], nnx.Module]


def abstract(build: Build) -> nnx.Module:
    """The model with the shapes of its arrays alone."""
    return nnx.eval_shape(lambda: build(nnx.Rngs(0)))


def parameter_shapes(build: Build) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's parameters by their paths."""
    state = nnx.state(abstract(build), nnx.Param)
    return {
        jax.tree_util.keystr(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def config_of(vocab_size: int, dim: int, layers: int, hidden: int, **changes: Any) -> ModelConfig:
    """The config of an MM-Rec of this size."""
    return ModelConfig(
        vocab_size=vocab_size,
        model_dim=dim,
        num_layers=layers,
        num_heads=HEADS,
        ffn_dim=hidden,
        dropout=DROPOUT,
        **changes,
    )


def build(name: str, size: str, vocab_size: int) -> Build:
    """A model of a name in SIZES[size], or one of the ABLATIONS of MM-Rec, from random numbers."""
    if name in MIXERS:
        dim, layers, hidden = SIZES[size][name]
        return functools.partial(Peer, MIXERS[name], vocab_size, dim, layers, hidden)
    options, changes = ABLATIONS.get(name, ({}, {}))
    config = config_of(vocab_size, *SIZES[size]["MM-Rec"], **changes)
    return functools.partial(MMRec, config, **options)


MIXERS: dict[str, type[nnx.Module]] = {
    "LSTM": LSTM,
    "GRU": GRU,
    "minGRU": MinGRU,
    "GPT": Attention,
}

SIZES: dict[str, dict[str, tuple[int, int, int]]] = {
    "0.5 M": {
        "MM-Rec": (128, 2, 320),
        "LSTM": (128, 2, 464),
        "GRU": (128, 2, 592),
        "minGRU": (128, 3, 456),
        "GPT": (128, 3, 264),
    },
    "3 M": {
        "MM-Rec": (256, 3, 672),
        "LSTM": (256, 3, 928),
        "GRU": (256, 3, 1184),
        "minGRU": (256, 4, 1072),
        "GPT": (256, 4, 632),
    },
}
"""Width, layers and hidden channels of the feed-forward layer, by size and model."""

ABLATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no recurrence": ({}, {}),
    "no update term": ({}, {}),
    "initial decay 0.5": ({"initial_decay": (0.5, 0.5)}, {}),
    "initial decay 0.8": ({"initial_decay": (0.8, 0.8)}, {}),
    "initial decay 0.1 to 0.85": ({"initial_decay": (0.1, 0.85)}, {}),
    "memory every 64": ({"chunk_size": 64}, {}),
    "cut every 64": ({"cut": 64}, {}),
    "memory every 128": ({"chunk_size": 128}, {}),
    "cut every 128": ({"cut": 128}, {}),
    "HEM": ({}, {"use_hem": True, "pe_dim": 1}),
    "DPG": ({}, {"use_dpg": True, "dpg_rank": 32}),
    "UBOO": ({}, {"use_uboo": True}),
    "sparse": ({}, {"use_sparse": True, "num_experts": 4, "sparse_chunk_size": 16}),
}
"""What is changed of MM-Rec: options of the class above and of the config; see `changed` too."""


def _state_of_one_token(
    z: jax.Array, decay: jax.Array, gate_z: jax.Array, W_h: jax.Array, b: jax.Array, h: jax.Array
) -> jax.Array:
    """The recurrence of docs/model.md section 2.4 with h_{t-1} = 0."""
    zeros = jnp.zeros_like(z)
    return recurrence.step(zeros, z, decay, *recurrence.gates(zeros, gate_z, W_h, b))


_PATCHES: dict[str, tuple[Any, str, object]] = {
    "no recurrence": (block, "recurrence", _state_of_one_token),
    "no update term": (recurrence, "UPDATE_SHARE", 0.0),
}


@contextlib.contextmanager
def changed(name: str) -> Iterator[None]:
    """Within it, mmrec_jax computes what the ablation of that name says."""
    if name not in _PATCHES:
        yield
        return
    module, attribute, value = _PATCHES[name]
    before = getattr(module, attribute)
    jax.clear_caches()  # which do not know that the function has changed
    setattr(module, attribute, value)
    try:
        yield
    finally:
        setattr(module, attribute, before)
        jax.clear_caches()


def _over_time(step: Callable, start: object, inputs: jax.Array) -> jax.Array:
    _, states = jax.lax.scan(step, start, jnp.swapaxes(inputs, 0, 1))
    return jnp.swapaxes(states, 0, 1)


def _rotated(x: jax.Array) -> jax.Array:
    """x [B, T, H, d] turned by its position (arXiv 2104.09864)."""
    half = x.shape[-1] // 2
    rates = 10_000 ** (-jnp.arange(half) / half)
    angles = (jnp.arange(x.shape[1])[:, None] * rates)[:, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
