"""`python -m benchmarks.stage_gains`: what each stage gains, mean and spread over seeds.

Runs the demo's pipeline on two corpora with three seeds, and writes the tables of docs/stages.md
and the plot beside it. The split of the documents is the same for all seeds. Complete pipelines are
not run again, so after an interruption the same command continues. The first of the six pipelines
is `make demo` itself.
"""

import argparse
import concurrent.futures
import os
import queue
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib.figure

from bridge import replacing_file
from train.pipeline.scores import claims, read_scores
from train.scoring.scoreboard import Scores
from train.system.terminal import console
from train.system.write import write_text


class Corpus(NamedTuple):
    """A corpus: its name for readers, and the settings that select it."""

    title: str
    options: list[str]


CONFIG = "configs/demo.yaml"
SEEDS = (0, 1, 2)
CORPORA = {
    "demo": Corpus("Python's library", []),
    "second": Corpus(
        "Django and SQLAlchemy",
        [
            "--prepare.python_library=false",
            '--prepare.text=["data/raw/second/text"]',
            '--prepare.code=["data/raw/second/code"]',
        ],
    ),
}
SPLIT = "test"


def run_dir(corpus: str, seed: int) -> Path:
    """Where the pipeline of a corpus and a seed lies."""
    return Path(f"runs/{corpus}" + (f"-{seed}" if seed else ""))


def command(corpus: str, seed: int) -> list[str]:
    """The command line of one pipeline."""
    places = [f"--data_dir=data/{corpus}", f"--run_dir={run_dir(corpus, seed)}", f"--seed={seed}"]
    module = [sys.executable, "-m", "train.pipeline", "--config", CONFIG]
    return [*module, *places, *CORPORA[corpus].options]


ABOUT = """\
# What each stage gains, in figures

`make stages` writes this page. A model's loss is given in nats per token: the cross entropy with
the natural logarithm, so lower is better, and 0.01 less is about 1 % less perplexity. Unigram,
bigram and 5-gram only count which tokens follow the 0, 1 or 4 tokens before them. The *continued
base* is the control. [pipeline.md](pipeline.md) explains the other rows.

"""


def table(found: dict[str, list[Scores]]) -> str:
    """Every corpus's mean losses and their standard deviations over the seeds, in Markdown."""
    lines = []
    for corpus, of_seeds in found.items():
        domains = list(of_seeds[0])
        lines += [
            f"**{CORPORA[corpus].title}**, {SPLIT} split, nats per token, mean and standard "
            f"deviation of {len(of_seeds)} seeds:",
            "",
            "| | " + " | ".join(domains) + " |",
            "|---|" + "---|" * len(domains),
        ]
        for name in of_seeds[0][domains[0]]:
            cells = []
            for domain in domains:
                losses = [scores[domain][name].loss for scores in of_seeds]
                spread = f" ± {statistics.stdev(losses):.3f}" if len(losses) > 1 else ""
                cells.append(f"{statistics.mean(losses):.3f}{spread}")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
        for of_one_claim in zip(*map(claims, of_seeds), strict=True):
            margins = [claim.other - claim.loss for claim in of_one_claim]
            held = sum(margin > 0 for margin in margins)
            each = ", ".join(f"{margin:+.4f}" for margin in margins)
            lines.append(
                f"- {of_one_claim[0].text}: {held} of {len(margins)} seeds (margins {each} nats)"
            )
        lines.append("")
    return "\n".join(lines)


def plot(found: dict[str, list[Scores]], path: Path) -> None:
    """One point per seed, for every model, domain and corpus."""
    figure = matplotlib.figure.Figure(figsize=(12, 4.2 * len(found)), layout="constrained")
    grid = figure.subplots(len(found), 3, squeeze=False)
    for row, (corpus, of_seeds) in zip(grid, found.items(), strict=True):
        for axes, domain in zip(row, of_seeds[0], strict=True):
            names = [name for name in of_seeds[0][domain] if "gram" not in name]
            for seed, scores in zip(SEEDS, of_seeds, strict=False):
                losses = [scores[domain][name].loss for name in names]
                axes.plot(losses, range(len(names)), "o", alpha=0.7, label=f"seed {seed}")
            axes.set(
                title=f"{CORPORA[corpus].title}: {domain}",
                xlabel="nats per token (lower is better)",
                yticks=range(len(names)),
            )
            axes.set_yticklabels(names if domain == "text" else [""] * len(names))
            axes.invert_yaxis()
            axes.grid(alpha=0.3)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    with replacing_file(path) as file:
        figure.savefig(file, format="png", dpi=100)


def run_all(jobs: int) -> None:
    """Runs or finishes every pipeline, `jobs` at a time, each on its share of the cores."""
    cores = sorted(os.sched_getaffinity(0))
    shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for job in range(jobs):
        shares.put(cores[job::jobs])

    def run(corpus: str, seed: int) -> None:
        share, folder = shares.get(), run_dir(corpus, seed)
        log = folder.with_name(f"{folder.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        console.print(f"{CORPORA[corpus].title}, seed {seed}: see {log}")
        with log.open("a", encoding="utf-8") as file:
            done = subprocess.run(
                command(corpus, seed),
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: os.sched_setaffinity(0, share),
            )
        shares.put(share)
        if done.returncode:
            raise RuntimeError(f"the pipeline of {folder} failed: see {log}")

    # The corpora alternate: the first pipeline of each prepares the data for the others.
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        runs = [pool.submit(run, corpus, seed) for seed in SEEDS for corpus in CORPORA]
        for each in runs:
            each.result()


def main() -> None:
    """Runs the pipelines that are not complete, and writes docs/stages.md and docs/stages.png."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument(
        "--jobs", type=int, choices=range(1, len(CORPORA) + 1), default=1, help="pipelines at once"
    )
    run_all(parser.parse_args().jobs)
    found = {
        corpus: [read_scores(run_dir(corpus, seed), SPLIT) for seed in SEEDS] for corpus in CORPORA
    }
    text = table(found)
    plot(found, Path("docs/stages.png"))
    write_text(Path("docs/stages.md"), ABOUT + text)
    console.print(text)


if __name__ == "__main__":
    main()
