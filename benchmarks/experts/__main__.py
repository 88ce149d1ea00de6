"""`python -m benchmarks.experts`: experts, their fusion, and controls of equal cost.

Every result is a file in benchmarks/experts/results/. What is there is not measured again, so after
an interruption the same command goes on. Weights that later parts start from are kept in
runs/experts/. `--corpus` and `--only` name some of the work, for several processes.
"""

import argparse
from pathlib import Path

from benchmarks.experts.corpora import CORPORA
from benchmarks.experts.plan import parts
from benchmarks.experts.run import COUNTED, Laboratory
from train.system.terminal import console

RESULTS = Path(__file__).with_name("results")
STATES = Path("runs/experts")


def main() -> None:
    """Runs what is not done yet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experts", description=__doc__)
    parser.add_argument("--corpus", nargs="*", choices=list(CORPORA), default=list(CORPORA))
    choices = [COUNTED, *parts("demo")]
    parser.add_argument("--only", nargs="*", choices=choices, default=choices, metavar="PART")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (%(default)s)")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    for corpus in arguments.corpus:
        laboratory = Laboratory(corpus, arguments.results, STATES)
        for part in arguments.only:
            if laboratory.result(part).exists():
                continue
            console.print(f"{CORPORA[corpus]}: {part}")
            if part == COUNTED:
                laboratory.count()
            else:
                laboratory.run(part)


if __name__ == "__main__":
    main()
