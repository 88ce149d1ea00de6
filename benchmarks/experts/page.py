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

ABOUT = f"""\
## What experts and their fusion are worth

The plan is trained beside controls, on both corpora of `make stages`. A step has {BATCH} x {LENGTH}
tokens. The base has 128 channels and 4 layers and trains for 2,000 steps, the two experts together
for 800, and their fusion for 600: the plan of `configs/hour.yaml`.

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
{DROP:.0%} of the sequences. *Equal operations*
means as many floating-point operations as the plan's training, where all of the fusion is trained.
Each row has the best of its learning rates, chosen on the validation split.

Figures are nats per token of the test split, as mean and standard deviation of three seeds. Lower
is better. *One alone* is the fusion with only the expert of that domain running, on its own domain:
text, and code. *Cost* is the million operations of one token.
"""

SCORED = (*DOMAINS, "mixed")

_HEADING = ["", "parameters", "cost", "steps", *SCORED, "one alone"]


def sections(results: Path) -> list[str]:
    """The part of the page, in Markdown."""
    found = [ABOUT]
    for corpus, title in CORPORA.items():
        counted = read(results, result_name(corpus, COUNTED))
        of_5_gram = [COUNTED, *[""] * 3, *(f"{counted[each]:.3f}" for each in SCORED), ""]
        found.append(f"### {title}\n\n{table(_HEADING, [of_5_gram, *_rows(results, corpus)])}")
    return found


def _rows(results: Path, corpus: str) -> Iterator[list[str]]:
    """A row for each variant of each part that was measured."""
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
            yield [name, *sizes, *cells, ", ".join(_alone(chosen))]


def _alone(variant: dict[str, Any]) -> Iterator[str]:
    for domain in DOMAINS:
        if of_one := variant["scores"].get(f"{domain} alone"):
            yield f"{statistics.mean(of_one['test'][domain]):.3f}"
