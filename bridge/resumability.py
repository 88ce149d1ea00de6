"""Whether training can resume from a checkpoint: its training state fits itself and its model."""

from collections.abc import Collection, Iterator, Sequence

from bridge.checkpoint import LoadedCheckpoint
from bridge.errors import listed
from bridge.keys import Model, entries, named_parameters
from bridge.schedule import SchedulerState
from bridge.weights import class_name, variables
from mmrec_jax.layer_paths import VariablePath


def obstacles(
    checkpoint: LoadedCheckpoint, trained: Collection[VariablePath] | None = None
) -> list[str]:
    """Why `--resume` refuses a checkpoint, whatever the config; empty where it does not.

    Args:
        checkpoint: the checkpoint.
        trained: the paths of the parameters that training changes, of blocks as a list. None is for
            those that a stage of training may change: all, but for parts of an expert or a fusion
            that have no moments at all and so were frozen.
    """
    return [
        *filter(None, [dtype_obstacle(checkpoint.model)]),
        *_of_steps(checkpoint),
        *_of_moments(checkpoint, trained),
        *_of_settings(checkpoint),
    ]


def disagreement(checkpoint: LoadedCheckpoint) -> str | None:
    """What training says of a schedule that has made other steps than the optimizer, if it has."""
    optimizer, schedule = checkpoint.optimizer_state, checkpoint.scheduler_state
    if optimizer is None or schedule is None or schedule.step == optimizer.step:
        return None
    return (
        f"its schedule is after {schedule.step} steps, but its optimizer after {optimizer.step}: "
        "each continues from its own count, and training ends with the schedule, after "
        f"{schedule.ends_at(optimizer.step)} steps"
    )


def dtype_obstacle(model: Model) -> str | None:
    """Why a model cannot be trained, if its weights are of another type than float32."""
    dtypes = {str(array.dtype) for array in variables(model).values()} - {"float32"}
    if not dtypes:
        return None
    return (
        f"its weights are {', '.join(sorted(dtypes))}: training needs float32, so convert them in "
        "PyTorch (model.float()) and import that"
    )


def _of_steps(checkpoint: LoadedCheckpoint) -> Iterator[str]:
    step, optimizer = checkpoint.step, checkpoint.optimizer_state
    schedule = checkpoint.scheduler_state
    if optimizer is None and step:
        yield f"it is after {step} steps and has no optimizer state to continue from"
    if optimizer is not None and optimizer.step != step:
        yield f"it is after {step} steps, but its optimizer after {optimizer.step}"
    if schedule is not None and schedule.step > schedule.total_steps:
        yield (
            f"its schedule is after {schedule.step} steps, and ends after {schedule.total_steps}"
        )


def _of_moments(
    checkpoint: LoadedCheckpoint, trained: Collection[VariablePath] | None
) -> Iterator[str]:
    optimizer = checkpoint.optimizer_state
    if optimizer is None or not optimizer.step:
        return
    moments = optimizer.exp_avg.keys()
    wanted = _trainable(checkpoint, moments) if trained is None else trained
    missing = [path for path in wanted if path not in moments]
    known = set(wanted)
    for problem, paths in (
        ("lack those of", missing),
        ("include those of what is not trained,", [path for path in moments if path not in known]),
    ):
        if paths:
            names = [".".join(map(str, path)) for path in paths]
            yield f"its moments {problem} {listed(names)}"


def _trainable(
    checkpoint: LoadedCheckpoint, moments: Collection[VariablePath]
) -> Sequence[VariablePath]:
    model_class = class_name(checkpoint.model)
    untrained = set(checkpoint.config.untrained_modules)
    paths = [
        entry.path
        for entry in named_parameters(entries(model_class, checkpoint.config))
        if entry.path is not None and not untrained & set(entry.path)
    ]
    if model_class == "MMRec100M":  # any module of it may be frozen
        trained = {path[0] for path in moments}
        return [path for path in paths if path[0] in trained]
    first = 0
    if model_class == "ExpertModule" or "domain" in checkpoint.metadata:  # or its first blocks
        blocks = [path[1] for path in moments if path[0] == "blocks" and isinstance(path[1], int)]
        first = min(blocks, default=0)
    frozen = [("blocks", block) for block in range(first)]
    return [path for path in paths if path[:2] not in frozen]


def _of_settings(checkpoint: LoadedCheckpoint) -> Iterator[str]:
    """What no config can say, so that none fits."""
    if checkpoint.optimizer_state is not None:
        settings = checkpoint.optimizer_state.hyperparameters
        if not all(0 <= beta < 1 for beta in settings["betas"]):
            yield f"its optimizer's betas are {settings['betas']}, not all from 0 to below 1"
        if not settings["eps"] > 0:
            yield f"its optimizer's eps is {settings['eps']}, not above 0"
    schedule: SchedulerState | None = checkpoint.scheduler_state
    if schedule is not None:
        if not schedule.base_lr > 0:
            yield f"its schedule's highest rate is {schedule.base_lr}, not above 0"
        steps = min(schedule.total_steps, schedule.ends_at(checkpoint.step))
        if not schedule.warmup_steps < steps:
            yield (
                f"its schedule's {schedule.warmup_steps} steps of warm-up are not fewer than the "
                f"{steps} steps in all"
            )
