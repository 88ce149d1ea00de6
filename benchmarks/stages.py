"""`python -m benchmarks.stages`: what each stage of the plan gains, as mean and spread over seeds.

Runs the demo's pipeline on two corpora with three seeds, and draws up the table of docs/stages.md
and the plot beside it. The split of the documents is the same for all seeds. What is complete is
not run again, so an interrupted command goes on; the first of the six is `make demo` itself.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib.figure
import rich.console

from train.products import claims, read_scores
from train.run_folder import write_text
from train.scoreboard import Scores


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

console = rich.console.Console(soft_wrap=True, highlight=False)


def run_dir(corpus: str, seed: int) -> Path:
    """Where the pipeline of a corpus and a seed lies."""
    return Path(f"runs/{corpus}" + (f"-{seed}" if seed else ""))


def command(corpus: str, seed: int) -> list[str]:
    """The command line of one pipeline."""
    places = [f"--data_dir=data/{corpus}", f"--run_dir={run_dir(corpus, seed)}", f"--seed={seed}"]
    module = [sys.executable, "-m", "train.pipeline", "--config", CONFIG]
    return [*module, *places, *CORPORA[corpus].options]


def table(found: dict[str, list[Scores]]) -> str:
    """Every corpus's mean losses and their standard deviations over the seeds, in Markdown."""
    lines = []
    for corpus, of_seeds in found.items():
        domains = list(of_seeds[0])
        lines += [
            f"**{CORPORA[corpus].title}**, {SPLIT} split, nats a token, mean and standard "
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
        for at, (claim, _, _) in enumerate(claims(of_seeds[0])):
            margins = [other - loss for _, loss, other in (claims(each)[at] for each in of_seeds)]
            held = sum(margin > 0 for margin in margins)
            each = ", ".join(f"{margin:+.4f}" for margin in margins)
            lines.append(f"- {claim}: {held} of {len(margins)} seeds (margins {each} nats)")
        lines.append("")
    return "\n".join(lines)


def plot(found: dict[str, list[Scores]], path: Path) -> None:
    """A point a seed, for every model, domain and corpus."""
    figure = matplotlib.figure.Figure(figsize=(12, 4.2 * len(found)), layout="constrained")
    grid = figure.subplots(len(found), 3, squeeze=False)
    for row, (corpus, of_seeds) in zip(grid, found.items(), strict=True):
        for axes, domain in zip(row, of_seeds[0], strict=True):
            names = [name for name in of_seeds[0][domain] if "gram" not in name]
            for scores in of_seeds:
                axes.plot([scores[domain][name].loss for name in names], range(len(names)), "o")
            axes.set(
                title=f"{CORPORA[corpus].title}: {domain}",
                xlabel="nats a token",
                yticks=range(len(names)),
            )
            axes.set_yticklabels(names if domain == "text" else [""] * len(names))
            axes.invert_yaxis()
            axes.grid(alpha=0.3)
    partial = path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=100)
    os.replace(partial, path)


def main() -> None:
    """Runs what is left to run, and writes docs/stages.md and docs/stages.png."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--table", action="store_true", help="only draw up what is there")
    options = parser.parse_args()
    found: dict[str, list[Scores]] = {}
    for corpus in CORPORA:
        for seed in SEEDS:
            if not options.table:
                console.rule(f"{CORPORA[corpus].title}, seed {seed}")
                if subprocess.run(command(corpus, seed)).returncode:
                    sys.exit(f"the pipeline of {run_dir(corpus, seed)} failed")
            found.setdefault(corpus, []).append(read_scores(run_dir(corpus, seed), SPLIT))
    text = table(found)
    plot(found, Path("docs/stages.png"))
    write_text(Path("docs/stages.md"), text)
    console.print(text)


if __name__ == "__main__":
    main()
