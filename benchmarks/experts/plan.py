"""The stages of both the plan and its controls: what each starts from, reads, and trains.

The plan is 800 steps of the base, 400 of both experts together, and 400 of the fusion, each of
16,384 tokens: about an hour on two cores. Every variant is trained with three seeds and some
learning rates; which rate is reported is chosen on the validation split.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.experts import models
from benchmarks.peers.models import Build, MMRec, config_of
from benchmarks.peers.training import everything

LENGTH = 256
BATCH = 64
SEEDS = (0, 1, 2)
BASE_STEPS = 800
EXPERT_STEPS = {"demo": {"text": 130, "code": 270}, "second": {"text": 200, "code": 200}}
"""By corpus, about in the ratio of the domains' tokens."""
FUSION_STEPS = 400
DROP = 0.15
VOCAB_SIZE = 2048

CONFIG = config_of(VOCAB_SIZE, 128, 4, 512, fusion_method="weighted")
BASE = functools.partial(MMRec, CONFIG)
WIDER = functools.partial(MMRec, config_of(VOCAB_SIZE, 192, 4, 896))
"""With as many parameters as the fusion."""
WIDE_HEAD = functools.partial(models.WideHead, CONFIG)
FUSED = functools.partial(models.Fused, CONFIG)
DROPPING = functools.partial(models.Fused, CONFIG, drop=DROP)
ROUTED = functools.partial(models.Routed, CONFIG)


class Variant(NamedTuple):
    """One way to train a model.

    Attributes:
        name: of its results.
        start: the state that it starts from, see `Laboratory`.
        reads: "mixed", "text", "code", or a random half of the documents, "half 0" or "half 1".
        steps: how many.
        rate: the peak of the learning rate.
    """

    name: str
    start: str
    reads: str
    steps: int
    rate: float


class Part(NamedTuple):
    """Variants of one model that train together.

    Attributes:
        build: the model as it is trained.
        scored: the model as it is scored, by the name of a way to run it.
        trained: says by the path of a parameter whether it is trained.
        variants: what is trained.
    """

    build: Build
    scored: dict[str, Build]
    trained: Callable[[tuple[Any, ...]], bool]
    variants: list[Variant]


def fusion_alone(path: tuple[Any, ...]) -> bool:
    """What `fusion.trainable` has by default: not the experts, nor the embedding."""
    return not {"text_expert", "code_expert", "embedding"} & set(map(str, path))


def feed_forward(path: tuple[Any, ...]) -> bool:
    """The feed-forward layers alone."""
    return "ffn" in map(str, path)


def parts(corpus: str) -> dict[str, Part]:
    """All parts of a corpus by name, in an order in which each finds its start."""
    both = {"": FUSED}
    alone = {f"{only} alone": functools.partial(FUSED, only=only) for only in ("text", "code")}
    of = EXPERT_STEPS[corpus]
    experts = of["text"] + of["code"]
    again = experts + FUSION_STEPS
    of_base = models.forward_flops(BASE)
    operations = experts * of_base + FUSION_STEPS * models.forward_flops(FUSED)
    all_operations = BASE_STEPS * of_base + operations

    def expert(name: str, reads: str, steps: int) -> list[Variant]:
        return [Variant(name, "base", reads, steps, rate) for rate in (1e-3, 2e-3)]

    def joined(how: str) -> list[Variant]:
        return [
            Variant(f"{kind}, {how}", kind, "mixed", FUSION_STEPS, rate)
            for kind in ("domains", "halves")
            for rate in (2e-3, 4e-3)
        ]

    def control(name: str, start: str, steps: dict[str, int], rates: list[float]) -> list[Variant]:
        return [
            Variant(f"{name}, equal {what}", start, "mixed", count, rate)
            for what, count in steps.items()
            for rate in rates
        ]

    one_model = {"": BASE}
    return {
        "base": Part(
            BASE,
            one_model,
            everything,
            [Variant("base", "", "mixed", BASE_STEPS, rate) for rate in (4e-3, 8e-3)],
        ),
        "experts": Part(
            BASE,
            one_model,
            everything,
            [
                *expert("text expert", "text", of["text"]),
                *expert("code expert", "code", of["code"]),
                *expert("half 0", "half 0", experts // 2),
                *expert("half 1", "half 1", experts // 2),
                Variant("long text expert", "base", "text", of["text"] * 3 // 2, 2e-3),
                Variant("long code expert", "base", "code", of["code"] * 3 // 2, 2e-3),
            ],
        ),
        "fusion-all": Part(
            FUSED,
            both | alone,
            everything,
            [
                *joined("all trained"),
                Variant(
                    "long domains, all trained", "long domains", "mixed", FUSION_STEPS // 2, 2e-3
                ),
            ],
        ),
        "fusion-alone": Part(FUSED, both | alone, fusion_alone, joined("fusion alone")),
        "fusion-all-dropped": Part(
            DROPPING, both | alone, everything, joined("all trained, one left out of some")
        ),
        "further": Part(
            WIDE_HEAD,
            {"": WIDE_HEAD},
            everything,
            control(
                "base further",
                "wide head",
                {"tokens": again, "operations": operations // models.forward_flops(WIDE_HEAD)},
                [2e-3, 4e-3],
            ),
        ),
        "wider": Part(
            WIDER,
            {"": WIDER},
            everything,
            control(
                "wider base",
                "",
                {
                    "tokens": BASE_STEPS + again,
                    "operations": all_operations // models.forward_flops(WIDER),
                },
                [4e-3, 8e-3],
            ),
        ),
        "feed-forward": Part(
            BASE,
            one_model,
            feed_forward,
            [
                Variant(f"{domain} feed-forward", "base", domain, of[domain], 2e-3)
                for domain in ("text", "code")
            ],
        ),
        "routed": Part(
            ROUTED,
            {"": ROUTED},
            everything,
            [Variant("routed", "routed", "mixed", FUSION_STEPS, rate) for rate in (2e-3, 4e-3)],
        ),
    }
