"""A run's folder: what is in it, and whether a run may begin or go on there."""

import dataclasses
import json
import os
import platform
import shutil
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import yaml

import bridge
from train.data.folder import TOKENIZER
from train.settings.config import Config
from train.system.errors import UserError

CONFIG = "config.yaml"
_SEPARATE = {"prepare", "expert", "fusion", "evaluate"}
"""Sections that not every stage reads; what matters of `prepare` shows in the data."""

CHANGEABLE = {
    "base_model",
    "data_dir",
    "run_dir",
    "prompts",
    "training.remat",
    "training.precision",
    "training.log_every",
    "training.validate_every",
    "training.validation_batches",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "optimizer.learning_rate",
}
"""Settings that a resumed run may have otherwise; any other would make it a different run."""


def find_run(
    config: Config,
    stage: str,
    sections: Collection[str] = (),
    *,
    resume: bool,
    overwrite: bool,
) -> Path:
    """A stage's folder, after checking that the run may begin or go on there; writes nothing.

    Args:
        config: the run's.
        stage: "base", ...: the folder is `run_dir/checkpoints_STAGE`.
        sections: those of the config that this stage reads and others do not.
        resume: go on with what is there.
        overwrite: the run that is there may be deleted.

    Raises:
        UserError: the folder holds a run and neither is set, both are set, there is nothing to
            resume, the folder is not a run's, or it holds a run with other settings.
    """
    run = Path(config.run_dir) / f"checkpoints_{stage}"
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other: give one of them")
    if run.exists() and not run.is_dir():
        raise UserError(f"run_dir: {run} is not a folder: choose another run_dir")
    entries = _entries(run)
    if resume and not entries:
        raise UserError(f"{run} holds no run: correct run_dir, or leave out --resume")
    imported = resume and CONFIG not in entries and bool(bridge.steps(run))
    if not resume and CONFIG not in entries and bridge.steps(run):
        raise UserError(f"{run} holds an imported checkpoint: give --resume to go on from it")
    if entries and CONFIG not in entries and not imported:
        raise UserError(f"{run} is not a run's folder, it has no {CONFIG}: choose another run_dir")
    if entries and not resume and not overwrite:
        raise UserError(
            f"{run} holds a run: give --resume to go on with it, --overwrite to start anew, or "
            "choose another run_dir"
        )
    if entries and resume and not imported:
        _check_same_run(config, run, sections)
    return run


def write_run(config: Config, run: Path, precision: str, *, resume: bool) -> None:
    """Writes what describes a run, after deleting an earlier one unless it is resumed.

    Args:
        config: the run's.
        run: its folder.
        precision: that of its matrix products, which the machine may not have as the config asks.
        resume: whether it goes on.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        if not resume and _entries(run):
            # The old run is out of the way at once, and gone when it is deleted.
            old = run.with_name(f".{run.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            run.rename(old)
            shutil.rmtree(old)
        run.mkdir(parents=True, exist_ok=True)
        write_text(run / CONFIG, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
        depends_on = environment() | {"precision": precision}
        write_text(run / "environment.json", json.dumps(depends_on, indent=1) + "\n")
        if not (run / TOKENIZER).exists():
            tokenizer = Path(config.data_dir) / TOKENIZER
            write_text(run / TOKENIZER, tokenizer.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot write {run}: {error.strerror}") from error


def newest_step(run: Path) -> int:
    """The newest saved step of a run.

    Raises:
        UserError: the run has none.
    """
    if not run.is_dir():
        raise UserError(f"{run} is not a folder: name a run's, such as runs/demo/checkpoints_base")
    saved = bridge.steps(run)
    if not saved:
        raise UserError(f"{run} has no saved state in {run / 'state'}: name a run's folder")
    return saved[-1]


def environment() -> dict[str, Any]:
    """What the run's last digits depend on: versions, device, cores."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "device": str(jax.devices()[0].device_kind),
        "platform": jax.default_backend(),
        "machine": platform.machine(),
        "cores": _cores(),
    }


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def write_text(path: Path, text: str) -> None:
    """Replaces a file's content in one step."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _entries(run: Path) -> set[str]:
    """What is in a folder, without what a killed run had only begun to write."""
    if not run.is_dir():
        return set()
    return {path.name for path in run.iterdir() if not path.name.endswith(".partial")}


def _check_same_run(config: Config, run: Path, sections: Collection[str]) -> None:
    try:
        before = flat(yaml.safe_load((run / CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {run / CONFIG}: {error}") from error
    now = flat(dataclasses.asdict(config))
    before = with_defaults(before, now)
    changed = [
        f"{key} ({before.get(key)} there, {now.get(key)} now)"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
        and key not in CHANGEABLE
        and key.split(".")[0] not in _SEPARATE - set(sections)
    ]
    if changed:
        raise UserError(
            f"{run} was started with other settings: {', '.join(changed)}; restore them to resume, "
            "or choose another run_dir"
        )


def with_defaults(there: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Settings of an older program, and of each that it did not know yet the default."""
    defaults = flat(dataclasses.asdict(Config(data_dir="unknown", run_dir="unknown")))
    return {key: defaults[key] for key in now.keys() & defaults.keys()} | there


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
