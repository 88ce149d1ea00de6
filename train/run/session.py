"""One stage's training run: its data, its folder, and the hooks that the loop calls."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from train.checkpoints import state as checkpoint
from train.checkpoints.language_model import TOKENIZER_DIGEST, file_digest
from train.data.batches import (
    Batch,
    Windows,
    fingerprint,
    padding_share,
    training_batches,
    training_rows,
)
from train.data.folder import TOKENIZER, load_manifest
from train.data.tokenizer import Tokenizer
from train.run.folder import CONFIG, find_run, write_run
from train.run.metrics import MetricsWriter, plot_losses
from train.scoring.score import score
from train.settings.config import Config
from train.stages.stage import Stage
from train.step.loop import Values, train
from train.step.trainer import Trainer, TrainState
from train.system.allocator import keep_freed_memory
from train.system.errors import UserError
from train.system.interrupt import uninterrupted
from train.system.terminal import TrainingProgress, console

POSITION = "position"
"""The entry of a checkpoint's metadata that says where in the data it was."""


class PreparedData:
    """What training reads of a prepared folder.

    Attributes:
        tokenizer: the folder's.
        splits: the validation split of "text" and "code".
        batches: endless training batches, whose position can be read and set.
        padding: the share of padding in them.
        order: identifies the batches' order, see data.fingerprint.
    """

    def __init__(self, config: Config, stage: str) -> None:
        """Opens and checks `config.data_dir`; raises UserError where it does not fit the config."""
        manifest = load_manifest(config.data_dir)
        if manifest.vocab_size != config.model.vocab_size:
            raise UserError(
                f"model.vocab_size is {config.model.vocab_size}, but {config.data_dir} was "
                f"prepared with {manifest.vocab_size}: set it to that, or run python -m "
                "train.prepare again"
            )
        length = config.training.sequence_length
        self.tokenizer = Tokenizer.load(Path(config.data_dir) / TOKENIZER)
        self.splits = {
            domain: Windows(config.data_dir, domain, "validation", length)
            for domain in ("text", "code")
        }
        rows = training_rows(config)
        self.batches = training_batches(config, stage, rows)
        self.padding = padding_share(config, rows)
        self.order = fingerprint(config, manifest, stage)

    def skip(self, count: int) -> None:
        """Sets the training batches to go on after the first `count` of them."""
        self.batches.set_state({"next_index": int(count)})


class Session:
    """A run that can be trained, interrupted and gone on with.

    Attributes:
        run: its folder.
        data: its data.
        trainer: its compiled functions.
        state: its newest state.
        checkpoint_path: the .pt file of the last step.
    """

    def __init__(self, config: Config, stage: Stage, *, resume: bool, overwrite: bool) -> None:
        """Opens the data and the folder, and restores the newest state.

        Args:
            config: the run's.
            stage: what is trained.
            resume: go on with the run that is there.
            overwrite: delete the run that is there.

        Raises:
            UserError: the data, the folder or its states do not allow it.
        """
        keep_freed_memory()
        self._config = config
        self._stage = stage
        self.data = PreparedData(config, stage.name)
        self.run = find_run(config, stage.name, stage.sections, resume=resume, overwrite=overwrite)
        self._loss_sum = 0.0
        saved = checkpoint.steps(self.run) if resume else []
        if saved:
            self._restore(saved[-1])
        else:
            if resume and list(self.run.glob("*.pt")):
                raise UserError(
                    f"{self.run} has .pt files and no saved state to go on from: put its state "
                    "folder back, or choose another run_dir"
                )
            if resume:
                console.print(f"{self.run} has no saved state yet: starting from step 0")
            network = stage.start()
            self.trainer = Trainer(config, network, stage.frozen)
            self.state = self.trainer.initial_state(network)
            tokenizer = file_digest(Path(config.data_dir) / TOKENIZER)
            self._metadata: dict[str, Any] = stage.notes(network) | {TOKENIZER_DIGEST: tokenizer}
        if self.trainer.precision != config.training.precision:
            console.print("this CPU has no products in bfloat16: training in float32")
        write_run(config, self.run, self.trainer.precision, resume=resume)

    @property
    def checkpoint_path(self) -> Path:
        """The .pt file of the run's newest step."""
        return self.run / self._stage.file(int(self.state.step))

    def token_losses(self, batch: Batch) -> npt.NDArray[Any]:
        """Tokens [B, T + 1] -> cross entropies in nats [B, T]."""
        return np.asarray(self.trainer.token_losses(self.state, batch))

    def train(self) -> None:
        """Makes the steps that are left.

        Raises:
            UserError: training diverged.
            KeyboardInterrupt: interrupted; the state is saved.
        """
        training = self._config.training
        start = int(self.state.step)
        tokens = training.accumulation * training.batch_size * training.sequence_length
        if training.packing == "documents":
            console.print(f"whole documents in a row: {self.data.padding:.1%} of it is padding")
            tokens = round(tokens * (1 - self.data.padding))
        self._metrics = metrics = MetricsWriter(self.run, start)
        self._progress = TrainingProgress(start, training.steps, tokens)
        hooks = [
            (1, self._advance),
            (training.log_every, self._log),
            (training.validate_every, self._validate),
            (training.checkpoint_every, self._save),
            (1, lambda *_: metrics.open_events()),
        ]
        with self._progress, self._metrics:
            train(self.trainer, self.state, self.data.batches, hooks, self._save, self._progress)
            if not self.checkpoint_path.exists():  # a finished run that has lost it
                self._save(self.state, {})

    def _restore(self, step: int) -> None:
        with uninterrupted():
            saved = checkpoint.restore(self.run, step)
        if not (self.run / CONFIG).exists():  # imported, and not trained here yet
            checkpoint.check_training(self._config, saved)
        checkpoint.check_model(self._config.model, saved.model)
        network = self._stage.resumed(saved)
        self.trainer = Trainer(self._config, network, self._stage.frozen)
        self.state = checkpoint.state_of(self.trainer, dataclasses.replace(saved, model=network))
        self._metadata = dict(saved.metadata)
        position = self._metadata.pop(POSITION, None)
        if not isinstance(position, dict) or position.get("step") != step or not step:
            # Of another program, or older than what was trained elsewhere since, or a new
            # beginning: the first data of this order count as seen.
            self.data.skip(step * self._config.training.accumulation)
            self._loss_sum = saved.avg_loss * step
        else:
            self._go_to(position)
        console.print(f"going on from step {step}")

    def _go_to(self, position: Any) -> None:
        try:
            order, batches, loss_sum = (position[key] for key in ("order", "batches", "loss_sum"))
            if order == self.data.order:
                self.data.skip(batches["next_index"])
            self._loss_sum = float(loss_sum)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                "the checkpoint's metadata.position is not what training writes"
            ) from error
        if order != self.data.order:
            raise UserError(
                f"{self._config.data_dir} is not what {self.run} was trained on: prepare the same "
                "data again to resume, or choose another run_dir"
            )

    def _advance(self, state: TrainState, values: Values) -> None:
        self.state = state
        self._loss_sum += values["loss"]

    def _log(self, state: TrainState, values: Values) -> None:
        rate = self._progress.tokens_per_second
        record = {**values, "tokens_per_second": rate} if rate else values
        self._progress.report(values["loss"])
        self._metrics.write(int(state.step), record)

    def _validate(self, state: TrainState, values: Values) -> None:
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
            self._metrics.write(step, {f"loss/{domain}": result.loss})
            console.print(
                f"step {step}  validation, {domain}: loss {result.loss:.4f}, "
                f"{result.bits_per_byte:.4f} bits/byte"
            )
        plot_losses(self.run)
        self._progress.paused()

    def _save(self, state: TrainState, values: Values) -> None:
        position = {
            "step": int(state.step),
            "order": self.data.order,
            "batches": self.data.batches.get_state(),
            "loss_sum": self._loss_sum,
        }
        content = checkpoint.checkpoint_of(
            self.trainer,
            state,
            avg_loss=self._loss_sum / int(state.step),
            metadata=self._metadata | {POSITION: position},
        )
        content = dataclasses.replace(content, model=self._stage.saved(content.model))
        # The state last: what a run that is killed before it has written is written again.
        self._metrics.sync()
        checkpoint.export_torch(self.checkpoint_path, content)
        checkpoint.save(self.run, content, self._config.training.keep_checkpoints)
        self._progress.paused()
