"""The stages of both the plan and its controls: what each starts from, reads, and trains.

The plan is similar to that of configs/hour.yaml: 2,000 steps of the base, 800 of both experts
together, and 600 of the fusion, each of 8,192 tokens. Every variant is trained with three seeds and
some learning rates; which rate is reported is chosen on the validation split.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.experts import models
from benchmarks.peers.models import LSTM, Build, MMRec, Peer, config_of
from benchmarks.peers.training import Path, everything

LENGTH = 256
BATCH = 32
SEEDS = (0, 1, 2)
BASE_STEPS = 2000
EXPERT_STEPS = {"demo": {"text": 260, "code": 540}, "second": {"text": 400, "code": 400}}
"""By corpus, about in the ratio of the domains' tokens."""
FUSION_STEPS = 600
DROP = 0.15
VOCAB_SIZE = 2048
FIXED = "fixed embedding"
"""In the names of experts that read the base's embedding, and of their fusions."""
SHORTER_BASE = "shorter base"
LONGER = "longer experts"
"""In the names of experts that train twice as long, after a base that is shorter by as much."""

CONFIG = config_of(VOCAB_SIZE, 128, 4, 512, fusion_method="weighted")
BASE = functools.partial(MMRec, CONFIG)
WIDER = functools.partial(MMRec, config_of(VOCAB_SIZE, 192, 4, 896))
"""With as many parameters as the fusion."""
OF_LSTM = functools.partial(Peer, LSTM, VOCAB_SIZE, 128, 4, 656)
"""With as many parameters as the base."""
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
    trained: Callable[[Path], bool]
    variants: list[Variant]


def fusion_alone(path: Path) -> bool:
    """What `fusion.trainable` has by default: not the experts, nor the embedding."""
    return not {"text_expert", "code_expert", "embedding"} & set(map(str, path))


def but_embedding(path: Path) -> bool:
    """What `train.expert` trains: its experts read the base's embedding."""
    return "embedding" not in map(str, path)


def feed_forward(path: Path) -> bool:
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

    def tried(
        name: str, start: str, reads: str, steps: int, rates: tuple[float, ...]
    ) -> list[Variant]:
        return [Variant(name, start, reads, steps, rate) for rate in rates]

    def plain(
        build: Build, *variants: list[Variant], trained: Callable[[Path], bool] = everything
    ) -> Part:
        return Part(build, {"": build}, trained, [each for some in variants for each in some])

    def from_scratch(build: Build, name: str, steps: int = BASE_STEPS) -> Part:
        return plain(build, tried(name, "", "mixed", steps, (4e-3, 8e-3, 1.6e-2)))

    def expert(name: str, reads: str, steps: int, start: str = "base") -> list[Variant]:
        return tried(name, start, reads, steps, (1e-3, 2e-3, 4e-3))

    def joined(kind: str, how: str, build: Build, trained: Callable[[Path], bool]) -> Part:
        of_kind = tried(f"{kind}, {how}", kind, "mixed", FUSION_STEPS, (2e-3, 4e-3, 8e-3))
        return Part(build, both | alone, trained, of_kind)

    def further(what: str, steps: int) -> Part:
        name = f"base further, equal {what}"
        return plain(WIDE_HEAD, tried(name, "wide head", "mixed", steps, (2e-3, 4e-3, 8e-3)))

    def wider(what: str, steps: int) -> Part:
        return from_scratch(WIDER, f"wider base, equal {what}", steps)

    return {
        "base": from_scratch(BASE, "base"),
        "LSTM": from_scratch(OF_LSTM, "LSTM"),
        "text-expert": plain(BASE, expert("text expert", "text", of["text"])),
        "code-expert": plain(BASE, expert("code expert", "code", of["code"])),
        "halves": plain(
            BASE,
            expert("half 0", "half 0", experts // 2),
            expert("half 1", "half 1", experts // 2),
        ),
        "domains-all": joined("domains", "all trained", FUSED, everything),
        "domains-all-dropped": joined(
            "domains", "all trained, one left out of some", DROPPING, everything
        ),
        "domains-alone": joined("domains", "fusion alone", FUSED, fusion_alone),
        "halves-all": joined("halves", "all trained", FUSED, everything),
        "text-expert-fixed": plain(
            BASE, expert(f"text expert, {FIXED}", "text", of["text"]), trained=but_embedding
        ),
        "code-expert-fixed": plain(
            BASE, expert(f"code expert, {FIXED}", "code", of["code"]), trained=but_embedding
        ),
        "fixed-all": joined(f"domains, {FIXED}", "all trained", FUSED, everything),
        "fixed-alone": joined(f"domains, {FIXED}", "fusion alone", FUSED, fusion_alone),
        "shorter-base": from_scratch(BASE, SHORTER_BASE, BASE_STEPS - experts),
        "longer-experts": plain(
            BASE,
            *(
                expert(f"{domain} expert, {LONGER}", domain, 2 * steps, SHORTER_BASE)
                for domain, steps in of.items()
            ),
        ),
        "longer-all": joined(f"domains, {LONGER}", "all trained", FUSED, everything),
        "further-tokens": further("tokens", again),
        "further-operations": further("operations", operations // models.forward_flops(WIDE_HEAD)),
        "wider-tokens": wider("tokens", BASE_STEPS + again),
        "wider-operations": wider("operations", all_operations // models.forward_flops(WIDER)),
        "feed-forward": plain(
            BASE,
            tried("text feed-forward", "base", "text", of["text"], (2e-3,)),
            tried("code feed-forward", "base", "code", of["code"], (2e-3,)),
            trained=feed_forward,
        ),
        "routed": plain(
            ROUTED, tried("routed", "routed", "mixed", FUSION_STEPS, (2e-3, 4e-3, 8e-3))
        ),
    }
