"""What a run's folder records of it: its settings, and each part of it with machine and changes."""

import dataclasses
import datetime
import json
import os
import platform
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import yaml

import bridge
from train.settings.compare import differences, flat, with_defaults
from train.settings.config import Config
from train.settings.paths import CONFIG
from train.system.errors import UserError
from train.system.terminal import console
from train.system.write import write_json, write_text

ENVIRONMENT = "environment.json"

STEPS = "training.steps"

STRETCH, RESTART = "stretch", "restart"
"""What becomes of the schedule of a run that is extended: its cosine goes on to the new last step,
or a new warm-up and cosine begin."""


class Extension(NamedTuple):
    """A run's numbers of steps before and after `--extend`, and what became of its schedule."""

    before: int
    after: int
    schedule: str


def recorded_settings(run: Path) -> dict[str, Any]:
    """The settings of a run, by their dotted keys.

    Raises:
        UserError: its config cannot be read.
    """
    path = run / CONFIG
    try:
        node = bridge.read_yaml(path)
        content: Any = None if node is None else yaml.SafeLoader("").construct_document(node)
        found = flat(content)
    except bridge.BridgeError as error:
        raise UserError(str(error)) from error
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{path}: not the settings of a run: {problem}") from error
    if type(found.get(STEPS, 1)) is not int:
        raise UserError(f"{path}: {STEPS} is {found[STEPS]!r:.80}, not a whole number")
    return found


def recorded_parts(run: Path) -> list[dict[str, Any]]:
    """The parts of a run, from its start and from every time that it was resumed.

    Raises:
        UserError: they cannot be read.
    """
    path = run / ENVIRONMENT
    if not path.exists():
        return []
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}: restore a copy, or remove it") from error
    # Older runs have only their newest part.
    parts = [parts] if isinstance(parts, dict) else parts
    if not (isinstance(parts, list) and all(isinstance(part, dict) for part in parts)):
        raise UserError(f"{path} does not list a run's parts: restore a copy, or remove it")
    return parts


def extensions(run: Path, steps: int) -> list[Extension]:
    """How a run was extended until it had so many steps, the newest last.

    Raises:
        UserError: the record cannot be read.
    """
    try:
        found = [
            Extension(before, after, part["schedule"])
            for part in recorded_parts(run)
            if "schedule" in part
            for before, after in [part["changed"][STEPS]]
        ]
        # What was recorded and killed before it changed the config has not taken place.
        return [each for each in found if each.after <= steps]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{run / ENVIRONMENT} does not say how the run was extended: restore a copy"
        ) from error


def begin_part(
    config: Config, run: Path, step: int, precision: str, extension: Extension | None = None
) -> None:
    """Records that a part of a run begins, and says what differs from the part before.

    Args:
        config: the run's from now on.
        run: its folder.
        step: the steps made before this part.
        precision: of its matrix products, see train/system/precision.py.
        extension: how this part extends the run.

    Raises:
        UserError: what is recorded cannot be read.
        OSError: the files cannot be written.
    """
    old = recorded_settings(run) if (run / CONFIG).exists() else None
    settings = flat(dataclasses.asdict(config))
    changed = {} if old is None else differences(with_defaults(old, settings), settings)
    if extension is not None:
        changed[STEPS] = extension.before, extension.after
    parts = recorded_parts(run)
    machine = environment() | {"precision": precision}
    for key, (before, now) in (changed | _moved(parts, machine, changed)).items():
        console.print(f"changed: {key} was {before!s:.60} and is {now!s:.60} now")
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    part = {"started": started, "step": step, **machine, "changed": changed}
    if extension is not None:
        part["schedule"] = extension.schedule
    text = yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)
    is_new = old is None and not bridge.steps(run)
    if is_new:  # without a config, the folder would be taken for somebody else's
        write_text(run / CONFIG, text)
    write_json(run / ENVIRONMENT, [*parts, part])
    if not is_new:  # last, because an extension holds as soon as the config has its steps
        write_text(run / CONFIG, text)


def _moved(
    parts: Sequence[Mapping[str, Any]], machine: Mapping[str, Any], changed: Collection[str]
) -> dict[str, tuple[Any, Any]]:
    """What differs between the machine of the last part and this one, as far as it is recorded."""
    now = flat(machine)
    before = flat(parts[-1]) if parts else {}
    moved = differences({key: before.get(key, value) for key, value in now.items()}, now)
    if "training.precision" in changed:  # which says it already
        moved.pop("precision", None)
    return {key.removeprefix("packages."): both for key, both in moved.items()}


def environment() -> dict[str, Any]:
    """What the last digits of the results depend on: versions, devices, cores."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "device": str(jax.local_devices()[0].device_kind),
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "platform": jax.default_backend(),
        "machine": platform.machine(),
        "cores": cores(),
    }


def cores() -> int | None:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
