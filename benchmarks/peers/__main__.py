"""`python -m benchmarks.peers`: MM-Rec and its peers on two corpora, at two sizes.

Every result is a file in benchmarks/peers/results/. What is there is not measured again, so after
an interruption the same command goes on. `--only` names some of the jobs, so that several processes
can share the work.
"""

import argparse
from pathlib import Path

from benchmarks.peers import models
from benchmarks.peers.jobs import MEASURES, all_jobs, plan_of, run
from benchmarks.peers.training import Plan
from train.system.terminal import console
from train.system.write import write_json

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    """Runs what is not done yet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (%(default)s)")
    choices = [*MEASURES, *all_jobs()]
    parser.add_argument("--only", nargs="*", choices=choices, default=choices, metavar="JOB")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        path = arguments.results / f"{name}.json"
        if path.exists():
            continue
        if name in MEASURES:
            write_json(path, MEASURES[name]())
            continue
        job = all_jobs()[name]
        with models.changed(job.model):
            found = run(job, plan_of(job, arguments.results))
        write_json(path, found)
        bits = found["test"][str(Plan.length)]["bits_per_byte"]
        console.print(name, found["validation_loss"], *(f"{each:.4f}" for each in bits))


if __name__ == "__main__":
    main()
