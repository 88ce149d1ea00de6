"""What docs/worth.md says of experts and their fusion, from the results."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.experts.corpora import CORPORA, DOMAINS
from benchmarks.experts.plan import BATCH, DROP, LENGTH, parts
from benchmarks.experts.run import COUNTED, best, domain_of, result_name
from benchmarks.peers.jobs import read
from benchmarks.peers.page import cell, table

SCORED = (*DOMAINS, "mixed")
PLAN = "domains, all trained"

ABOUT = f"""\
## What experts and their fusion are worth

The plan is trained beside controls, on both corpora of `make stages`. A step has {BATCH} x
{LENGTH} tokens. The base has 128 channels and 4 layers and trains for 2,000 steps, the two
experts together for 800, and their fusion for 600, much as in `configs/hour.yaml`.

| row | what it is |
| --- | --- |
| LSTM | as many parameters as the base, trained as it is |
| domains | two experts, of text and of code, and their fusion |
| halves | the same, but the experts have read two random halves of the documents |
| base further | the base, trained on, with an untied head of twice the width, as the fusion has |
| wider base | a base from scratch, with as many parameters as the fusion |
| routed | experts that differ in their feed-forward layers only, one router in each layer |

*All trained* means that the fusion's steps train the experts too, and *fusion alone* that they
train the fusion layer, the last norm and the head. *One left out of some* leaves out an expert in
{DROP:.0%} of the sequences. *Equal operations* means as many floating-point operations as the
plan's training, where all of the fusion is trained. Each row has the best of its two or three
learning rates, chosen on the validation split.

Figures are nats per token of the test split, as mean and standard deviation of three seeds. Lower
is better. *One alone* is the fusion with only the expert of that domain running, on its own
domain: text, and code. *Against domains* is what a row has more on mixed data than *{PLAN}*, and
in how many of the seeds it has less. *Cost* is the million operations of one token.

- A wider base from scratch, with as many parameters and tokens as the whole plan, beats the plan
  on both corpora in every seed. With as many operations, it is about as good, and so is the base
  that is trained further.
- Experts of domains are better than experts of random halves, in every seed.
- Training the experts in the fusion is better than training the fusion alone.
- Leaving one out in training costs the fusion 0.02, and each expert alone is then better than the
  base on its own domain. Otherwise the code expert alone may be worse than the base.
- The LSTM is better than the base, and the base is better than the 5-gram.

Here an expert trains its embedding too, and a fusion begins with the embedding of the text
expert, or of the first half. `train.expert` leaves the embedding as it is, so that both experts
fit it. That may be better; it is not measured yet.

Train one wider model if you can, and do not split it into experts to save training. Experts are of
use where they exist already, or where only one of them has to run.
"""

_HEADING = ["", "parameters", "cost", "steps", *SCORED, "against domains", "one alone"]


def sections(results: Path) -> list[str]:
    """The part of the page, in Markdown."""
    found = [ABOUT]
    for corpus, title in CORPORA.items():
        counted = read(results, result_name(corpus, COUNTED))
        of_5_gram = [COUNTED, *[""] * 3, *(f"{counted[each]:.3f}" for each in SCORED), "", ""]
        found.append(f"### {title}\n\n{table(_HEADING, [of_5_gram, *_rows(results, corpus)])}")
    return found


def _rows(results: Path, corpus: str) -> Iterator[list[str]]:
    """A row for each variant of each part that was measured."""
    plan = _test(results, corpus, "domains-all", PLAN)["mixed"]
    for part in parts(corpus):
        name = result_name(corpus, part)
        if not (results / f"{name}.json").exists():
            yield [f"{part}: not measured yet", *[""] * (len(_HEADING) - 1)]
            continue
        result = read(results, name)
        for name in dict.fromkeys(variant["name"] for variant in result["variants"]):
            chosen = best(result, name, domain_of(name))
            test = chosen["scores"][""]["test"]
            cost = f"{result['forward_flops'] / 1e6:.1f}"
            sizes = [f"{result['parameters']:,}", cost, str(chosen["steps"])]
            cells = [cell(test[domain]) for domain in SCORED]
            yield [name, *sizes, *cells, _against(test["mixed"], plan), ", ".join(_alone(chosen))]


def _against(losses: list[float], plan: list[float]) -> str:
    """The mean difference of two models' losses by seed, and in how many the first has less."""
    more = [mine - of_plan for mine, of_plan in zip(losses, plan, strict=True)]
    return f"{statistics.mean(more):+.3f} ({sum(each < 0 for each in more)} of {len(more)})"


def _test(results: Path, corpus: str, part: str, name: str) -> dict[str, list[float]]:
    chosen = best(read(results, result_name(corpus, part)), name)
    found: dict[str, list[float]] = chosen["scores"][""]["test"]
    return found


def _alone(variant: dict[str, Any]) -> Iterator[str]:
    for domain in DOMAINS:
        if of_one := variant["scores"].get(f"{domain} alone"):
            yield f"{statistics.mean(of_one['test'][domain]):.3f}"
