"""The learning-rate schedule's state, as PyTorch keeps it (docs/model.md sections 5.4 and 6.4)."""

import bisect
import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from bridge.errors import FormatError
from bridge.files.plain_data import plain

_START_FACTOR = 0.1
"""The share of the learning rate that the warm-up starts from."""

_MOST_STEPS = 10_000_000
"""A schedule's state is computed step by step: half a minute for as many."""

_LONGEST = 2**53
"""Steps of a whole schedule; only up to it is every number of steps a float."""

_TOLERANCE = 1e-6
"""Of a rate, relative to the base rate: versions of torch differ in how they round."""


def warmup_cosine(step: Any, warmup_steps: int, total_steps: int, xp: Any = np) -> Any:
    """The share of the peak learning rate for the step after `step` others (section 5.4).

    A line from 0.1 to 1 over the warm-up, then a cosine down to 0 at `total_steps`. It is not held
    there: torch's cosine rises again.

    Args:
        step: optimizer steps made, a number or an array, traced or not.
        warmup_steps: W, not below 0.
        total_steps: N; may be W for a run that is all warm-up.
        xp: the array module that computes it, numpy in float64 or jax.numpy in float32.
    """
    rising = _START_FACTOR + (1 - _START_FACTOR) * step / max(warmup_steps, 1)
    cosine_steps = (total_steps - warmup_steps) or 1
    falling = (1 + xp.cos(math.pi * (step - warmup_steps) / cosine_steps)) / 2
    return xp.where(step < warmup_steps, rising, falling)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchedulerState:
    """A linear warm-up from a tenth of the rate, then a cosine, after some steps.

    Attributes:
        base_lr: the rate at the end of the warm-up.
        warmup_steps: W.
        total_steps: N, where the cosine reaches zero; PyTorch's rises again after it.
        step: optimizer steps made so far.

    Raises:
        FormatError: no schedule has these values, or one so long that it cannot be computed.
    """

    base_lr: float
    warmup_steps: int
    total_steps: int
    step: int

    def __post_init__(self) -> None:
        limits = {"warmup_steps": _LONGEST, "total_steps": _LONGEST, "step": _MOST_STEPS}
        for name, most in limits.items():
            if getattr(self, name) < 0:
                raise FormatError(f"the schedule's {name} is {getattr(self, name)!s:.80}, below 0")
            if getattr(self, name) > most:
                raise FormatError(f"the schedule's {name} is larger than {most}")
        if not (math.isfinite(self.base_lr) and self.base_lr >= 0):
            raise FormatError(f"the schedule's base_lr is {self.base_lr}")
        if self.warmup_steps == self.total_steps:
            # torch divides by the length of the cosine as soon as the warm-up ends.
            raise FormatError(
                f"the schedule has {self.total_steps} steps and all are warm-up: PyTorch has no "
                "such schedule"
            )

    def learning_rate(self) -> float:
        """The rate of the next step, exactly as PyTorch has it; takes 3 us per step made."""
        rate: float = scheduler_to_torch(self)["_last_lr"][0]
        return rate


def scheduler_to_torch(state: SchedulerState) -> dict[str, Any]:
    """The state dict of PyTorch's SequentialLR after `state.step` steps.

    PyTorch computes each rate from the one before, so the rounding errors that it accumulates
    are reproduced by running it.
    """
    import torch  # takes a second, which commands that write no file need not wait for
    from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

    optimizer = torch.optim.SGD([torch.zeros(())], lr=state.base_lr)
    cosine_steps = state.total_steps - state.warmup_steps
    with warnings.catch_warnings():
        # That the optimizer made no steps in between is on purpose.
        warnings.simplefilter("ignore")
        warmup = LinearLR(optimizer, start_factor=_START_FACTOR, total_iters=state.warmup_steps)
        cosine = CosineAnnealingLR(optimizer, T_max=cosine_steps)
        schedule = SequentialLR(optimizer, [warmup, cosine], milestones=[state.warmup_steps])
        for _ in range(state.step):
            schedule.step()
    return schedule.state_dict()


def scheduler_from_torch(state_dict: Any) -> SchedulerState:
    """Reads the state dict of a SequentialLR of LinearLR and CosineAnnealingLR.

    Raises:
        FormatError: it is of another schedule, or its parts contradict each other.
    """
    state_dict = plain(state_dict, "scheduler_state_dict")
    try:
        warmup, cosine = state_dict["_schedulers"]
        (milestone,) = state_dict["_milestones"]
        (base_lr,) = cosine["base_lrs"]
        (last_lr,) = state_dict["_last_lr"]
        fixed = {
            "start_factor": (warmup["start_factor"], _START_FACTOR),
            "end_factor": (warmup["end_factor"], 1.0),
            "base_lrs": (list(warmup["base_lrs"]), [base_lr]),
            "total_iters": (warmup["total_iters"], milestone),
            "eta_min": (cosine["eta_min"], 0.0),
        }
        counts = {
            "_milestones": milestone,
            "T_max": cosine["T_max"],
            "last_epoch": state_dict["last_epoch"],
        }
    except (KeyError, TypeError, ValueError):
        raise FormatError(
            "scheduler_state_dict is not of a SequentialLR of one LinearLR and one "
            "CosineAnnealingLR over one parameter group"
        ) from None
    for name, (value, wanted) in fixed.items():
        if value != wanted:
            raise FormatError(f"scheduler_state_dict has {name} {value!r:.80}, not {wanted!r:.80}")
    for name, count in counts.items():
        if type(count) is not int:
            raise FormatError(f"scheduler_state_dict has {name} {count!r:.80}, not a whole number")
    if not all(type(rate) in (int, float) for rate in (base_lr, last_lr)):
        raise FormatError("scheduler_state_dict has rates that are not numbers")
    if not all(abs(rate) < 1e30 for rate in (base_lr, last_lr)):  # NaN neither
        raise FormatError(f"scheduler_state_dict has the rate {last_lr!r:.80}")
    state = SchedulerState(
        base_lr=float(base_lr),
        warmup_steps=milestone,
        total_steps=milestone + counts["T_max"],
        step=counts["last_epoch"],
    )
    share = warmup_cosine(state.step, state.warmup_steps, state.total_steps)
    wanted = state.base_lr * float(share)
    if not abs(last_lr - wanted) <= _TOLERANCE * base_lr:
        raise FormatError(
            f"scheduler_state_dict has the rate {last_lr!r} after {state.step} steps, where its "
            f"own counters make it {wanted!r}"
        )
    _check_counters(state, (warmup, cosine))
    return state


def _check_counters(state: SchedulerState, schedulers: tuple[Mapping[str, Any], ...]) -> None:
    # Each inner schedule counts its own steps: the warm-up stops one step before the milestone.
    running = bisect.bisect_right([state.warmup_steps], state.step)
    own_step = state.step - (state.warmup_steps if running else 0)
    count = schedulers[running].get("last_epoch")
    if count != own_step:
        raise FormatError(
            f"scheduler_state_dict counts {state.step} steps in all, but {count!r:.80} instead of "
            f"{own_step} in its running part"
        )
