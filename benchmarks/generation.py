"""Our decoding: seconds per token, early and late in a text."""

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.limits import seconds
from mmrec_jax import MMRecModel, ModelConfig
from mmrec_jax.decoding import PIECE, stream
from mmrec_jax.sampling import Sampling

EARLY, LATE = 30, 30_000


def decoding(config: ModelConfig, batch: int, position: int = EARLY) -> float:
    """The shortest time of a token in greedy decoding, from a position on.

    The tokens up to the position are a prompt; the state after it is as large as any other.
    """
    model = MMRecModel(config, rngs=nnx.Rngs(0))
    prompt = jax.random.randint(jax.random.key(0), (batch, position), 0, config.vocab_size)
    greedy = Sampling(temperature=0)
    pieces = stream(model, prompt, key=jax.random.key(0), sampling=greedy)
    return seconds(next, pieces) / PIECE


def parameter_bytes(config: ModelConfig) -> int:
    """The size of the parameters that are read for each token, in bytes.

    Without a long-term memory the projections of the queries and the attention's W_o are not read.
    """
    model = jax.eval_shape(lambda: nnx.state(MMRecModel(config, rngs=nnx.Rngs(0))))
    return sum(
        leaf.size * jnp.dtype(leaf.dtype).itemsize
        for path, leaf in jax.tree.leaves_with_path(model)
        if not {"W_q", "W_o"} & {str(getattr(key, "key", "")) for key in path}
    )
