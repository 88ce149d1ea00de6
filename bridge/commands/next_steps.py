"""What to run next with a checkpoint that was imported, printed as commands and settings."""

import argparse
import shlex
from pathlib import Path
from typing import Any

import yaml

from bridge.checkpoint import LoadedCheckpoint
from bridge.commands.printing import printable
from bridge.config.metadata import to_checkpoint
from bridge.resumability import obstacles
from bridge.stage_folders import stage_folder
from mmrec_jax import ExpertModule, MMRec100M

PROGRAM = "python -m bridge"

BASE_FOLDER = stage_folder("", "base").name
"""The folder in run_dir in which `train.base` looks for its run."""

_STAGES = {"MMRecModel": "base", "MMRec100M": "fusion"}
"""The stages of training that resume from a file alone, by the class that they train."""

_PARTS = ("embedding", "text_expert", "code_expert", "fusion", "final_norm", "lm_head")
"""The parts of an MMRec100M that fusion.trainable can name."""


def print_next_steps(options: argparse.Namespace, loaded: LoadedCheckpoint) -> None:
    """Prints the commands that continue from what was written."""
    folder = Path(options.OUT_DIR)
    place = shlex.quote(str(folder))
    stage = _STAGES.get(type(loaded.model).__name__)
    if stage is None:
        print(f"to see what it is:\n  {PROGRAM} inspect {place}")
        if isinstance(loaded.model, ExpertModule):
            print(
                "to join it with the other expert (BASE is the base model that both come from; "
                "an expert of code is --fusion.code_expert):\n"
                "  python -m train.fusion --config my.yaml --base_model BASE "
                f"--fusion.text_expert {place}"
            )
        return
    problems = obstacles(loaded)
    if problems:
        print("training cannot resume from here:")
        for problem in problems:
            print(f"  {printable(problem)}")
        if loaded.step:
            source = shlex.quote(options.IN)
            heads = "" if options.num_heads is None else f" --num-heads {options.num_heads}"
            print(
                f"to start at step 0 with these weights:\n  rm -r {place}\n"
                f"  {PROGRAM} from-torch {source} {place} --model-only{heads}"
            )
        return
    if folder.name in ("", ".."):
        folder = folder.resolve()
    print("to train from here, give the run's config (my.yaml) these settings:")
    print(
        "".join(
            f"  {line}\n"
            for line in yaml.safe_dump(training_settings(loaded), sort_keys=False).splitlines()
        ),
        end="",
    )
    print("and run:")
    print("  python -m train.prepare --config my.yaml")
    run_dir, wanted = folder.parent, stage_folder("", stage).name
    if folder.name != wanted:
        # A run_dir of its own: another import may lie beside it, and be moved too.
        run_dir = folder.with_name(f"{folder.name}_run")
        print(f"  mkdir {shlex.quote(str(run_dir))}")
        print(f"  mv {place} {shlex.quote(str(run_dir / wanted))}")
    print(
        f"  python -m train.{stage} --config my.yaml --run_dir {shlex.quote(str(run_dir))} --resume"
    )
    print(
        "train.prepare makes a tokenizer too. A model that has learned another tokenizer's ids "
        "must learn the new ones. To keep its own, set data_dir to the folder that it was trained "
        "on, and leave train.prepare out."
    )


def training_settings(loaded: LoadedCheckpoint) -> dict[str, dict[str, Any]]:
    """What a training config must say to continue training a model."""
    model = to_checkpoint("MMRecModel", loaded.config, {})
    del model["mem_dim"]
    settings: dict[str, dict[str, Any]] = {"model": model}
    optimizer, schedule = loaded.optimizer_state, loaded.scheduler_state
    if isinstance(loaded.model, MMRec100M):
        model["fusion_method"] = loaded.config.fusion_method
        if optimizer is not None and optimizer.exp_avg:
            trained = {path[0] for path in optimizer.exp_avg}
            settings["fusion"] = {"trainable": [part for part in _PARTS if part in trained]}
    if schedule is not None:
        settings["optimizer"] = {
            "learning_rate": schedule.base_lr,
            "min_learning_rate": schedule.min_lr,
            "warmup_steps": schedule.warmup_steps,
            "warmup_start": schedule.start_factor,
        }
    if optimizer is not None:
        adamw = optimizer.hyperparameters
        beta1, beta2 = adamw["betas"]
        if schedule is None and adamw["lr"]:
            settings["optimizer"] = {"learning_rate": adamw["lr"]}
        settings["optimizer"] = settings.get("optimizer", {}) | {
            "weight_decay": adamw["weight_decay"],
            "beta1": beta1,
            "beta2": beta2,
            "eps": adamw["eps"],
        }
    if schedule is not None:
        settings["training"] = {"steps": schedule.ends_at(loaded.step)}
    return settings
