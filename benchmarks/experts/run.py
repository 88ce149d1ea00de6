"""Trains a part's variants with all seeds, scores them, and keeps what later parts start from."""

import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from benchmarks.experts import corpora, models
from benchmarks.experts.plan import (
    BASE,
    BATCH,
    CONFIG,
    FIXED,
    LENGTH,
    LONGER,
    SEEDS,
    Variant,
    parts,
)
from benchmarks.peers import training
from benchmarks.peers.jobs import read
from benchmarks.peers.models import Build, abstract, parameter_shapes
from bridge import replacing_file
from train.scoring.kneser_ney import KneserNey
from train.system.write import write_json

COUNTED = "5-gram"

_SAMPLE = 16
"""How many training windows measure the size of outputs and the domains' centroids."""


class Laboratory:
    """The parts of one corpus: what is done, and what is not.

    Attributes:
        parts: all of them by name.
    """

    def __init__(self, corpus: str, results: Path, states: Path) -> None:
        """Results are JSON files in `results`, models' weights are in `states`."""
        self._corpus, self._results, self._states = corpus, results, states
        self.parts = parts(corpus)

    @functools.cached_property
    def _data(self) -> corpora.Domains:
        return corpora.load(self._corpus, LENGTH)

    def result(self, part: str) -> Path:
        """The file of a part's result."""
        return self._results / f"{result_name(self._corpus, part)}.json"

    def run(self, name: str) -> None:
        """Trains and scores a part."""
        part, begun = self.parts[name], time.monotonic()
        states = [self._start(part.build, variant) for variant in part.variants]
        state, losses = training.train(
            part.build,
            jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states),
            self._data.rows,
            self._orders(part.variants),
            self._rates(part.variants),
            SEEDS * len(part.variants),
            part.trained,
        )
        seconds, found = time.monotonic() - begun, []
        for number, variant in enumerate(part.variants):
            of_variant = slice(number * len(SEEDS), (number + 1) * len(SEEDS))
            mine = jax.tree.map(lambda leaf, chosen=of_variant: leaf[chosen], state)
            self._keep(variant, part.build, mine)
            found.append(
                variant._asdict()
                | {
                    "training_loss": losses[variant.steps - 50 : variant.steps, of_variant]
                    .mean(0)
                    .tolist(),
                    "scores": {
                        how: self._scores(build, mine) for how, build in part.scored.items()
                    },
                }
            )
        write_json(
            self.result(name),
            {
                "parameters": sum(map(math.prod, parameter_shapes(part.build).values())),
                "forward_flops": models.forward_flops(part.build),
                "seconds": seconds,
                "device": jax.devices()[0].device_kind,
                "variants": found,
            },
        )

    def count(self) -> None:
        """Scores a 5-gram (interpolated modified Kneser-Ney) of the same training tokens."""
        train = self._data.rows[:, :-1].ravel()
        model = KneserNey(train, len(self._data.token_bytes), 5)
        losses = {
            domain: model.losses(rows[:, :-1], rows[:, 1:])
            for domain, rows in self._data.held_out["test"].items()
        }
        losses["mixed"] = np.concatenate(list(losses.values()))
        means = {domain: float(each.mean()) for domain, each in losses.items()}
        write_json(self.result(COUNTED), means)

    def _orders(self, variants: list[Variant]) -> npt.NDArray[np.int32]:
        steps = max(variant.steps for variant in variants)
        orders = [
            training.batch_order(steps, BATCH, self._read(variant.reads, seed), [seed, 11])
            for variant in variants
            for seed in SEEDS
        ]
        return np.stack(orders, axis=1)

    def _rates(self, variants: list[Variant]) -> npt.NDArray[np.float32]:
        rates = np.zeros((max(variant.steps for variant in variants), len(variants)), np.float32)
        for column, variant in enumerate(variants):
            rates[: variant.steps, column] = training.rates_of(variant.steps, variant.rate)
        return np.repeat(rates, len(SEEDS), axis=1)

    def _read(self, reads: str, seed: int) -> npt.NDArray[np.int32]:
        if reads == "mixed":
            return np.arange(len(self._data.rows), dtype=np.int32)
        if reads in self._data.of_domain:
            return self._data.of_domain[reads]
        return self._data.halves(seed)[int(reads.removeprefix("half "))]

    def _start(self, build: Build, variant: Variant) -> nnx.State:
        if not variant.start:
            return training.started(build, SEEDS)
        sample = self._sample(np.arange(len(self._data.rows)))
        if variant.start == "wide head":
            return _each_run(
                functools.partial(models.wide_head_start, CONFIG, ids=sample), self._best("base")
            )
        pairs = {
            "domains": ("text expert", "code expert"),
            **{
                f"domains, {kind}": (f"text expert, {kind}", f"code expert, {kind}")
                for kind in (FIXED, LONGER)
            },
            "halves": ("half 0", "half 1"),
            "routed": ("text feed-forward", "code feed-forward"),
        }
        if variant.start not in pairs:
            return self._best(variant.start)
        both = [self._best(name) for name in pairs[variant.start]]
        if variant.start == "routed":
            of_domain = {
                domain: self._sample(places) for domain, places in self._data.of_domain.items()
            }
            join = functools.partial(models.routed_start, CONFIG, ids=of_domain)
        else:
            join = functools.partial(models.fused_start, CONFIG, ids=sample)
        return _each_run(join, *both)

    def _sample(self, places: npt.NDArray[np.int32]) -> jax.Array:
        chosen = places[:: max(1, len(places) // _SAMPLE)][:_SAMPLE]
        return jnp.asarray(self._data.rows[chosen, :-1])

    def _scores(self, build: Build, state: nnx.State) -> dict[str, dict[str, list[float]]]:
        """Nats per token by split and domain, for each seed; "mixed" is of all tokens."""
        found = {}
        for split, of_domain in self._data.held_out.items():
            losses = {
                domain: training.token_losses(build, state, rows)
                for domain, rows in of_domain.items()
            }
            losses["mixed"] = np.concatenate(list(losses.values()), axis=1)
            found[split] = {
                domain: each.mean((1, 2), dtype=np.float64).tolist()
                for domain, each in losses.items()
            }
        return found

    def _keep(self, variant: Variant, build: Build, state: nnx.State) -> None:
        if build is not BASE:
            return
        self._states.mkdir(parents=True, exist_ok=True)
        with replacing_file(self._state_file(variant)) as file:
            np.savez(file, *map(np.asarray, jax.tree.leaves(state)))

    def _state_file(self, variant: Variant) -> Path:
        return self._states / f"{self._corpus}-{variant.name}-{variant.rate}.npz".replace(" ", "_")

    def _best(self, name: str) -> nnx.State:
        """The weights of the variant of a name whose rate is best on the validation split.

        A part whose result is there but not its weights, as in a new clone, is trained again.
        """
        part = next(
            part
            for part, of_part in self.parts.items()
            if any(variant.name == name for variant in of_part.variants)
        )
        if not all(self._state_file(each).exists() for each in self.parts[part].variants):
            self.run(part)
        result = read(self._results, result_name(self._corpus, part))
        rate = best(result, name, domain_of(name))["rate"]
        variant = next(
            each for each in self.parts[part].variants if each.name == name and each.rate == rate
        )
        shapes = jax.tree.structure(nnx.state(abstract(self.parts[part].build)))
        with np.load(self._state_file(variant)) as arrays:
            return jax.tree.unflatten(shapes, [jnp.asarray(arrays[key]) for key in arrays])


def result_name(corpus: str, part: str) -> str:
    """The name of a part's result."""
    return f"{corpus}-{part}"


def domain_of(name: str) -> str:
    """The domain on which the rate of a variant is chosen."""
    return next((domain for domain in corpora.DOMAINS if domain in name.split()), "mixed")


def best(result: Mapping[str, Any], name: str, domain: str = "mixed") -> dict[str, Any]:
    """What a part's result has of the variant of a name with the best rate on validation."""
    found: list[dict[str, Any]] = [each for each in result["variants"] if each["name"] == name]
    return min(found, key=lambda each: np.mean(each["scores"][""]["validation"][domain]))


def _each_run(function: Callable[..., nnx.State], *states: nnx.State) -> nnx.State:
    """A function of one run's states [...], for all runs [runs, ...]."""
    each = [
        function(*(jax.tree.map(lambda leaf, number=run: leaf[number], state) for state in states))
        for run in range(len(SEEDS))
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
