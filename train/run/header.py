"""What a run is about to do, printed before anything is read or compiled."""

from pathlib import Path

import jax

from bridge import parameter_counts
from train.run.recorded import cores
from train.settings.config import Config
from train.stages.stage import Stage
from train.system.precision import matmul_precision
from train.system.terminal import console


def print_header(config: Config, stage: Stage, run: Path) -> None:
    """Prints what is trained, on how many tokens, where, and on what.

    Args:
        config: the run's config.
        stage: what is trained.
        run: the run's folder.
    """
    training = config.training
    counts, trained_counts = counts_by_part(config, stage)
    parts = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    total, trained = sum(counts.values()), sum(trained_counts.values())
    rest = "" if trained == total else f"; {trained:,} of them are trained"
    per_step = training.tokens // training.steps
    _line("stage", f"{stage.name}, {stage.model_class}")
    _line("parameters", f"{total:,}: {parts}{rest}")
    _line("tokens", f"{per_step:,} per step, {training.tokens:,} in {training.steps:,} steps")
    _line("data", str(Path(config.data_dir).absolute()))
    _line("run", str(run.absolute()))
    # Last, as some devices need seconds to answer.
    device = jax.local_devices()[0]
    kind = device.platform if device.platform == device.device_kind else device.device_kind
    devices = f"{config.mesh.devices} of {jax.device_count()} devices, {kind}"
    _line("device", f"{devices}; {cores()} cores; {matmul_precision(training.precision)}")


def counts_by_part(config: Config, stage: Stage) -> tuple[dict[str, int], dict[str, int]]:
    """The numbers of parameters of a stage's model by part, and of those that it trains."""

    def is_trained(path: tuple[str | int, ...]) -> bool:
        return not stage.frozen.covers(path, config.model)

    kind = stage.model_class
    return (
        parameter_counts(kind, config.model),
        parameter_counts(kind, config.model, is_trained),
    )


def _line(name: str, value: str) -> None:
    console.print(f"{name:10}  {value}")
