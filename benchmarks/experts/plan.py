"""The stages of both the plan and its controls: what each starts from, reads, and trains.

The plan is 800 steps of the base, 400 of both experts together, and 400 of the fusion, each of
16,384 tokens: about an hour on two cores. Every variant is trained with three seeds and some
learning rates; which rate is reported is chosen on the validation split.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.experts import models
from benchmarks.peers.models import Build, MMRec

LENGTH = 256
BATCH = 64
SEEDS = (0, 1, 2)
BASE_STEPS = 800
EXPERT_STEPS = {"demo": {"text": 130, "code": 270}, "second": {"text": 200, "code": 200}}
"""By corpus, about in the ratio of the domains' tokens."""
FUSION_STEPS = 400
DROP = 0.15
VOCAB_SIZE = 2048

CONFIG = models.config_of(VOCAB_SIZE, 128, 4, 512)
WIDER = models.config_of(VOCAB_SIZE, 192, 4, 896)
"""With as many parameters as the fusion."""


class Variant(NamedTuple):
    """One way to train a model.

    Attributes:
        name: of its results.
        start: the state that it starts from, see `run.start_of`.
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


def everything(path: tuple[Any, ...]) -> bool:
    """Nothing is frozen."""
    return True


def fusion_alone(path: tuple[Any, ...]) -> bool:
    """What `fusion.trainable` has by default: not the experts, nor the embedding."""
    return not {"text_expert", "code_expert", "embedding"} & set(map(str, path))


def feed_forward(path: tuple[Any, ...]) -> bool:
    """The feed-forward layers alone."""
    return "ffn" in map(str, path)


def parts(corpus: str) -> dict[str, Part]:
    """All parts of a corpus by name, in an order in which each finds its start."""
    base, wide = functools.partial(MMRec, CONFIG), functools.partial(MMRec, WIDER)
    head = functools.partial(models.WideHead, CONFIG)
    fused = functools.partial(models.Fused, CONFIG)
    dropping = functools.partial(models.Fused, CONFIG, drop=DROP)
    routed = functools.partial(models.Routed, CONFIG)
    both = {"": fused}
    alone = {f"{only} alone": functools.partial(fused, only=only) for only in ("text", "code")}
    of = EXPERT_STEPS[corpus]
    experts = of["text"] + of["code"]
    rates = (1e-3, 2e-3)
    again = experts + FUSION_STEPS
    operations = experts * models.forward_flops(base) + FUSION_STEPS * models.forward_flops(fused)
    all_operations = BASE_STEPS * models.forward_flops(base) + operations

    def expert(name: str, reads: str, steps: int) -> list[Variant]:
        return [Variant(name, "base", reads, steps, rate) for rate in rates]

    def joined(how: str, steps: int = FUSION_STEPS, rates: tuple[float, ...] = (2e-3, 4e-3)) -> Any:
        return [
            Variant(f"{kind}, {how}", kind, "mixed", steps, rate)
            for kind in ("domains", "halves")
            for rate in rates
        ]

    one_model = {"": base}
    return {
        "base": Part(
            base,
            one_model,
            everything,
            [Variant("base", "", "mixed", BASE_STEPS, rate) for rate in (4e-3, 8e-3)],
        ),
        "experts": Part(
            base,
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
            fused,
            both | alone,
            everything,
            [
                *joined("all trained"),
                Variant(
                    "long domains, all trained", "long domains", "mixed", FUSION_STEPS // 2, 2e-3
                ),
            ],
        ),
        "fusion-alone": Part(fused, both | alone, fusion_alone, joined("fusion alone")),
        "fusion-all-dropped": Part(
            dropping, both | alone, everything, joined("all trained, one left out of some")
        ),
        "further": Part(
            head,
            {"": head},
            everything,
            [
                Variant(name, "wide head", "mixed", steps, rate)
                for name, steps in (
                    ("base further, equal tokens", again),
                    ("base further, equal operations", operations // models.forward_flops(head)),
                )
                for rate in (2e-3, 4e-3)
            ],
        ),
        "wider": Part(
            wide,
            {"": wide},
            everything,
            [
                Variant(name, "", "mixed", steps, rate)
                for name, steps in (
                    ("wider base, equal tokens", BASE_STEPS + again),
                    ("wider base, equal operations", all_operations // models.forward_flops(wide)),
                )
                for rate in (4e-3, 8e-3)
            ],
        ),
        "feed-forward": Part(
            base,
            one_model,
            feed_forward,
            [
                Variant(f"{domain} feed-forward", "base", domain, of[domain], 2e-3)
                for domain in ("text", "code")
            ],
        ),
        "routed": Part(
            routed,
            {"": routed},
            everything,
            [Variant("routed", "routed", "mixed", FUSION_STEPS, rate) for rate in (2e-3, 4e-3)],
        ),
    }
