"""Early warnings: figures of a run that often come before it diverges."""

import collections
import statistics
from collections.abc import Iterable, Mapping

_REMEMBERED = 50
"""Losses that a new one is compared with."""

_FIRST = 20
"""Steps before there is anything to compare with."""

_GROWTH = 10.0
"""How many times as large |h| must be."""

_HIGH_DECAY = 0.99


class Watch:
    """Looks at every step's values. A warning does not come again until it is worse."""

    def __init__(self, records: Iterable[Mapping[str, float]]) -> None:
        """Of a run with these metrics so far."""
        self._losses: collections.deque[float] = collections.deque(maxlen=_REMEMBERED)
        self._states: list[float] = []
        self._limit = 0.0
        self._decay_is_high = False
        self._quiet_until = 0
        for record in records:
            if {"loss", "max_state", "mean_decay"} <= record.keys():
                self.look(int(record["step"]), record)

    def look(self, step: int, values: Mapping[str, float]) -> list[str]:
        """What to warn of after a step with these values."""
        found = (
            self._spike(step, values["loss"]),
            self._growth(values["max_state"]),
            self._decay(values["mean_decay"]),
        )
        return [f"warning: step {step}: {text}" for text in found if text]

    def _spike(self, step: int, loss: float) -> str | None:
        before = list(self._losses)
        self._losses.append(loss)
        if len(before) < _FIRST or step < self._quiet_until:
            return None
        mean = statistics.fmean(before)
        if loss <= max(mean + 6 * statistics.pstdev(before), 1.2 * mean):
            return None
        self._quiet_until = step + _REMEMBERED
        return (
            f"the loss is {loss:.4f}, and {mean:.4f} was the mean before: if it stays high, go "
            "back to a state before it, with a lower optimizer.learning_rate"
        )

    def _growth(self, largest: float) -> str | None:
        if len(self._states) < _FIRST:
            self._states.append(largest)
            self._limit = _GROWTH * statistics.median(self._states)
            return None
        if largest <= self._limit:
            return None
        self._limit = _GROWTH * largest
        return (
            f"the largest |h| is {largest:.3g}, and {statistics.median(self._states):.3g} at the "
            "start: the recurrence may diverge; a lower optimizer.learning_rate or shorter "
            "sequences help"
        )

    def _decay(self, mean: float) -> str | None:
        was_high, self._decay_is_high = self._decay_is_high, mean > _HIGH_DECAY
        if was_high or not self._decay_is_high:
            return None
        return (
            f"the mean decay is {mean:.4f}: close to 1, |h| grows with every token of a sequence; "
            "a lower optimizer.learning_rate or shorter sequences help"
        )
