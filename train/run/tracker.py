"""A tracker beside metrics.jsonl: trackio or wandb, whose modules have the same functions."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from train.run.recorded import recorded_parts, recorded_settings
from train.system.errors import UserError
from train.system.terminal import console

NO_TRACKER = "none"


def check_tracker(name: str) -> None:
    """Makes sure that the tracker that training.tracker names is installed.

    Raises:
        UserError: it is not.
    """
    if name != NO_TRACKER and importlib.util.find_spec(name) is None:
        raise UserError(f"training.tracker: {name} is not installed: pip install {name}")


class Tracker:
    """Sends a run's metrics to a tracker. What fails there ends no run: it is said once."""

    def __init__(self, name: str, run: Path) -> None:
        """Begins, or resumes, what the tracker has of a run.

        Args:
            name: of the tracker's module, or NO_TRACKER.
            run: the run's folder.
        """
        self._name, self._run = name, run
        self._module: Any = None
        if name != NO_TRACKER:
            self._try(self._begin)

    def _begin(self) -> None:
        module = importlib.import_module(self._name)
        parts = recorded_parts(self._run)
        # The same for all parts of a run, and another after --overwrite.
        started = "".join(c for c in str(parts[0]["started"]) if c.isalnum()) if parts else "run"
        name = f"{self._run.name.removeprefix('checkpoints_')}-{started[:15]}"
        module.init(
            project=self._run.absolute().parent.name,
            name=name,
            config=recorded_settings(self._run),
            resume="allow",
            **({"id": name} if self._name == "wandb" else {}),
        )
        self._module = module

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds numbers by name."""
        if self._module is not None:
            self._try(lambda: self._module.log(dict(values), step=step))

    def close(self) -> None:
        """Sends what is left."""
        if self._module is not None:
            self._try(lambda: self._module.finish())

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # whatever it is, it is not the run's
            self._module = None
            said = f"{type(error).__name__}: {error!s:.200}".replace("\n", " ")
            console.print(
                f"warning: training.tracker: {self._name} failed ({said}); training goes on "
                "without it"
            )
