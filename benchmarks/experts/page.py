"""What docs/worth.md says of experts and their fusion, from the results."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.experts.corpora import CORPORA, DOMAINS
from benchmarks.experts.plan import BATCH, DROP, LENGTH, parts
from benchmarks.experts.run import COUNTED, best, domain_of, read, result_file

ABOUT = f"""\
## What experts and their fusion are worth

The plan is trained beside controls, on both corpora of `make stages`. A step has {BATCH} x {LENGTH}
tokens. The base has 128 channels and 4 layers and trains for 800 steps, the two experts together
for 400, and their fusion for 400.

| row | what it is |
| --- | --- |
| domains | two experts, of text and of code, and their fusion |
| halves | the same, but the experts have read two random halves of the documents |
| base further | the base, trained on, with an untied head of twice the width, as the fusion has |
| wider base | a base from scratch, with as many parameters as the fusion |
| routed | experts that differ in their feed-forward layers only, one router in each layer |

*All trained* means that the fusion's steps train the experts too, and *fusion alone* that they
train the fusion layer, the last norm and the head. *One left out of some* leaves out an expert in
{DROP:.0%} of the sequences. *Long* experts have 600 steps, and their fusion 200. *Equal operations*
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
        counted = read(result_file(results, corpus, COUNTED))
        of_5_gram = [COUNTED, *[""] * 3, *(f"{counted[each]:.3f}" for each in SCORED), ""]
        rows = [" | ".join(["---"] * len(_HEADING)), " | ".join(of_5_gram)]
        rows += _rows(results, corpus)
        lines = [" | ".join(_HEADING), *rows]
        found.append(f"### {title}\n\n" + "".join(f"| {line} |\n" for line in lines))
    return found


def _rows(results: Path, corpus: str) -> Iterator[str]:
    """A row for each variant of each part that was measured."""
    for part in parts(corpus):
        path = result_file(results, corpus, part)
        if not path.exists():
            yield " | ".join([f"{part}: not measured yet", *[""] * (len(_HEADING) - 1)])
            continue
        result = read(path)
        for name in dict.fromkeys(variant["name"] for variant in result["variants"]):
            chosen = best(result, name, domain_of(name))
            test = chosen["scores"][""]["test"]
            cells = [_cell(test[domain]) for domain in SCORED]
            cost = f"{result['forward_flops'] / 1e6:.1f}"
            count = f"{result['parameters']:,}"
            alone = ", ".join(_alone(chosen))
            yield " | ".join([name, count, cost, str(chosen["steps"]), *cells, alone])


def _alone(variant: dict[str, Any]) -> Iterator[str]:
    for domain in DOMAINS:
        if of_one := variant["scores"].get(f"{domain} alone"):
            yield f"{statistics.mean(of_one['test'][domain]):.3f}"


def _cell(losses: list[float]) -> str:
    return f"{statistics.mean(losses):.3f} ± {statistics.stdev(losses):.3f}"
