"""What to run next with a checkpoint that was imported, printed as commands and settings."""

import argparse
import shlex
from pathlib import Path
from typing import Any

import yaml

from bridge.checkpoint import LoadedCheckpoint
from bridge.config.metadata import to_checkpoint
from bridge.orbax_folder import stage_folder
from bridge.weights import variables

PROGRAM = "python -m bridge"

BASE_FOLDER = stage_folder("", "base").name
"""The folder in its run_dir that `train.base` looks for."""


def print_next_steps(options: argparse.Namespace, loaded: LoadedCheckpoint) -> None:
    """Prints the commands that continue from what was written."""
    folder = Path(options.OUT_DIR)
    place = shlex.quote(str(folder))
    if type(loaded.model).__name__ != "MMRecModel":
        print(f"to see what it is:\n  {PROGRAM} inspect {place}")
        return
    dtypes = {str(array.dtype) for array in variables(loaded.model).values()} - {"float32"}
    if dtypes:
        print(
            f"training needs float32, and the weights are {', '.join(sorted(dtypes))}: to train "
            "them, convert them in PyTorch (model.float()) and import that"
        )
        return
    if loaded.step and loaded.optimizer_state is None:
        source = shlex.quote(options.IN)
        heads = "" if options.num_heads is None else f" --num-heads {options.num_heads}"
        print(
            f"training cannot continue from step {loaded.step:,}: there is no optimizer state. To "
            f"start at step 0 with these weights:\n  rm -r {place}\n"
            f"  {PROGRAM} from-torch {source} {place} --model-only{heads}"
        )
        return
    if folder.name in ("", ".."):
        folder = folder.resolve()
    print("to train from here, give the run's config (my.yaml) these settings:")
    print(
        "".join(
            f"  {line}\n"
            for line in yaml.safe_dump(_training_settings(loaded), sort_keys=False).splitlines()
        ),
        end="",
    )
    print("and run:")
    print("  python -m train.prepare --config my.yaml")
    run_dir = folder.parent
    if folder.name != BASE_FOLDER:
        # A run_dir of its own: another import may lie beside it, and be moved too.
        run_dir = folder.with_name(f"{folder.name}_run")
        print(f"  mkdir {shlex.quote(str(run_dir))}")
        print(f"  mv {place} {shlex.quote(str(run_dir / BASE_FOLDER))}")
    print(f"  python -m train.base --config my.yaml --run_dir {shlex.quote(str(run_dir))} --resume")
    print(
        "train.prepare makes a tokenizer too. A model that has learned another tokenizer's ids "
        "must learn the new ones. To keep its own, set data_dir to the folder that it was trained "
        "on, and leave train.prepare out."
    )


def _training_settings(loaded: LoadedCheckpoint) -> dict[str, dict[str, Any]]:
    """What a training config must say to continue training a base model."""
    model = to_checkpoint("MMRecModel", loaded.config, {})
    del model["mem_dim"]
    settings: dict[str, dict[str, Any]] = {"model": model}
    optimizer, schedule = loaded.optimizer_state, loaded.scheduler_state
    if schedule is not None:
        settings["optimizer"] = {
            "learning_rate": schedule.base_lr,
            "warmup_steps": schedule.warmup_steps,
        }
    if optimizer is not None:
        adamw = optimizer.hyperparameters
        beta1, beta2 = adamw["betas"]
        settings["optimizer"] = settings.get("optimizer", {}) | {
            "weight_decay": adamw["weight_decay"],
            "beta1": beta1,
            "beta2": beta2,
            "eps": adamw["eps"],
        }
    if schedule is not None:
        settings["training"] = {"steps": schedule.total_steps}
    return settings
