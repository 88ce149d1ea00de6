"""What a trained model's `score` and `trace` give for a text, and pictures of them."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from train.system.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float32]

_LABELLED = 120
"""Tokens whose names still fit below a picture."""

_MEANS = {
    "decay": "decay g: the share of h that stays",
    "block_gate": "block gate s: the share of the input that enters h",
    "mdi_gate": "MDI gate m: the share of the input in the update",
}
"""What a picture shows the mean over channels of; the others are vectors, and show their size."""

_SIZES = {
    "states": "recurrent state h",
    "memory_reads": "what is read from the memory",
    "outputs": "output of the layer",
}


@dataclasses.dataclass(frozen=True, repr=False)
class TextScore:
    """How well a model predicts a text, token by token.

    Attributes:
        tokens: the text's tokens [T].
        losses: nats of each [T].
        size: bytes of the text.
    """

    tokens: list[str]
    losses: Array
    size: int

    @property
    def loss(self) -> float:
        """The mean in nats per token."""
        return float(self.losses.mean(dtype=np.float64))

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of the text, which can be compared between tokenizers."""
        return float(self.losses.sum(dtype=np.float64) / math.log(2) / self.size)

    def __repr__(self) -> str:
        return (
            f"{self.loss:.3f} nats per token, {self.bits_per_byte:.3f} bits per byte, "
            f"{len(self.tokens)} tokens"
        )

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draws the loss of each token as a bar; `ax` None makes a new figure."""
        axes = _axes(ax, len(self.tokens), 2.5)
        axes.bar(range(len(self.tokens)), self.losses, width=0.9)
        axes.axhline(self.loss, color="0.3", linewidth=1, linestyle=":")
        axes.set(ylabel="nats (lower is better)", xlim=(-0.6, len(self.tokens) - 0.4))
        axes.set_title(f"loss of each token, {self.loss:.2f} on average", fontsize="medium")
        _name_tokens(axes, self.tokens)
        return axes


@dataclasses.dataclass(frozen=True, repr=False)
class TextTrace:
    """What a model computes inside while it reads a text; see `mmrec_jax.tracing.Trace`.

    Attributes:
        tokens: the end-of-text token, which begins every document, and the text's tokens [T].
        layers: names of the layers [L]; a fusion has those of both experts.
        decay, block_gate, mdi_gate, states, memory_reads, outputs: [L, T, D].
        text_share: of a weighted fusion, the gate: 1 takes the text expert, 0 the code expert
            [T, D]; else None.
    """

    tokens: list[str]
    layers: list[str]
    decay: Array
    block_gate: Array
    mdi_gate: Array
    states: Array
    memory_reads: Array
    outputs: Array
    text_share: Array | None = None

    def __repr__(self) -> str:
        size = float(np.abs(self.states).mean())
        return (
            f"trace of {len(self.tokens)} tokens in {len(self.layers)} layers of "
            f"{self.decay.shape[-1]} channels: mean decay {self.decay.mean():.3f}, block gate "
            f"{self.block_gate.mean():.3f}, |h| {size:.3g}"
        )

    def plot(
        self, what: str = "states", layer: int | str | None = None, ax: "Axes | None" = None
    ) -> "Axes":
        """Draws one of the arrays over the tokens.

        Args:
            what: the array's name, such as "decay", "memory_reads" or "text_share".
            layer: a name in `layers`, of which every channel is a row. None makes one row per
                layer: the mean over channels of shares, the root mean square of vectors.
            ax: where to draw; None makes a new figure.

        Raises:
            UserError: there is no such array or layer.
        """
        rows, names, label, axis_label = self._rows(what, layer)
        axes = _axes(ax, len(self.tokens), 1.3 + 0.25 * min(len(rows), 12))
        limits: dict[str, Any] = {}
        if what == "text_share":
            limits = {"vmin": 0, "vmax": 1, "cmap": "RdBu"}
        elif what in _SIZES and layer is not None:
            most = float(np.abs(rows).max())
            limits = {"vmin": -most, "vmax": most, "cmap": "PuOr"}
        image = axes.imshow(rows, aspect="auto", interpolation="nearest", **limits)
        axes.figure.colorbar(image, ax=axes, pad=0.01)
        axes.set_title(label, fontsize="medium")
        axes.set_ylabel(axis_label)
        if names:
            axes.set_yticks(range(len(names)), names)
        _name_tokens(axes, self.tokens)
        return axes

    def _rows(self, what: str, layer: int | str | None) -> tuple[Array, list[str], str, str]:
        """Rows [rows, T], their names, what they show, and what a row is."""
        if what == "text_share":
            if self.text_share is None:
                raise UserError("text_share: only a fusion with fusion_method: weighted has a gate")
            if layer is not None:
                raise UserError("layer: the gate is after the layers: leave it out")
            label = "gate of the fusion: 1 is the text expert, 0 the code expert"
            return self.text_share.T, [], label, "channel"
        labels = _MEANS | _SIZES
        if what not in labels:
            known = ", ".join([*labels, "text_share"])
            raise UserError(f"what: expected one of {known}, not {what}")
        array: Array = getattr(self, what)
        if layer is not None:
            if str(layer) not in self.layers:
                known = ", ".join(self.layers)
                raise UserError(f"layer: expected one of {known}, not {layer}")
            rows = array[self.layers.index(str(layer))].T
            return rows, [], f"{labels[what]}, layer {layer}", "channel"
        if what in _MEANS:
            return array.mean(axis=-1), self.layers, f"{labels[what]}, mean of channels", "layer"
        size = np.sqrt(np.square(array).mean(axis=-1))
        return size, self.layers, f"{labels[what]}, root mean square of channels", "layer"


def _axes(ax: "Axes | None", tokens: int, height: float) -> "Axes":
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt  # imported only when there is something to draw

    width = min(max(4.0, 1.5 + 0.16 * tokens), 12.0)
    return plt.subplots(figsize=(width, height + 0.6), layout="constrained")[1]


def _name_tokens(axes: "Axes", tokens: Sequence[str]) -> None:
    """Writes the tokens below a picture, or only counts them where they are too many."""
    if len(tokens) > _LABELLED:
        axes.set_xlabel("token")
        return
    names = [repr(token)[1:-1].replace(" ", "\N{MIDDLE DOT}") or "start" for token in tokens]
    # Without parse_math, a dollar sign would begin a formula.
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8, parse_math=False)
    axes.set_xlabel("token (a dot is a space)")
