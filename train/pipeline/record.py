"""Which stages of a pipeline are done, and that none is mixed up with another's result.

A stage's identity is its settings and the results of the stages before it. pipeline.json holds the
identity of every stage that was begun, and a digest of its result once it is complete.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge import MANIFEST
from bridge.orbax_folder import state_folder, steps
from train.checkpoints.language_model import file_digest, stage_folder
from train.data import folder as tokens
from train.data import token_files
from train.data.batches import Windows
from train.preparation import listing
from train.preparation.prepare_data import prepare
from train.run.folder import CHANGEABLE, CONFIG, flat, with_defaults, write_text
from train.run.session import Session
from train.settings.config import Config, PipelineConfig
from train.stages.stage import STAGES
from train.system.errors import UserError
from train.system.terminal import console

RECORD = "pipeline.json"

_INPUTS = {
    "base": ("prepare",),
    "text": ("prepare", "base"),
    "code": ("prepare", "base"),
    "fusion": ("prepare", "base", "text", "code"),
    "continued": ("prepare", "base"),
    "evaluate": ("prepare", *STAGES),
    "export": ("prepare", *STAGES),
}
_RHYTHM = CHANGEABLE - {"optimizer.learning_rate", "training.precision"}
"""Settings that change nothing in a stage's result."""

Identity = dict[str, Any]


class Plan:
    """A pipeline's progress."""

    def __init__(self, config: PipelineConfig, *, overwrite: bool) -> None:
        """Reads what is done; `overwrite` lets results be deleted that other settings gave.

        Raises:
            UserError: pipeline.json is damaged.
        """
        self._config = config
        self._overwrite = overwrite
        self._path = Path(config.run_dir) / RECORD
        self._record: dict[str, dict[str, Any]] = {}
        self._results: dict[str, str] = {}
        if self._path.exists():
            try:
                self._record = json.loads(self._path.read_text(encoding="utf-8"))
                for entry in self._record.values():
                    entry["identity"], entry["result"]
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"cannot read {self._path}: remove it to make all stages anew"
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
                described = tokens.load_manifest(folder)
            except UserError as error:  # of an older version, or damaged
                console.print(str(error), markup=False)
            else:
                found = {
                    "vocab_size": described.vocab_size,
                    "inputs": described.inputs,
                    **{f"prepare.{key}": value for key, value in described.prepare.items()},
                }
        if found == wanted:
            console.print(f"prepare: complete in {folder}", markup=False)
        else:
            if found is not None:
                self._refuse_or_go_on("prepare", folder, found, wanted)
            console.rule("prepare")
            prepare(config)
        self._results["prepare"] = file_digest(folder / MANIFEST)
        for domain in token_files.DOMAINS:  # too short a split is found before anything is trained
            length = config.training.sequence_length
            Windows(config.data_dir, domain, config.evaluate.split, length)

    def train(self, name: str) -> None:
        """Trains a stage, or what is left of it."""
        config = self._config.stage(name)
        folder = stage_folder(config, name)
        stage = STAGES[name](config)
        last = config.training.steps
        result = state_folder(folder, last) / MANIFEST
        files = (folder / stage.file(last)).exists() and last in steps(folder)
        identity = self._identity(name, config)
        if files and self._complete(name, identity, result):
            console.print(f"{name}: complete, step {last}")
        else:
            self._begin(name, identity, folder, result)
            if (folder / CONFIG).exists() and not steps(folder):
                self._remove(folder)  # it was killed before it had a state to go on from
            console.rule(name)
            session = Session(config, stage, resume=(folder / CONFIG).exists(), overwrite=False)
            session.train()
            self._finish(name, result)
        self._results[name] = self._record[name]["result"]

    def make(self, name: str, product: Callable[[PipelineConfig], Path]) -> None:
        """Makes something of the trained stages; `product` returns the file that vouches for it."""
        identity = self._identity(name, self._config.stage("base"))
        entry = self._record.get(name)
        if entry and self._complete(name, identity, self._path.parent / entry.get("file", "")):
            console.print(f"{name}: complete")
            return
        console.rule(name)
        path = product(self._config)
        file = path.relative_to(self._path.parent).as_posix()
        self._record[name] = {"identity": identity, "file": file}
        self._finish(name, path)

    def _identity(self, name: str, config: Config) -> Identity:
        sections = {"model", "seed"}
        if name in STAGES:
            sections |= {"optimizer", "training", *STAGES[name].sections}
        if name == "evaluate":
            sections |= {"evaluate"}
        settings = {
            key: value
            for key, value in flat(dataclasses.asdict(config)).items()
            if key.split(".")[0] in sections and key not in _RHYTHM
        }
        return settings | {f"result of {stage}": self._results[stage] for stage in _INPUTS[name]}

    def _complete(self, name: str, identity: Identity, result: Path) -> bool:
        entry = self._record.get(name)
        return (
            entry is not None
            and with_defaults(entry["identity"], identity) == identity
            and entry["result"] is not None
            and result.is_file()
            and entry["result"] == file_digest(result)
        )

    def _begin(self, name: str, identity: Identity, folder: Path, result: Path) -> None:
        """Notes that a stage is begun, after removing what is not its own beginning."""
        entry = self._record.get(name)
        there = with_defaults(entry["identity"], identity) if entry else {}
        if entry and there == identity and result.is_file():
            # Complete by its record, and yet another: trained since by another command.
            there = {} if entry["result"] not in (None, file_digest(result)) else there
        if there != identity and folder.exists():
            self._refuse_or_go_on(name, folder, there, identity)
            self._record.pop(name, None)
            self._write()
            self._remove(folder)
        self._record[name] = {"identity": identity, "result": None}
        self._write()

    def _remove(self, folder: Path) -> None:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise UserError(f"cannot remove {folder}: {error.strerror}") from error

    def _finish(self, name: str, result: Path) -> None:
        self._record[name]["result"] = file_digest(result)
        self._write()

    def _write(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(self._record, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror}") from error

    def _refuse_or_go_on(self, name: str, folder: Path, there: Identity, now: Identity) -> None:
        if self._overwrite:
            console.print(f"{name}: settings or inputs have changed, so it is made anew")
            return
        changed = [
            f"{key} ({there.get(key)} there, {now.get(key)} now)"
            if not key.startswith(("result", "inputs"))
            else key
            for key in dict.fromkeys([*now, *there])
            if there.get(key) != now.get(key)
        ]
        reason = f"with other {', '.join(changed)}" if there else "by another command"
        raise UserError(
            f"{name}: what is in {folder} was made {reason}: give --overwrite to make it and what "
            "follows anew, or choose another run_dir and data_dir"
        )
