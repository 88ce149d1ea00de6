"""A trained model in Python: it writes, scores, and shows its inside; `mmrec.load` gives one."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

import bridge
from mmrec_jax import MMRec100M, ModelConfig
from mmrec_jax.sampling import Sampling
from mmrec_jax.tracing import Trace, trace
from train.data.batches import Batch, batch_of
from train.data.tokenizer import Tokenizer
from train.generation.speaker import load_speaker
from train.generation.texts import continuations
from train.settings.config import Config
from train.settings.yaml_keys import is_text
from train.step.frozen import Network
from train.step.loss import model_token_losses
from train.system.errors import UserError
from train.text_results import TextScore, TextTrace


class Text:
    """A text that is being written: iterating over it gives the pieces as they are sampled.

    `str(text)` waits for the whole text, and so does showing it in a notebook.
    """

    def __init__(self, begun: str, pieces: Iterator[str]) -> None:
        """`begun` is the first piece, with the prompt."""
        self._done, self._pieces = [begun], pieces

    def __iter__(self) -> Iterator[str]:
        yield from self._done
        for piece in self._pieces:
            self._done.append(piece)
            yield piece

    def __str__(self) -> str:
        return "".join(self)

    def __repr__(self) -> str:
        return str(self)


@dataclasses.dataclass(frozen=True, repr=False)
class TrainedModel:
    """A model with its tokenizer.

    Attributes:
        model: a flax.nnx module.
        tokenizer: its tokenizer.
        settings: the config of its run; None where the checkpoint is in no run's folder.
        chunk_size: after how many tokens the memory is written, as in training; None never writes.
        path: where it was read from.
    """

    model: Network
    tokenizer: Tokenizer
    settings: Config | None
    chunk_size: int | None
    path: str

    def __repr__(self) -> str:
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(self.model)))
        return (
            f"{type(self.model).__name__} of {self.path}: {count:,} parameters, "
            f"{self.config.num_layers} layers of {self.config.model_dim} channels, "
            f"{self.config.vocab_size:,} tokens"
        )

    @property
    def config(self) -> ModelConfig:
        """The model's dimensions and variants."""
        return self.model.config

    def generate(
        self,
        prompt: str = "",
        *,
        length: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Text:
        """Continues a prompt, the beginning of a document; options as of `mmrec generate`.

        Raises:
            UserError: an option is out of its range, or the model cannot be sampled from.
        """
        _check_text(prompt, "prompt")
        numbers = {"length": length, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        for name, value in (numbers | {"seed": seed}).items():
            if not isinstance(value, int | float | None):
                raise UserError(f"{name}: expected a number, not {value!r:.60}")
        try:
            sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        except ValueError as error:
            raise UserError(str(error)) from error
        pieces = continuations(
            self.model,
            self.tokenizer,
            [prompt],
            chunk_size=self.chunk_size,
            length=length,
            sampling=sampling,
            seed=seed,
            stop=[stop] if isinstance(stop, str) else stop,
        )
        written = _naming_arguments(added for ((added, _),) in pieces)
        first = next(written)  # what is wrong is said now, and not when the text is read
        return Text(prompt + first, written)

    def score(self, text: str) -> TextScore:
        """How well the model predicts a text, as a whole document.

        Raises:
            UserError: the text is empty, or not a string of Unicode text.
        """
        ids = self._ids(text)
        if len(ids) == 1:
            raise UserError("text: it is empty: there is nothing to predict")
        count = len(ids) - 1
        # The sparse variant routes chunks of tokens, so padding would change what it computes.
        padded = np.zeros(1 + (count if self.config.use_sparse else _room(count)), np.int32)
        padded[: count + 1] = ids
        losses = _losses(*nnx.split(self.model), batch_of(padded[None]), self.chunk_size)
        return TextScore(self._pieces(ids[1:]), np.asarray(losses)[0, :count], len(text.encode()))

    def trace(self, text: str) -> TextTrace:
        """What the model computes inside while it reads a text, as a whole document.

        Raises:
            UserError: the text is not a string of Unicode text.
        """
        ids = self._ids(text)
        model = self.model
        x = model.embedding(jnp.asarray(ids)[None])
        stacks: dict[str, Any] = {"": model}
        if isinstance(model, MMRec100M):
            stacks = dict(model.experts(None))
        layers, traces, ends = [], [], []
        for name, stack in stacks.items():
            traces.append(trace(stack, x, chunk_size=self.chunk_size))
            layers += [f"{name} {number}".strip() for number in range(len(traces[-1].decay))]
            ends.append(stack.norm(traces[-1].outputs[-1]))
        share = None
        if isinstance(model, MMRec100M) and model.config.fusion_method == "weighted":
            share = np.asarray(model.fusion.text_share(*ends)[0])
        arrays = Trace(*map(jnp.concatenate, zip(*traces, strict=True)))
        found = {name: np.asarray(each[:, 0]) for name, each in arrays._asdict().items()}
        return TextTrace(tokens=self._pieces(ids), layers=layers, text_share=share, **found)

    def _ids(self, text: str) -> npt.NDArray[np.int32]:
        _check_text(text, "text")
        return np.array([self.tokenizer.end_of_text, *self.tokenizer.encode(text)], np.int32)

    def _pieces(self, ids: Sequence[int] | npt.NDArray[np.int32]) -> list[str]:
        return [self.tokenizer.decode([int(each)]) for each in ids]


def load(
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    end_of_text: str | None = None,
    base_model: str | Path | None = None,
    num_heads: int | None = None,
) -> TrainedModel:
    """Reads a trained model, with its tokenizer.

    Args:
        path: a stage's folder, a state's, a .pt or .safetensors file, or a pipeline's run_dir, of
            which the fusion is read, or the only stage that there is.
        tokenizer: tokenizer.json or .tiktoken file; None takes the one beside the checkpoint.
        end_of_text: what ends a document, if the tokenizer hides it.
        base_model: the base of an expert that is in no run's folder.
        num_heads: if a file does not state it.

    Raises:
        UserError: one of them is missing or cannot be read, or they do not fit each other.
    """
    if not isinstance(path, str | Path):
        raise UserError(f"path: expected a string or a Path, not {type(path).__name__}")
    try:
        place = bridge.stage_in(Path(path).expanduser())
        speaker = load_speaker(
            place,
            tokenizer=None if tokenizer is None else str(tokenizer),
            end_of_text=end_of_text,
            base_model=None if base_model is None else str(base_model),
            num_heads=num_heads,
        )
    except (bridge.BridgeError, UserError) as error:
        raise UserError(_with_arguments(str(error))) from error
    return TrainedModel(*speaker, speaker.chunk_size, str(place))


def _check_text(text: object, name: str) -> None:
    if not isinstance(text, str):
        raise UserError(f"{name}: expected a string, not {type(text).__name__}")
    if not is_text(text):
        raise UserError(f"{name}: it has half of a surrogate pair, which is no text")


def _naming_arguments(pieces: Iterator[str]) -> Iterator[str]:
    try:
        yield from pieces
    except UserError as error:
        raise UserError(_with_arguments(str(error))) from error


def _with_arguments(message: str) -> str:
    """An error of the command line, with Python's arguments in place of its options."""
    return re.sub(r"--(\w+)( FILE)?", r"\1", message)


def _room(count: int) -> int:
    """A length for so many tokens; there are few such lengths, as each is compiled."""
    return max(64, 1 << (count - 1).bit_length())


@functools.partial(jax.jit, static_argnums=(0, 3))
def _losses(
    graphdef: nnx.GraphDef[Network], state: nnx.State, batch: Batch, chunk_size: int | None
) -> jax.Array:
    return model_token_losses(nnx.merge(graphdef, state), batch, chunk_size=chunk_size)
