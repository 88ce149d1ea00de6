"""The learning-rate schedule's state, as PyTorch keeps it (docs/model.md sections 5.4 and 6.4)."""

import bisect
import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from bridge.errors import FormatError, or_the_weights_alone
from bridge.files.plain_data import plain

ScheduleForm = Literal["SequentialLR", "CosineAnnealingLR"]
"""PyTorch's class of a schedule: the second is the cosine alone, without a warm-up."""

START_FACTOR = 0.1
"""The share of the learning rate that a warm-up starts from unless it is told another."""

_MOST_STEPS = 10_000_000
"""A schedule's state is computed step by step: half a minute for as many."""

_LONGEST = 2**53
"""Steps of a whole schedule; only up to it is every number of steps a float."""

_TOLERANCE = 1e-6
"""Of a rate, relative to the base rate: versions of torch differ in how they round."""


def warmup_cosine(
    step: Any,
    warmup_steps: int,
    total_steps: int,
    xp: Any = np,
    *,
    start_factor: float = START_FACTOR,
    floor: float = 0.0,
) -> Any:
    """The share of the peak learning rate for the step after `step` others (section 5.4).

    A line from `start_factor` to 1 over the warm-up, then a cosine down to `floor` at
    `total_steps`. It is not held there: torch's cosine rises again.

    Args:
        step: optimizer steps made, a number or an array, traced or not.
        warmup_steps: W, not below 0.
        total_steps: N; may be W for a run that is all warm-up.
        xp: the array module that computes it, numpy in float64 or jax.numpy in float32.
        start_factor: the share that the warm-up starts from.
        floor: the share that the cosine ends at.
    """
    rising = start_factor + (1 - start_factor) * step / max(warmup_steps, 1)
    cosine_steps = (total_steps - warmup_steps) or 1
    cosine = (1 + xp.cos(math.pi * (step - warmup_steps) / cosine_steps)) / 2
    return xp.where(step < warmup_steps, rising, floor + (1 - floor) * cosine)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchedulerState:
    """A linear warm-up, then a cosine, after some steps.

    Attributes:
        base_lr: the rate at the end of the warm-up.
        warmup_steps: W.
        total_steps: N, where the cosine reaches `min_lr`; PyTorch's rises again after it.
        step: steps of the schedule made so far.
        min_lr: the rate that the cosine ends at, PyTorch's `eta_min`.
        start_factor: the share of `base_lr` that the warm-up starts from.
        form: the class that PyTorch has it in; CosineAnnealingLR has no warm-up.

    Raises:
        FormatError: no schedule has these values, or one so long that it cannot be computed.
    """

    base_lr: float
    warmup_steps: int
    total_steps: int
    step: int
    min_lr: float = 0.0
    start_factor: float = START_FACTOR
    form: ScheduleForm = "SequentialLR"

    def __post_init__(self) -> None:
        limits = {"warmup_steps": _LONGEST, "total_steps": _LONGEST, "step": _MOST_STEPS}
        for name, most in limits.items():
            if getattr(self, name) < 0:
                raise FormatError(f"the schedule's {name} is {getattr(self, name)!s:.80}, below 0")
            if getattr(self, name) > most:
                raise FormatError(f"the schedule's {name} is larger than {most}")
        if not (math.isfinite(self.base_lr) and self.base_lr >= 0):
            raise FormatError(f"the schedule's base_lr is {self.base_lr}")
        if not 0 <= self.min_lr <= self.base_lr:
            raise FormatError(
                f"the schedule's lowest rate is {self.min_lr}: it must lie between 0 and its "
                f"highest, {self.base_lr}"
            )
        if not 0 < self.start_factor <= 1:
            raise FormatError(
                f"the schedule's warm-up starts from {self.start_factor} times its rate: that must "
                "be above 0 and at most 1"
            )
        if self.warmup_steps == self.total_steps:
            # torch divides by the length of the cosine as soon as the warm-up ends.
            raise FormatError(
                f"the schedule has {self.total_steps} steps and all are warm-up: PyTorch has no "
                "such schedule"
            )
        if self.form == "CosineAnnealingLR" and self.warmup_steps:
            raise FormatError(
                f"the schedule is a cosine alone and has {self.warmup_steps} steps of warm-up"
            )

    def ends_at(self, made: int) -> int:
        """The optimizer step at which it ends, where the optimizer has made so many."""
        return made + self.total_steps - self.step

    def learning_rate(self) -> float:
        """The rate of the next step, exactly as PyTorch has it; takes 3 us per step made."""
        rate: float = scheduler_to_torch(self)["_last_lr"][0]
        return rate


def scheduler_to_torch(state: SchedulerState) -> dict[str, Any]:
    """The state dict of PyTorch's schedule after `state.step` steps.

    PyTorch computes each rate from the one before, so the rounding errors that it accumulates
    are reproduced by running it.
    """
    import torch  # takes a second, which commands that write no file need not wait for
    from torch.optim.lr_scheduler import (
        CosineAnnealingLR,
        LinearLR,
        LRScheduler,
        SequentialLR,
    )

    optimizer = torch.optim.SGD([torch.zeros(())], lr=state.base_lr)
    cosine_steps, warmup_steps = state.total_steps - state.warmup_steps, state.warmup_steps
    with warnings.catch_warnings():
        # That the optimizer made no steps in between is on purpose.
        warnings.simplefilter("ignore")
        schedule: LRScheduler
        if state.form == "CosineAnnealingLR":
            schedule = CosineAnnealingLR(optimizer, T_max=cosine_steps, eta_min=state.min_lr)
        else:
            # In this order: each sets the rate when it is made.
            warmup = LinearLR(optimizer, state.start_factor, total_iters=warmup_steps)
            cosine = CosineAnnealingLR(optimizer, T_max=cosine_steps, eta_min=state.min_lr)
            schedule = SequentialLR(optimizer, [warmup, cosine], milestones=[warmup_steps])
        for _ in range(state.step):
            schedule.step()
    return schedule.state_dict()


@or_the_weights_alone()
def scheduler_from_torch(state_dict: Any) -> SchedulerState:
    """Reads the state dict of a CosineAnnealingLR, alone or in a SequentialLR after a LinearLR.

    Raises:
        FormatError: it is of another schedule, or its parts contradict each other.
    """
    state_dict = plain(state_dict, "scheduler_state_dict")
    form: ScheduleForm = "SequentialLR"
    try:
        if "T_max" in state_dict:
            form = "CosineAnnealingLR"
            cosine, milestone, start_factor, fixed = state_dict, 0, START_FACTOR, {}
        else:
            warmup, cosine = state_dict["_schedulers"]
            (milestone,) = state_dict["_milestones"]
            start_factor = warmup["start_factor"]
            fixed = {
                "end_factor": (warmup["end_factor"], 1.0),
                "base_lrs": (list(warmup["base_lrs"]), list(cosine["base_lrs"])),
                "total_iters": (warmup["total_iters"], milestone),
            }
        # One for each parameter group.
        (base_lr,) = set(cosine["base_lrs"])
        (last_lr,) = set(state_dict["_last_lr"])
        min_lr = cosine["eta_min"]
        counts = {
            "_milestones": milestone,
            "T_max": cosine["T_max"],
            "last_epoch": state_dict["last_epoch"],
        }
    except (KeyError, TypeError, ValueError):
        raise FormatError(
            "scheduler_state_dict is not of a SequentialLR of one LinearLR and one "
            "CosineAnnealingLR, nor of a CosineAnnealingLR alone, with one rate for all "
            "parameter groups"
        ) from None
    for name, (value, wanted) in fixed.items():
        if value != wanted:
            raise FormatError(f"scheduler_state_dict has {name} {value!r:.80}, not {wanted!r:.80}")
    for name, count in counts.items():
        if type(count) is not int:
            raise FormatError(f"scheduler_state_dict has {name} {count!r:.80}, not a whole number")
    rates = (base_lr, last_lr, min_lr, start_factor)
    if not all(type(rate) in (int, float) for rate in rates):
        raise FormatError("scheduler_state_dict has rates that are not numbers")
    for rate in rates:
        if not abs(rate) < 1e30:  # NaN neither
            raise FormatError(f"scheduler_state_dict has the rate {rate!r:.80}")
    state = SchedulerState(
        base_lr=float(base_lr),
        warmup_steps=milestone,
        total_steps=milestone + counts["T_max"],
        step=counts["last_epoch"],
        min_lr=float(min_lr),
        start_factor=float(start_factor),
        form=form,
    )
    share = warmup_cosine(
        state.step,
        state.warmup_steps,
        state.total_steps,
        start_factor=state.start_factor,
        floor=state.min_lr / state.base_lr if state.base_lr else 0.0,
    )
    wanted = state.base_lr * float(share)
    if not abs(last_lr - wanted) <= _TOLERANCE * base_lr:
        raise FormatError(
            f"scheduler_state_dict has the rate {last_lr!r} after {state.step} steps, where its "
            f"own counters make it {wanted!r}"
        )
    if form == "SequentialLR":
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
