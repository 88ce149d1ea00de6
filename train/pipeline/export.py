"""Exports the models of all stages as files for other programs."""

import shutil
from pathlib import Path

import bridge
from bridge import MANIFEST, describe_files, replacing_folder
from train.checkpoints.language_model import stage_folder
from train.data.data_folder import TOKENIZER
from train.run.resume import POSITION
from train.run.run_folder import newest_step
from train.settings.pipeline_config import PipelineConfig
from train.stages.all_stages import STAGES
from train.system.errors import UserError
from train.system.interrupt import uninterrupted
from train.system.terminal import console
from train.system.write import write_json

EXPORT = "export"
"""The folder in run_dir."""


def export(pipeline: PipelineConfig) -> Path:
    """Writes every model as a .safetensors file; returns the path of the folder's manifest.

    Before that, each stage's .pt file is compared with the state that was written with it.

    Raises:
        UserError: they differ, or a file cannot be written.
    """
    folder = Path(pipeline.run_dir) / EXPORT
    try:
        with replacing_folder(folder) as partial:
            _fill(pipeline, partial)
    except (bridge.BridgeError, OSError) as error:
        raise UserError(f"cannot export to {folder}: {error}") from error
    return folder / MANIFEST


def _fill(pipeline: PipelineConfig, folder: Path) -> None:
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
    shutil.copy(Path(pipeline.data_dir) / TOKENIZER, folder / TOKENIZER)
    write_json(folder / MANIFEST, describe_files(folder))
