"""`python -m benchmarks.saving`: the share of training time that a save every 50 steps takes.

A run saves after every 100 steps: the 50 steps from a save on are compared with the 50 after them,
pair by pair, as other programs slow both down. The first save is left out, for which libraries are
imported. A pair's difference is often mere noise, so the processor time of a save by itself is
measured too. The options are those of the config. It prints one line of JSON.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from train.checkpoints import run_states
from train.checkpoints.state import checkpoint_of
from train.data.batches import Batch
from train.run.session import Session, open_session
from train.settings.cli import parse_config
from train.stages.base import BaseStage
from train.step.trainer import TrainState, Values
from train.system.terminal import console

BETWEEN = 50
PAIRS = 8
ALONE = 5
"""How many saves are made while no step is."""


def main(argv: list[str]) -> None:
    """Trains and times every step; the machine may have no more than two cores for all."""
    options = {
        "training.steps": 2 * BETWEEN * (PAIRS + 2),
        "training.checkpoint_every": 2 * BETWEEN,
        "training.validate_every": 2 * BETWEEN * (PAIRS + 2),
        "training.keep_checkpoints": 1,
        "training.keep_exports": 1,
        "optimizer.warmup_steps": BETWEEN,
    }
    config = parse_config([*argv, *(f"--{key}={value}" for key, value in options.items())], "")
    stage = BaseStage(config)
    session = open_session(config, stage, resume=False, overwrite=True)
    make = session.trainer.step
    begun: list[tuple[float, float]] = []
    written: dict[int, int] = {}

    def timed(state: TrainState, batches: Iterator[Batch], note: Any) -> tuple[TrainState, Values]:
        made = len(begun)
        newest = made - made % (2 * BETWEEN)
        if newest not in written and (session.run / stage.file(newest)).exists():
            written[newest] = made - newest
        begun.append((time.perf_counter(), time.process_time()))
        return make(state, batches, note)

    session.trainer.step = timed  # type: ignore[method-assign]
    console.quiet = True
    session.train()
    saves = [2 * BETWEEN * (index + 2) for index in range(PAIRS)]
    result: dict[str, Any] = {}
    for index, name in enumerate(("seconds", "processor_seconds")):
        pairs = [
            (
                begun[save - 1 + BETWEEN][index] - begun[save - 1][index],
                begun[save - 1 + 2 * BETWEEN][index] - begun[save - 1 + BETWEEN][index],
            )
            for save in saves
        ]
        result[name] = statistics.median(without for _, without in pairs)
        shares = [of_save / without - 1 for of_save, without in pairs]
        result[f"share_of_{name}"] = statistics.median(shares)
        result[f"shares_of_{name}"] = shares
    result["processor_seconds_of_a_save"] = alone = _alone(session)
    result["share_of_a_save_alone"] = alone / result["processor_seconds"]
    result["steps_until_written"] = max(written.get(save, 2 * BETWEEN) for save in saves)
    print(json.dumps(result))


def _alone(session: Session) -> float:
    """The processor time of a save, the median of a few that are made while no step is."""
    taken = []
    for _ in range(ALONE):
        with tempfile.TemporaryDirectory(dir=session.run) as folder:
            run, begun = Path(folder), time.process_time()
            content = checkpoint_of(session.trainer, jax.device_get(session.state), 0.0, {})
            run_states.save(run, content, keep=1)
            run_states.export_torch(run / "saved.pt", content)
            taken.append(time.process_time() - begun)
    return statistics.median(taken)


if __name__ == "__main__":
    main(sys.argv[1:])
