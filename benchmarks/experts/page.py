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
experts together for 800, and their fusion for 600. `configs/hour.yaml` is similar, but its
experts leave the base's embedding as it is, as in the rows with a *fixed embedding*. In the others
they train it, and a fusion begins with the embedding of the text expert, or of the first half.

| row | what it is |
| --- | --- |
| LSTM | as many parameters as the base, trained as it is |
| domains | two experts, of text and of code, and their fusion |
| halves | the same, but the experts have read two random halves of the documents |
| base further | the base, trained on, with an untied head of twice the width, as the fusion has |
| wider base | a base from scratch, with as many parameters as the fusion |
| longer experts | experts of twice as many steps, after a base that is shorter by as many |
| routed | experts that differ in their feed-forward layers only, one router in each layer |

*All trained* means that the fusion's steps train the experts too, and *fusion alone* that they
train the fusion layer, the last norm and the head. *One left out of some* leaves out an expert in
{DROP:.0%} of the sequences. *Equal operations* means as many floating-point operations as the
plan's training, with all of the fusion trained. *Equal tokens* takes the wider base 1.9 times the
plan's operations.

Figures are nats per token of the test split, as mean and standard deviation of three seeds. Lower
is better. *One alone* is the fusion with only the expert of that domain running, on its own
domain: text, and code. *Against domains* is how much higher a row's loss on mixed data is than
that of *{PLAN}*, and in how many of the seeds it is lower. *Cost* is the million operations of
one token. A sixth of the base's are products with an empty memory, which change nothing.

Each row has the best of its one to three learning rates, chosen on the validation split. Often the
best is the lowest or the highest that was tried, so a wider search may lower some rows by a
hundredth or so. The plan has three warm-ups, the base further two, and the others one.

- With as many operations, the base that is trained further and a wider base from scratch are as
  good as the plan on Python's library, and 0.010 and 0.008 better on the other corpus. The base has
  38 % fewer parameters. The plan beats it only with equal tokens, by 0.007 and 0.010.
- With as many tokens, the wider base is better by 0.074 and 0.148, in every seed.
- So the fusion does not beat the best of its controls. The goal was to beat it by 0.02.
- The fusion of experts of domains is better than that of random halves, by 0.020 and 0.033, in
  every seed.
- Experts that leave the base's embedding as it is make no better fusion: with all of it trained
  it is 0.009 and 0.003 worse, and with the fusion alone 0.001 and 0.005 better. So the embedding is
  not what holds the plan back. Such experts stay better in the other's domain.
- Longer experts after a shorter base make a worse fusion, by 0.018 and 0.014.
- Training the experts in the fusion is better than training the fusion alone, by 0.066 and 0.058.
- Leaving one expert out in training costs the fusion about 0.02. Each expert alone is then better
  than the base on its own domain, in every seed. Without that, the code expert alone is 0.073 worse
  than the base on Python's library.
- The LSTM is better than the base, by 0.065 and 0.091. The base is better than the 5-gram, by 0.45
  and 0.12.
- `configs/hour.yaml` itself, run whole on a GPU with one seed, is below the 5-gram on text, code
  and mixed data of both corpora, by `train.evaluate` on the test split. On Python's library the
  5-gram has 3.698 on mixed data, the base 3.265, the continued base 3.191, and the fusion 3.159. On
  the other corpus they have 2.819, 2.691, 2.603 and 2.581. Its base, trained on two cores of a CPU
  in 25 minutes, has 3.251 on Python's library.

Differences are of the losses before rounding.

Train one model instead of experts. One expert of a fusion alone costs as much as the base that is
trained further, and is worse on its own domain: by 0.02 to 0.08 if one was left out in training,
else by 0.08 to 0.17. Use experts if you have them already.
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
    plan = _plan(results, corpus)
    for part, planned in parts(corpus).items():
        names = list(dict.fromkeys(variant.name for variant in planned.variants))
        of_part = result_name(corpus, part)
        if not (results / f"{of_part}.json").exists():
            yield [f"{names[0]}: not measured yet", *[""] * (len(_HEADING) - 1)]
            continue
        result = read(results, of_part)
        for name in names:
            chosen = best(result, name, domain_of(name))
            test = chosen["scores"][""]["test"]
            cost = f"{result['forward_flops'] / 1e6:.1f}"
            sizes = [f"{result['parameters']:,}", cost, str(chosen["steps"])]
            cells = [cell(test[domain]) for domain in SCORED]
            against = _against(test["mixed"], plan) if plan else ""
            alone = ", ".join(_alone(chosen)) if name.startswith("domains") else ""
            yield [name, *sizes, *cells, against, alone]


def _against(losses: list[float], plan: list[float]) -> str:
    """The mean difference of two models' losses by seed, and in how many the first has less."""
    more = [mine - of_plan for mine, of_plan in zip(losses, plan, strict=True)]
    return f"{statistics.mean(more):+.3f} ({sum(each < 0 for each in more)} of {len(more)})"


def _plan(results: Path, corpus: str) -> list[float]:
    """The plan's losses on mixed data by seed; empty if they were not measured."""
    part = result_name(corpus, "domains-all")
    if not (results / f"{part}.json").exists():
        return []
    found: list[float] = best(read(results, part), PLAN)["scores"][""]["test"]["mixed"]
    return found


def _alone(variant: dict[str, Any]) -> Iterator[str]:
    for domain in DOMAINS:
        if of_one := variant["scores"].get(f"{domain} alone"):
            yield f"{statistics.mean(of_one['test'][domain]):.3f}"
