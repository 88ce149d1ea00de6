"""A stage of training in miniature, in a folder that is thrown away, and what it says of the real.

A few steps, one validation, two saves: all is done by the code of the real run, and timed. What
happens more often there is multiplied.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from train.checkpoints.background_save import BackgroundSave
from train.data.batches import Batch, Windows, check_batch
from train.data.prepared import PreparedData
from train.generation.samples import samples_of
from train.run.memory import check_memory, memory
from train.run.metrics import METRICS, MetricsWriter
from train.run.recorded import cores
from train.run.resume import POSITION, data_position
from train.run.run_folder import describe_run
from train.run.session import NO_STEPS, Session, first_step
from train.scoring.score import score
from train.settings.config import Config, TrainingConfig
from train.stages.stage import Stage
from train.step.trainer import Values

LEAST_STEPS = 3
LEAST_SECONDS = 3.0
"""So many steps are timed, and more for so long, as short ones differ; but no more than a run has.
"""

SCORED = 4
"""Batches that are scored of a split."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a stage in miniature has shown.

    Attributes:
        session: the run in miniature; its folder has a state, a .pt file and metrics.
        seconds: what the real run's training will take, by what takes them.
        score_seconds: for one batch.
        saves: how often the real run saves.
        more_bytes: what its metrics take more.
    """

    session: Session
    seconds: dict[str, float]
    score_seconds: float
    saves: int
    more_bytes: int

    def disk(self) -> dict[str, int]:
        """The bytes in the real run's folder at its end, by what they are."""
        run, training = self.session.run, self.session.trainer.config.training
        newest = max((run / "state").iterdir(), key=lambda path: int(path.name))
        state, file = size_of(newest), self.session.checkpoint_path.stat().st_size
        states = min(self.saves, training.keep_checkpoints)
        files = min(self.saves, training.keep_exports or self.saves)
        rest = size_of(run) - size_of(run / "state")
        rest -= sum(path.stat().st_size for path in run.glob("*.pt"))
        return {
            f"{states} states": states * state,
            f"{files} .pt files": files * file,
            "all else": rest + self.more_bytes,
        }


def measure(config: Config, stage: Stage, run: Path, begun: float) -> Measured:
    """Runs a stage in miniature.

    Args:
        config: the real run's.
        stage: the stage.
        run: a folder that does not exist yet, for what the miniature writes.
        begun: when the real run would have begun; a time of `time.monotonic`.

    Raises:
        UserError: the data or the models before this stage do not fit; or there is no room.
    """
    training = config.training
    check_memory(config.model, memory(), config.mesh.model)
    data = PreparedData(config, stage.name)
    check_batch(config, data.rows)
    start = first_step(config, stage)
    describe_run(config, run, 0, start.trainer.precision)
    session = Session(config, stage, data, run, start, NO_STEPS)
    del start
    miniature = _Miniature(session, config)
    seconds = {"start": time.monotonic() - begun}
    first, _ = _timed(miniature.step)
    with MetricsWriter(run, 0) as metrics:
        opening, _ = _timed(metrics.open_events)
        step, step_work = miniature.steps()
        seconds["compiling"] = max(first - step, 0)
        seconds[f"{training.steps:,} steps"] = training.steps * step
        log, _ = _timed(lambda: metrics.write(1, miniature.values))
        logs = _times(training.steps, training.log_every)
        seconds["logs"] = opening + logs * log
        validations = _times(training.steps, training.validate_every)
        limit = training.validation_batches
        batches = sum(batches_of(windows, training, limit) for windows in data.splits.values())
        first, _ = _timed(miniature.score)
        every = _timed(miniature.score)[0] / miniature.scored
        drawing, _ = _timed(metrics.plot)
        drawing_again, _ = _timed(metrics.plot)
        seconds["validation"] = (
            max(first - every * miniature.scored, 0)
            + drawing
            + validations * batches * every
            + (validations - 1) * drawing_again
        )
        size = (run / METRICS).stat().st_size + size_of(run / "tensorboard")

    if training.sample_every:
        first, _ = _timed(miniature.sample)
        again, _ = _timed(miniature.sample)
        seconds["samples"] = first + (_times(training.steps, training.sample_every) - 1) * again

    saves = _times(training.steps, training.checkpoint_every)
    # With a step beside it, as in the real run, so that the memory for both is counted.
    _, first_work = _timed(lambda: miniature.save(miniature.step))
    last, work = _timed(lambda: miniature.save(lambda: None))
    seconds["saves"] = _save_seconds(saves, max(first_work - step_work, last), work, last)
    more = max(logs - 1, 0) * size + 2 * validations * 60
    return Measured(session, seconds, every, saves, more)


def batches_of(windows: Windows, training: TrainingConfig, limit: int = 0) -> int:
    """How many batches of a split are scored; a limit of 0 takes all."""
    count = math.ceil(len(windows) / training.batch_size)
    return min(count, limit) if limit else count


def size_of(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class _Miniature:
    """What a run does, each thing by itself.

    Attributes:
        values: those of the newest step.
        scored: how many batches `score` scores.
    """

    def __init__(self, session: Session, config: Config) -> None:
        self._session, self._config = session, config
        self._batches: Iterator[Batch] = session.data.batches_without(NO_STEPS)
        self._saving = BackgroundSave()
        self.values: Values = {}
        training, splits = config.training, session.data.splits.values()
        self.scored = sum(batches_of(windows, training, SCORED) for windows in splits)

    def step(self) -> None:
        """One step."""
        session = self._session
        session.state, self.values = session.trainer.step(
            session.state, self._batches, lambda share, loss: None
        )

    def steps(self) -> tuple[float, float]:
        """Some steps; the mean of their seconds, and of their processor time."""
        begun, work, count = time.monotonic(), time.process_time(), 0
        most = max(self._config.training.steps, LEAST_STEPS)
        while count < LEAST_STEPS or time.monotonic() - begun < LEAST_SECONDS:
            self.step()
            count += 1
            if count == most:
                break
        return (time.monotonic() - begun) / count, (time.process_time() - work) / count

    def score(self) -> None:
        """Some batches of each split."""
        data, batch_size = self._session.data, self._config.training.batch_size
        for windows in data.splits.values():
            score(
                self._session.token_losses,
                windows,
                data.tokenizer.token_bytes,
                batch_size,
                SCORED,
            )

    def sample(self) -> None:
        """What is sampled while a run goes on."""
        session = self._session
        model = session.trainer.model_of(session.trainer.devices.here(session.state))
        samples_of(model, session.data.tokenizer, self._config.prompts or [""], self._config)

    def save(self, meanwhile: Callable[[], None]) -> None:
        """A state, with something that is done while it is written."""
        session, step = self._session, int(self._session.state.step)
        metadata = session.metadata | {POSITION: data_position(step, session.data, 1.0, 0)}
        fetched = jax.device_get(session.trainer.devices.here(session.state))
        write = functools.partial(session.write, fetched, 1.0, metadata)
        self._saving.begin(step, write)
        del fetched, write
        meanwhile()
        self._saving.wait()


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """The seconds that something takes, and its processor time."""
    begun, before = time.monotonic(), time.process_time()
    work()
    return time.monotonic() - begun, time.process_time() - before


def _times(steps: int, every: int) -> int:
    """How often a hook is called: after every so many steps, and after the last one."""
    return math.ceil(steps / every)


def _save_seconds(saves: int, first: float, work: float, last: float) -> float:
    """What saves add to a run: all but the last are made beside steps, and share the cores.

    Args:
        saves: how many.
        first: processor time of the first one, which imports torch and Orbax.
        work: that of each later one.
        last: seconds of one that has the machine for itself.
    """
    if saves == 1:
        return first
    share = 1 / (cores() or 1) if jax.default_backend() == "cpu" else 0
    return share * (first + (saves - 2) * work) + last
