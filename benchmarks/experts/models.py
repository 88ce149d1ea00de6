"""The base, what two experts of it are joined to, and the controls, all called alike."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.peers.models import Build, MMRec, Output, abstract, parameter_shapes
from mmrec_jax import MMRec100M, MMRecModel, ModelConfig
from mmrec_jax.ffn import DenseFFN
from mmrec_jax.layers import RMSNorm, linear
from mmrec_jax.transfer import join_experts, start_as_ensemble, without_embedding


class WideHead(nnx.Module):
    """The base below a projection to 2 D, a norm, and a head of its own, as the fusion has."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        self.model = MMRecModel(config, rngs=rngs)
        self.projection = linear(config.model_dim, 2 * config.model_dim, rngs=rngs)
        self.final_norm = RMSNorm(2 * config.model_dim)
        self.lm_head = linear(2 * config.model_dim, config.vocab_size, use_bias=False, rngs=rngs)

    def __call__(self, ids: jax.Array, key: jax.Array | None = None) -> Output:
        """As `Peer` has it."""
        out = self.model.features(ids, dropout_key=key)
        return self.lm_head(self.final_norm(self.projection(out.y))), out.auxiliary_loss


class Fused(nnx.Module):
    """MMRec100M, called as the peers are.

    With `drop`, training leaves out one expert of so many sequences. With `only`, just one runs.
    """

    def __init__(
        self, config: ModelConfig, rngs: nnx.Rngs, *, drop: float = 0.0, only: Any = None
    ) -> None:
        self.model = MMRec100M(config, rngs=rngs)
        self.drop, self.only = drop, only

    def __call__(self, ids: jax.Array, key: jax.Array | None = None) -> Output:
        """As `Peer` has it."""
        if self.only or key is None or not self.drop:
            out = self.model(ids, expert_type=self.only, dropout_key=key)
            return out.logits, out.auxiliary_loss
        x, keys = self.model.embedding(ids), jax.random.split(key, 3)
        drawn = jax.random.uniform(keys[2], (len(ids), 1, 1))
        kept = {"text": drawn >= self.drop / 2, "code": drawn < 1 - self.drop / 2}
        outputs = {
            name: expert.hidden_states(x, dropout_key=key).y * kept[name]
            for (name, expert), key in zip(self.model.experts(None).items(), keys, strict=False)
        }
        return self.model.fused(outputs) @ self.model.head_kernel, jnp.zeros(())


class RoutedFFN(DenseFFN):
    """Two feed-forward layers, and a router that gives each token's output as their mean."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, rngs=rngs)
        self.other = DenseFFN(config, rngs=rngs)
        self.router = linear(config.model_dim, 1, rngs=rngs)

    def in_pieces(self, x: jax.Array, dropout_key: jax.Array | None, remat: Any) -> jax.Array:
        """x [B, T, D] -> [B, T, D]."""
        share = jax.nn.sigmoid(self.router(x))
        of_self = super().in_pieces(x, dropout_key, remat)
        return share * of_self + (1 - share) * self.other.in_pieces(x, dropout_key, remat)


class Routed(MMRec):
    """The base with a routed feed-forward layer in every block."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        super().__init__(config, rngs)
        for block in self.model.blocks:
            block.ffn = RoutedFFN(config, rngs=rngs)


@functools.cache
def forward_flops(build: Build) -> int:
    """Floating-point operations of a token's matrix products: two for each weight of a matrix."""
    sizes = {
        path: math.prod(shape) for path, shape in parameter_shapes(build).items() if len(shape) > 1
    }
    untied = any("lm_head" in path for path in sizes)
    return 2 * sum(size for path, size in sizes.items() if not (untied and "embedding" in path))


def _model(build: Build, state: nnx.State) -> Any:
    return nnx.merge(nnx.graphdef(abstract(build)), state)


def wide_head_start(config: ModelConfig, base: nnx.State, ids: jax.Array) -> nnx.State:
    """The base below a wide head that gives about its logits; the head's other half is free."""
    wide = WideHead(config, nnx.Rngs(1))
    wide.model = _model(functools.partial(MMRec, config), base).model
    dim = config.model_dim
    random = wide.projection.kernel[:, dim:]
    wide.projection.kernel[...] = jnp.concatenate([jnp.eye(dim), random], axis=1)
    wide.projection.bias[...] = jnp.zeros(2 * dim)
    table = wide.model.embedding.embedding[...].T
    wide.lm_head.kernel[...] = jnp.concatenate([table, jnp.zeros_like(table)])
    outputs = wide.projection(wide.model.features(ids).y)
    wide.final_norm.scale[...] = jnp.full(2 * dim, _size(outputs))
    return nnx.state(wide)


def fused_start(
    config: ModelConfig, first: nnx.State, second: nnx.State, ids: jax.Array
) -> nnx.State:
    """Two experts with the first one's embedding as their ensemble (section 3.6)."""
    models = [_model(functools.partial(MMRec, config), state).model for state in (first, second)]
    experts = [without_embedding(model) for model in models]
    joined = join_experts(*experts, models[0].embedding, config, rngs=nnx.Rngs(1))
    x = joined.embedding(ids)
    outputs = [expert.hidden_states(x).y for expert in experts]
    start_as_ensemble(joined, _size(jnp.concatenate(outputs, axis=-1)))
    fused = Fused(config, nnx.Rngs(1))
    fused.model = joined
    return nnx.state(fused)


def routed_start(
    config: ModelConfig, text: nnx.State, code: nnx.State, ids: dict[str, np.ndarray]
) -> nnx.State:
    """Two experts that differ in feed-forward layers only; routers start from centroids.

    A router's first guess is the linear discriminant of both domains with equal variance: the
    difference of their mean inputs over the mean variance.
    """
    of_text, of_code = (
        _model(functools.partial(MMRec, config), state).model for state in (text, code)
    )
    routed = Routed(config, nnx.Rngs(1))
    inputs = {domain: of_text.embedding(each) for domain, each in ids.items()}
    routed.model.embedding, routed.model.norm = of_text.embedding, of_text.norm
    for number, (left, right) in enumerate(zip(of_text.blocks, of_code.blocks, strict=True)):
        seen: dict[str, jax.Array] = {}
        for domain, x in inputs.items():
            h = jnp.zeros((len(x), config.model_dim))
            block = left if domain == "text" else right
            kept: list[jax.Array] = []
            block.feed_forward = _recording(block.feed_forward, kept)
            inputs[domain] = block(x, None, h).y
            del block.feed_forward
            seen[domain] = kept[0].reshape(-1, config.model_dim)
        means = {domain: each.mean(0) for domain, each in seen.items()}
        variance = jnp.stack([each.var(0) for each in seen.values()]).mean(0) + 1e-6
        kernel = (means["text"] - means["code"]) / variance / config.model_dim * 4
        ffn = RoutedFFN(config, rngs=nnx.Rngs(1))
        nnx.update(ffn, nnx.state(left.ffn))
        nnx.update(ffn.other, nnx.state(right.ffn))
        ffn.router.kernel[...] = kernel[:, None]
        ffn.router.bias[...] = -(kernel @ (means["text"] + means["code"]) / 2)[None]
        left.ffn = ffn
        routed.model.blocks[number] = left
    return nnx.state(routed)


def _recording(function: Any, kept: list[jax.Array]) -> Any:
    def recorded(n: jax.Array, *rest: Any) -> jax.Array:
        kept.append(n)
        return function(n, *rest)

    return recorded


def _size(outputs: jax.Array) -> float:
    return float(jnp.sqrt(jnp.square(outputs).mean(-1)).mean())
