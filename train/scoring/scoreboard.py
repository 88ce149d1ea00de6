"""Scores of several models side by side: as a table, as JSON, and as a plot."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import rich.table
from flax import nnx

from mmrec_jax import MMRec100M
from mmrec_jax.block_forms import stack_blocks
from mmrec_jax.fusion import ExpertType
from train.data.batches import Batch, Windows
from train.data.token_files import DOMAINS, read_tokens
from train.data.tokenizer import Tokenizer
from train.scoring.score import BASELINES, Score, baseline_scores, score
from train.settings.config import Config
from train.step.frozen import Network
from train.step.loss import model_token_losses
from train.system.errors import UserError
from train.system.terminal import console, written_out
from train.system.write import replacing, write_json

Scores = Mapping[str, Mapping[str, Score]]
"""Scores by domain, then by the predictor's name."""

_ROUTINGS: tuple[tuple[str, ExpertType | None], ...] = (
    ("", None),
    (", text alone", "text"),
    (", code alone", "code"),
)


def score_networks(
    networks: Mapping[str, Callable[[], Network]],
    config: Config,
    tokenizer: Tokenizer,
    unrouted: Collection[str] = (),
) -> Scores:
    """Scores models on every domain of a split, an MMRec100M with both experts and with each alone.

    The n-grams of the training tokens are scored too.

    Args:
        networks: for each name, a function that loads the model; only one is in memory at a time.
        config: says which data, which split and how much of it.
        tokenizer: the data's tokenizer.
        unrouted: names of MMRec100Ms that are scored only with both experts.
    """
    settings, training = config.evaluate, config.training
    windows = {
        domain: Windows(config.data_dir, domain, settings.split, training.sequence_length)
        for domain in DOMAINS
    }
    token_bytes = tokenizer.token_bytes
    counted = read_tokens(config.data_dir, "mixed", "train")
    scores = baseline_scores(counted, windows, token_bytes, training.batch_size, settings.batches)
    for name, load in networks.items():
        for routed, losses in _predictors(load(), training.chunk_size, name not in unrouted):
            console.print(f"scoring {name}{routed}")
            for domain, each in windows.items():
                scores[domain][name + routed] = score(
                    losses, each, token_bytes, training.batch_size, settings.batches
                )
    return scores


def score_table(scores: Scores, title: str, bold: str = "") -> rich.table.Table:
    """A table of all scores, domain by domain; `bold` names the predictor to print in bold."""
    table = rich.table.Table(title=title)
    left = ("domain", "predictor")
    for heading in (*left, "nats/token", "perplexity", "bits/byte", "tokens"):
        side: Literal["left", "right"] = "left" if heading in left else "right"
        table.add_column(heading, justify=side)
    for domain, of_domain in scores.items():
        for name, value in of_domain.items():
            table.add_row(
                domain,
                name,
                f"{value.loss:.4f}",
                f"{value.perplexity:,.1f}",
                f"{value.bits_per_byte:.4f}",
                f"{value.tokens:,}",
                style="bold" if name == bold else None,
            )
        table.add_section()
    return table


def as_plain(scores: Scores) -> dict[str, dict[str, dict[str, float]]]:
    """The scores in the form for JSON."""
    return {
        domain: {name: dataclasses.asdict(value) for name, value in of_domain.items()}
        for domain, of_domain in scores.items()
    }


def write_scores(folder: Path, name: str, scores: Scores) -> tuple[Path, Path]:
    """Writes NAME.json and NAME.png into a folder, and returns their paths.

    Raises:
        UserError: they cannot be written.
    """
    document, plot = (folder / f"{name}.{suffix}" for suffix in ("json", "png"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _plot(scores, plot)
        write_json(document, {"scores": as_plain(scores)})  # last: with it, a pipeline is done
    except OSError as error:
        raise UserError(f"cannot write {folder / name}: {error.strerror}") from error
    return document, plot


def as_label(name: str) -> str:
    """A name, such as a path, as a picture shows it: no formula, and in letters of every font."""
    text = written_out(name).encode("ascii", "backslashreplace").decode().replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # or a legend leaves it out


def _plot(scores: Scores, path: Path) -> None:
    names = list(next(iter(scores.values())))
    size = 9.5 + 0.08 * max(map(len, names)), 1.6 + 0.35 * len(names)
    import matplotlib.figure  # imported only when there is something to draw

    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1, len(scores), sharey=True)
    for axes, (domain, of_domain) in zip(grid, scores.items(), strict=True):
        values = [value.bits_per_byte for value in of_domain.values()]
        counted = [row for row, name in enumerate(of_domain) if name in BASELINES]
        models = [row for row in range(len(values)) if row not in counted]
        best = min(range(len(values)), key=values.__getitem__)
        for rows, style, label in (
            (counted, {"marker": "s", "color": "0.6"}, "counted on the training tokens"),
            (models, {"marker": "o", "color": "C0"}, "model"),
            ([best], {"marker": "o", "ms": 12, "mfc": "none", "color": "C1"}, "lowest"),
        ):
            axes.plot([values[row] for row in rows], rows, linestyle="", label=label, **style)
        for row, value in enumerate(values):
            axes.annotate(
                f"{value:.3f}", (value, row), (9, -3), textcoords="offset points", fontsize=8
            )
        axes.set(title=domain, xlabel="bits per byte (lower is better)", yticks=range(len(values)))
        axes.set_yticklabels([as_label(name) for name in of_domain])
        axes.invert_yaxis()
        axes.margins(x=0.25)
        axes.grid(alpha=0.3)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _predictors(
    network: Network, chunk_size: int | None, routed: bool
) -> Iterator[tuple[str, Callable[[Batch], jax.Array]]]:
    """For both experts, and each alone: a suffix for the name, and (batch) -> losses [B, T]."""
    graphdef, state = nnx.split(stack_blocks(network))
    routings = _ROUTINGS if routed and isinstance(network, MMRec100M) else _ROUTINGS[:1]
    for suffix, expert_type in routings:
        options = {} if expert_type is None else {"expert_type": expert_type}
        losses = functools.partial(_losses, graphdef, state, chunk_size=chunk_size, **options)
        yield suffix, losses


@functools.partial(jax.jit, static_argnames=("graphdef", "chunk_size", "expert_type"))
def _losses(
    graphdef: nnx.GraphDef[Network], state: nnx.State, batch: Batch, **options: Any
) -> jax.Array:
    return model_token_losses(nnx.merge(graphdef, state), batch, **options)
