"""Exports the models of all stages as files for other programs."""

import json
import re
import shutil
from pathlib import Path

import bridge
from bridge import MANIFEST, describe_files, replacing_folder
from train.checkpoints.language_model import stage_folder
from train.data.data_folder import TOKENIZER
from train.pipeline.card import write_card
from train.run.resume import POSITION
from train.run.run_folder import newest_step
from train.settings.pipeline_config import PipelineConfig
from train.stages.all_stages import STAGES
from train.system.errors import UserError
from train.system.interrupt import uninterrupted
from train.system.terminal import console
from train.system.write import refuse_link, write_json

EXPORT = "export"
"""The folder in run_dir."""

_EXPORTED = re.compile(
    r"[a-z]+_(model|expert)\.safetensors|tokenizer\.json|manifest\.json|README\.md|\.[^/]+\.tmp"
)
"""The files of an export."""


def check_export(run_dir: str) -> None:
    """Makes sure that the folder of the exports, if there is one, has nothing but exports.

    Raises:
        UserError: it has other files, or is none.
    """
    folder = Path(run_dir) / EXPORT
    refuse_link(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder: move it, or choose another run_dir")
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    _refuse(folder, files - {MANIFEST, *_listed(folder)} if MANIFEST in files else files)
    # Where the folder is while it is filled and replaced, and what a killed pipeline left there.
    for place in (folder.with_name(f"{EXPORT}.partial"), folder.with_name(f".{EXPORT}.mmrec-old")):
        names = {p.relative_to(place).as_posix() for p in place.rglob("*") if not p.is_dir()}
        _refuse(place, {name for name in names if not _EXPORTED.fullmatch(name)})


def _refuse(folder: Path, foreign: set[str]) -> None:
    if foreign:
        raise UserError(
            f"{folder} has files that no pipeline has exported, such as {min(foreign)}, and is not "
            "replaced: move them, or choose another run_dir"
        )


def _listed(folder: Path) -> set[str]:
    """The files that the manifest of an export lists; none where it is another program's."""
    try:
        described = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {name for name, entry in described.items() if {"bytes", "sha256"} == set(entry)}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return set()


def export(pipeline: PipelineConfig) -> Path:
    """Writes every model as a .safetensors file, and a card; returns the manifest's path.

    Before that, each stage's .pt file is compared with the state that was written with it.

    Raises:
        UserError: they differ, a file cannot be written, or the folder has files of others.
    """
    folder = Path(pipeline.run_dir) / EXPORT
    check_export(pipeline.run_dir)
    try:
        with replacing_folder(folder) as partial:
            _fill(pipeline, partial)
    except (bridge.BridgeError, OSError) as error:
        reason = bridge.in_words(error) if isinstance(error, OSError) else str(error)
        raise UserError(f"cannot export to {folder}: {reason}") from error
    return folder / MANIFEST


def _fill(pipeline: PipelineConfig, folder: Path) -> None:
    kinds = {}
    for name, kind in STAGES.items():
        stage = kind(pipeline.stage(name))
        run = stage_folder(stage.config, name)
        file = run / stage.file(newest_step(run))
        with uninterrupted():
            loaded, exported = bridge.load(run), bridge.load(file)
        if not bridge.compare(loaded, exported).agrees():
            raise UserError(f"{file} is not the state that was written with it")
        console.print(f"{file}: equal to its state, difference 0")
        notes = {key: note for key, note in loaded.metadata.items() if key != POSITION}
        path = folder / f"{stage.checkpoint_name}.safetensors"
        bridge.save_safetensors(path, loaded.model, metadata=notes)
        kinds[name] = path.name, type(loaded.model).__name__
    shutil.copy(Path(pipeline.data_dir) / TOKENIZER, folder / TOKENIZER)
    write_card(pipeline, folder, kinds)
    write_json(folder / MANIFEST, describe_files(folder))
