"""The training run of one stage, from its start to its last step; the loop calls its hooks."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from bridge import TOKENIZER_DIGEST, file_digest
from train.checkpoints import run_states
from train.checkpoints.background_save import BackgroundSave
from train.checkpoints.language_model import stage_folder
from train.checkpoints.state import checkpoint_of
from train.data.batches import Batch, check_batch
from train.data.data_folder import TOKENIZER
from train.data.prepared import PreparedData
from train.generation.samples import print_samples, samples_of
from train.run.header import print_header
from train.run.memory import check_memory, memory
from train.run.metrics import MetricsWriter, NoMetrics, read_metrics
from train.run.resume import (
    POSITION,
    Added,
    Plan,
    StartingPoint,
    check_may_resume,
    data_position,
    restore_newest,
)
from train.run.run_folder import (
    check_may_begin,
    check_still_there,
    delete_run,
    describe_run,
    identity_of,
)
from train.run.tracker import check_tracker
from train.run.watch import Watch
from train.scoring.score import score
from train.settings.config import Config
from train.settings.paths import CONFIG
from train.stages.stage import Stage
from train.step.loop import Hook, train
from train.step.trainer import Trainer, TrainState, Values
from train.system import processes
from train.system.allocator import keep_freed_memory
from train.system.errors import ResumableError, UserError
from train.system.terminal import TrainingProgress, console
from train.system.watchdog import Watchdog

_MOST_SKIPPED = 3
"""Steps that may be skipped one after the other; so many are no accident."""

NO_STEPS = range(0)


def open_session(
    config: Config,
    stage: Stage,
    *,
    resume: bool,
    overwrite: bool,
    left_out: range = NO_STEPS,
    added: Added | None = None,
) -> "Session":
    """Starts or resumes a run; `Session.train` then makes the next step.

    Args:
        config: the run's config; the number of steps of a run that was extended is its own.
        stage: what to train.
        resume: resume the run in the folder, from its newest state.
        overwrite: delete the run in the folder, after all checks of the new one.
        left_out: the steps whose data are left out.
        added: the steps that the run is extended by.

    Raises:
        UserError: the data, the folder or its states do not allow it.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other: give one of them")
    keep_freed_memory()
    check_tracker(config.training.tracker)
    run = stage_folder(config, stage.name)
    plan, given = Plan(config), config.training.steps
    if resume:
        plan = check_may_resume(config, run, stage.sections, added)
        config = plan.config
    else:
        processes.by_first(lambda: check_may_begin(run, overwrite=overwrite))
    print_header(config, stage, run)
    check_memory(config.model, memory(), config.mesh.model)
    data = PreparedData(config, stage.name)
    check_batch(config, data.rows)
    start = restore_newest(plan, stage, data, run) if resume else None
    start = start or first_step(config, stage)
    step, precision = int(start.state.step), start.trainer.precision
    processes.check_same(
        {
            "steps": step,
            "data": data.order,
            "precision": precision,
            "weights or moments": _checksum(start.state),
        }
    )
    if not resume:
        processes.by_first(lambda: delete_run(run))
    if precision != config.training.precision:
        console.print("this CPU cannot multiply in bfloat16: training in float32")
    processes.by_first(lambda: describe_run(config, run, step, precision, plan.added))
    if config.training.steps != given:
        console.print(
            f"training.steps: the {config.training.steps} of {run / CONFIG} hold, as the run was "
            f"extended; the config given still says {given}"
        )
    return Session(config, stage, data, run, start, left_out)


def _checksum(state: TrainState) -> int:
    """What differs where two states do; 0 for one process, which needs none."""
    total = 0
    for array in jax.tree.leaves(state) if processes.count() > 1 else ():
        total = zlib.crc32(np.asarray(array).tobytes(), total)
    return total


def first_step(config: Config, stage: Stage) -> StartingPoint:
    """Where a run begins that is not resumed."""
    model = stage.start()
    trainer = Trainer(config, model, stage.frozen)
    tokenizer = file_digest(Path(config.data_dir) / TOKENIZER)
    metadata = stage.notes(model) | {TOKENIZER_DIGEST: tokenizer}
    return StartingPoint(trainer, trainer.initial_state(model), 0.0, metadata)


class Session:
    """A run that can be trained and, when it is interrupted, resumed later.

    Attributes:
        run: its folder.
        data: its data.
        trainer: its compiled functions.
        state: its newest state.
        metadata: the metadata of all of its checkpoints, without the position in the data.
    """

    def __init__(
        self,
        config: Config,
        stage: Stage,
        data: PreparedData,
        run: Path,
        start: StartingPoint,
        left_out: range,
    ) -> None:
        """See `open_session`."""
        self._config = config
        self._stage = stage
        self.data = data
        self.run = run
        self._identity = identity_of(run)
        self.trainer, state, self._loss_sum, self.metadata, self._skipped, self._from_state = start
        self.state = self.trainer.devices.cut(state)
        self._left_out = left_out
        self._watchdog = Watchdog(config.training.hang_seconds)
        self._saving = BackgroundSave(self._watchdog.done_some)
        self._tried: list[int] = []  # with the data of which steps, since the last step was made
        self._bad_batches: list[int] = []

    @property
    def checkpoint_path(self) -> Path:
        """The .pt file of the run's newest step."""
        return self.run / self._stage.file(int(self.state.step))

    def token_losses(self, batch: Batch) -> npt.NDArray[Any]:
        """A batch -> the cross entropy of each label in nats [B, T]."""
        batch = self.trainer.devices.same_rows(batch)
        losses = np.asarray(self.trainer.token_losses(self.state, batch))
        self._watchdog.done_some()
        return losses

    def train(self, later_tokens: float | None = None) -> None:
        """Makes all remaining steps.

        Args:
            later_tokens: what later stages take, see `TrainingProgress`.

        Raises:
            UserError: training diverged, or several steps in a row were skipped.
            KeyboardInterrupt: interrupted; the state is saved.
        """
        training = self._config.training
        start = int(self.state.step)
        tokens = training.accumulation * training.batch_size * training.sequence_length
        if training.packing == "documents":
            console.print(f"sequences hold whole documents: {self.data.padding:.1%} is padding")
            tokens = round(tokens * (1 - self.data.padding))
        metrics: MetricsWriter = NoMetrics()
        if processes.is_first():
            metrics = MetricsWriter(self.run, start, training.tracker)
        self._watch = Watch(read_metrics(self.run))
        progress = TrainingProgress(start, training.steps, tokens, later_tokens)
        save = functools.partial(self._save, metrics, progress)
        hooks: list[tuple[int, Hook]] = [
            (1, lambda *_: self._saving.check()),
            (1, self._advance),
            (training.log_every, functools.partial(self._log, metrics, progress)),
            (training.validate_every, functools.partial(self._validate, metrics, progress)),
            *self._sampling(metrics, progress),
            (training.checkpoint_every, save),
            (1, lambda *_: metrics.open_events()),
        ]
        # Killed before it was written, or lost; or the state is, and a .pt file was read.
        missing = [not (self.checkpoint_path.exists() and self._from_state)]
        with progress, metrics, self._watchdog:
            if start and processes.gathered(missing)[0, 0]:
                save(self.state, {})
            batches = self.data.batches_without(self._left_out)
            others = (save, self._skip, progress, self._watchdog, self._saving.wait)
            train(self.trainer, self.state, batches, hooks, *others)

    def _advance(self, state: TrainState, values: Values) -> None:
        self.state = state
        self._loss_sum += values["loss"]
        self._tried, self._bad_batches = [], []
        for warning in self._watch.look(int(state.step), values):
            console.print(warning)

    def _skip(self, state: TrainState, values: Values, losses: Sequence[float]) -> None:
        """Counts a step whose loss or gradient is not finite, and ends the run after several."""
        self.state = state
        self._skipped += 1
        read, count = self.data.position, len(losses)
        self._tried.append(read // count)
        wrong = [index for index, loss in enumerate(losses) if not math.isfinite(loss)]
        self._bad_batches += [read - count + index for index in wrong or range(count)]
        step = int(state.step) + 1
        found = f"loss {values['loss']:.4g}, gradient norm {values['grad_norm']:.4g}"
        if len(self._tried) < _MOST_SKIPPED:
            console.print(f"step {step}: {found}: skipped, and made with the next data")
            return
        steps = f"{self._tried[0]}-{self._tried[-1]}"
        raise ResumableError(
            f"step {step} was tried {len(self._tried)} times, with the data of steps {steps}, and "
            f"its loss or gradient was never finite ({found}); these data are "
            f"{self.data.documents(self._bad_batches)}",
            f" and --skip-steps {steps}, or with a lower optimizer.learning_rate",
        )

    def _log(
        self, metrics: MetricsWriter, progress: TrainingProgress, state: TrainState, values: Values
    ) -> None:
        rate = progress.tokens_per_second
        record = values | {"skipped_steps": self._skipped}
        progress.report(values["loss"])
        metrics.write(int(state.step), record | ({"tokens_per_second": rate} if rate else {}))

    def _validate(
        self, metrics: MetricsWriter, progress: TrainingProgress, state: TrainState, values: Values
    ) -> None:
        training = self._config.training
        step = int(state.step)
        for domain, windows in self.data.splits.items():
            result = score(
                self.token_losses,
                windows,
                self.data.tokenizer.token_bytes,
                training.batch_size,
                training.validation_batches,
            )
            metrics.write(step, {f"loss/{domain}": result.loss})
            # The table at the end is of the whole split, and its figures are others.
            split = len(windows) * windows.length
            part = "all" if result.tokens == split else f"{result.tokens:,} of"
            console.print(
                f"step {step}  validation, {domain}: {result.loss:.4f} nats/token, "
                f"{result.bits_per_byte:.4f} bits/byte (on {part} {split:,} tokens)"
            )
        metrics.plot()
        progress.paused()

    def _sampling(
        self, metrics: MetricsWriter, progress: TrainingProgress
    ) -> list[tuple[int, Hook]]:
        every = self._config.training.sample_every
        return [(every, functools.partial(self._sample, metrics, progress))] if every else []

    def _sample(
        self, metrics: MetricsWriter, progress: TrainingProgress, state: TrainState, values: Values
    ) -> None:
        state = self.trainer.devices.here(state)
        if processes.is_first():
            model, config = self.trainer.model_of(state), self._config
            found = samples_of(model, self.data.tokenizer, config.prompts or [""], config)
            print_samples(found, f"step {int(state.step)}  ")
            metrics.write_texts(int(state.step), {f"sample/{p}": p + t for p, t in found.items()})
        self._watchdog.done_some()
        progress.paused()

    def _save(
        self, metrics: MetricsWriter, progress: TrainingProgress, state: TrainState, values: Values
    ) -> None:
        self._saving.wait()  # and then there is room for one copy of the state
        step = int(state.step)
        position = data_position(step, self.data, self._loss_sum, self._skipped)
        metadata = self.metadata | {POSITION: position}
        state = self.trainer.devices.here(state)
        if not processes.is_first():
            return
        metrics.sync()
        # A copy: the next steps leave it as it is.
        fetched = jax.device_get(state)
        write = functools.partial(self.write, fetched, self._loss_sum / step, metadata)
        self._saving.begin(step, write)
        progress.paused()

    def write(self, state: TrainState, avg_loss: float, metadata: dict[str, Any]) -> None:
        """Writes a state that was fetched; in a thread, so it reads nothing that steps change."""
        training, stage = self._config.training, self._stage
        check_still_there(self.run, self._identity)
        content = checkpoint_of(self.trainer, state, avg_loss, metadata)
        content = dataclasses.replace(content, model=stage.saved(content.model))
        run_states.check_space(self.run, content)
        # If the run is killed between the two, its next start writes the .pt file.
        run_states.save(self.run, content, training.keep_checkpoints)
        run_states.export_torch(self.run / stage.file(content.step), content)
        run_states.remove_exports(
            self.run, stage.checkpoint_name, content.step, training.keep_exports
        )
        check_still_there(self.run, self._identity)  # a save makes folders that are missing
