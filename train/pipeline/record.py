"""Records which stages of a pipeline are complete, and their settings and inputs.

A stage's identity is its settings and the results of the stages before it. pipeline.json has the
identity of every stage that was started, and a digest of its result when it is complete: that of
the weights and moments in its last state. So a result is never used for settings that it was not
made with.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge import MANIFEST, file_digest, state_folder, steps
from train.checkpoints.language_model import stage_folder
from train.checkpoints.run_states import content_digest, is_whole, remove_unfinished
from train.data import data_folder, token_files
from train.data.batches import Windows
from train.pipeline.ahead import later_tokens
from train.preparation import listing
from train.preparation.prepare_data import prepare
from train.run.recorded import STEPS, recorded_settings
from train.run.run_folder import check_writable, delete_run
from train.run.session import NO_STEPS, open_session
from train.settings.compare import WITHOUT_EFFECT, changes, flat, with_defaults
from train.settings.config import Config
from train.settings.paths import CONFIG
from train.settings.pipeline_config import PipelineConfig
from train.stages.all_stages import STAGES
from train.system.errors import UserError
from train.system.terminal import console
from train.system.write import refuse_link, write_json

RECORD = "pipeline.json"

_INPUTS = {
    "base": ("prepare",),
    "text": ("prepare", "base"),
    "code": ("prepare", "base"),
    "fusion": ("prepare", "base", "text", "code"),
    "continued": ("prepare", "base"),
    "evaluate": ("prepare", *STAGES),
    "samples": ("prepare", *STAGES),
    "export": ("prepare", *STAGES, "evaluate", "samples"),
}

Identity = dict[str, Any]

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


class PipelineRecord:
    """What a pipeline has done so far, and what is left to do."""

    def __init__(
        self, config: PipelineConfig, *, overwrite: bool, left_out: range = NO_STEPS
    ) -> None:
        """Reads pipeline.json.

        Args:
            config: the pipeline's.
            overwrite: results of other settings may be deleted.
            left_out: the steps whose data are left out in the stage that is resumed.

        Raises:
            UserError: pipeline.json is damaged, or run_dir cannot be written.
        """
        check_writable(Path(config.run_dir))
        refuse_link(Path(config.run_dir) / RECORD)
        remove_unfinished(Path(config.run_dir))
        self._config = config
        self._overwrite = overwrite
        self._left_out = left_out
        self._path = Path(config.run_dir) / RECORD
        self._record: dict[str, dict[str, Any]] = {}
        self._results: dict[str, str] = {}
        if self._path.exists():
            try:
                self._record = json.loads(self._path.read_text(encoding="utf-8"))
                for entry in self._record.values():
                    entry["identity"].items(), entry["result"], Path(entry.get("file", ""))
            except _UNREADABLE as error:
                raise UserError(
                    f"cannot read {self._path}: remove it to rerun all stages"
                ) from error

    def prepare(self) -> None:
        """Prepares the data, unless that is done."""
        config = self._config.stage("base")
        folder = Path(config.data_dir)
        wanted = {
            "vocab_size": config.model.vocab_size,
            "inputs": listing.digest(config.prepare, (folder, config.run_dir)),
            **{f"prepare.{key}": value for key, value in config.prepare.choices().items()},
        }
        found: Identity | None = None
        if (folder / MANIFEST).exists():
            try:
                described = data_folder.load_manifest(folder)
            except UserError as error:  # made by an older version, or damaged
                console.print(str(error))
            else:
                found = {
                    "vocab_size": described.vocab_size,
                    "inputs": described.inputs,
                    **{f"prepare.{key}": value for key, value in described.prepare.items()},
                }
        if found == wanted:
            console.print(f"prepare: complete in {folder}")
        else:
            if found is not None:
                self._check_overwrite("prepare", folder, found, wanted)
            console.rule("prepare")
            prepare(config)
        self._results["prepare"] = file_digest(folder / MANIFEST)
        for domain in token_files.DOMAINS:  # a split that is too short is an error before training
            length = config.training.sequence_length
            Windows(config.data_dir, domain, config.evaluate.split, length)

    def train(self, name: str) -> None:
        """Trains a stage, or resumes it."""
        config = self._config.stage(name)
        folder = stage_folder(config, name)
        stage = STAGES[name](config)
        last = config.training.steps
        result = state_folder(folder, last) / MANIFEST
        files = (folder / stage.file(last)).exists() and steps(folder)[-1:] == [last]
        files = files and is_whole(result.parent, last)
        identity = self._identity(name, config)
        if files and self._complete(name, identity, result):
            console.print(f"{name}: complete, step {last}")
        else:
            self._begin(name, identity, folder, result)
            if (folder / CONFIG).exists() and not steps(folder) and not list(folder.glob("*.pt")):
                delete_run(folder)  # it was killed before it saved its first state
            console.rule(f"{name}: stage {list(STAGES).index(name) + 1} of {len(STAGES)}")
            resume = (folder / CONFIG).exists()
            left_out, self._left_out = self._left_out if resume else NO_STEPS, NO_STEPS
            session = open_session(config, stage, resume=resume, overwrite=False, left_out=left_out)
            session.train(later_tokens(self._config, name))
            self._finish(name, result)
        self._results[name] = self._record[name]["result"]

    def make(
        self,
        name: str,
        product: Callable[[PipelineConfig], Path],
        is_intact: Callable[[Path], bool] = Path.is_file,
    ) -> None:
        """Makes a result of the trained stages, unless that is done.

        Args:
            name: of the result.
            product: makes it, and returns the file that it writes last.
            is_intact: whether what belongs to such a file is unchanged.
        """
        identity = self._identity(name, self._config.stage("base"))
        entry = self._record.get(name, {})
        made = self._path.parent / entry.get("file", "")
        if entry and self._complete(name, identity, made) and is_intact(made):
            console.print(f"{name}: complete")
        else:
            console.rule(name)
            path = product(self._config)
            file = path.relative_to(self._path.parent).as_posix()
            self._record[name] = {"identity": identity, "file": file}
            self._finish(name, path)
        self._results[name] = self._record[name]["result"]

    def _identity(self, name: str, config: Config) -> Identity:
        sections = {"model", "seed"}
        if name in STAGES:
            sections |= {"optimizer", "training", *STAGES[name].sections}
        if name == "evaluate":
            sections |= {"evaluate"}
        if name == "samples":
            sections |= {"prompts"}
        settings = {
            key: value
            for key, value in flat(dataclasses.asdict(config)).items()
            if key.split(".")[0] in sections and (key not in WITHOUT_EFFECT or key == "prompts")
        }
        return settings | {f"result of {stage}": self._results[stage] for stage in _INPUTS[name]}

    def _complete(self, name: str, identity: Identity, result: Path) -> bool:
        entry = self._record.get(name)
        return (
            entry is not None
            and with_defaults(entry["identity"], identity) == identity
            and entry["result"] is not None
            and result.is_file()
            and _is_result(entry, name, result)
        )

    def _begin(self, name: str, identity: Identity, folder: Path, result: Path) -> None:
        """Records that a stage has started; removes what other settings or commands left."""
        entry = self._record.get(name)
        old = with_defaults(entry["identity"], identity) if entry else {}
        if entry and old == identity:
            # Another command may have trained it anew since, or extended it.
            known = (
                entry["result"] is None
                or not is_whole(result.parent, identity[STEPS])
                or _is_result(entry, name, result)
            )
            config = recorded_settings(folder) if (folder / CONFIG).exists() else identity
            old = old if known and config.get(STEPS) == identity[STEPS] else {}
        if old != identity and folder.exists():
            self._check_overwrite(name, folder, old, identity)
            self._record.pop(name, None)
            self._write()
            delete_run(folder)
        self._record[name] = {"identity": identity, "result": None}
        self._write()

    def _finish(self, name: str, result: Path) -> None:
        self._record[name] |= {"result": _digest(name, result), "file digest": file_digest(result)}
        self._write()

    def _write(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, self._record)
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror}") from error

    def _check_overwrite(self, name: str, folder: Path, old: Identity, new: Identity) -> None:
        if self._overwrite:
            console.print(f"{name}: settings or inputs have changed: running it again")
            return
        changed = [
            key if key.startswith(("result", "inputs")) else text
            for key, text in changes(old, new).items()
        ]
        reason = f"with other {', '.join(changed)}" if old else "by another command"
        raise UserError(
            f"{name}: what is in {folder} was made {reason}: give --overwrite to rerun it and all "
            "later stages, or choose another run_dir and data_dir"
        )


def _digest(name: str, result: Path) -> str:
    """What equal results have in common: a stage's state has random names and times in its files.

    Args:
        name: of what was made.
        result: the manifest of a stage's state, or the file that was written last.
    """
    return content_digest(result.parent) if name in STAGES else file_digest(result)


def _is_result(entry: dict[str, Any], name: str, result: Path) -> bool:
    """Whether a file is what was recorded, or a stage's state was written again with the same."""
    # Older records have the digest of the file alone.
    unchanged = entry.get("file digest", entry["result"]) == file_digest(result)
    return unchanged or entry["result"] == _digest(name, result)
