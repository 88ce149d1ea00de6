"""Shows progress while a command works: a live line on a terminal, plain lines elsewhere."""

import collections
import sys
import time
from typing import Any

import rich.console
import rich.progress
import rich.table


class _Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        raise  # rich would exit with 1, and say nothing


# Jupyter's kernels claim to be a terminal in colour, and a notebook would keep every frame of a
# live line. As a notebook, rich would make an output of its own of every line.
_AS_TEXT: dict[str, Any] = {
    "force_terminal": False if "ipykernel" in sys.modules else None,
    "force_jupyter": False,
}

console = _Console(soft_wrap=True, highlight=False, markup=False, emoji=False, **_AS_TEXT)
"""Where the training commands print; names and samples may hold what looks like markup."""

_WRITTEN_OUT = {
    code: ascii(chr(code))[1:-1]
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in "\n\t"
}
"""What stands for each control character on a terminal."""


def for_terminal(text: str) -> str:
    r"""A model's text as it is printed: on a terminal, a control character is written out as \x1b.

    As it is, it could move the cursor, or hide what was printed. A file or a pipe gets the text
    unchanged.
    """
    return written_out(text) if sys.stdout.isatty() else text


def written_out(text: str) -> str:
    r"""A text whose control characters are written out, such as \x1b."""
    return text.translate(_WRITTEN_OUT)


def print_table(table: rich.table.Table) -> None:
    """Prints a table and cuts nothing off: in a narrow terminal, rows have more lines."""
    for column in table.columns:
        column.overflow = "fold"
    # What is no terminal has no width to keep to, and names may hold what looks like markup.
    width = console.width if console.is_terminal else 10_000
    plain = rich.console.Console(
        width=width, highlight=False, markup=False, emoji=False, **_AS_TEXT
    )
    plain.quiet = console.quiet
    plain.print(table)


class TrainingProgress:
    """Shows the step, the loss, tokens per second and the time left."""

    def __init__(
        self, start: int, steps: int, tokens_per_step: int, later_tokens: float | None = None
    ) -> None:
        """Begins.

        Args:
            start: optimizer steps that are already done.
            steps: all of them.
            tokens_per_step: tokens of one.
            later_tokens: what the stages after this one take, as that many tokens of this stage;
                None where there are no other stages.
        """
        self._steps = steps
        self._tokens_per_step = tokens_per_step
        self._later_tokens = later_tokens
        self._done = float(start)
        self._compiling = True
        self._marks: collections.deque[tuple[float, float]] = collections.deque(maxlen=50)
        self._progress = rich.progress.Progress(
            rich.progress.TextColumn("step {task.fields[step]}/{task.total:.0f}", markup=False),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.TextColumn("{task.fields[status]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(
            "", total=steps, completed=start, step=start, status="compiling"
        )

    def __enter__(self) -> "TrainingProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @property
    def tokens_per_second(self) -> float:
        """The rate over the last micro-batches; 0 before the second one."""
        if len(self._marks) < 2:
            return 0.0
        (first_time, first_done), (last_time, last_done) = self._marks[0], self._marks[-1]
        return (last_done - first_done) * self._tokens_per_step / max(last_time - first_time, 1e-9)

    def advance(self, step: int, share: float, loss: float) -> None:
        """Shows that `step` steps and a share of the next are done; `loss` is the newest one."""
        self._done = done = step + share
        if not self._compiling:
            self._marks.append((time.monotonic(), done))
        self._progress.update(self._task, completed=done, step=int(done), status=self._status(loss))

    def paused(self) -> None:
        """Measures the rate again from here, after something other than training took time."""
        self._compiling = False
        self._marks.clear()

    def report(self, loss: float) -> None:
        """Prints a plain line if there is no terminal."""
        if not console.is_terminal:
            console.print(f"step {self._done:.0f}/{self._steps}  {self._status(loss)}")

    def _status(self, loss: float) -> str:
        rate = self.tokens_per_second
        if not rate:
            return f"loss {loss:.4f}"
        tokens = (self._steps - self._done) * self._tokens_per_step
        left = f"{duration(tokens / rate)} left"
        if self._later_tokens is not None:
            left += f", {duration((tokens + self._later_tokens) / rate)} for all stages"
        return f"loss {loss:.4f}  {rate:,.0f} tokens/s  {left}"


def duration(seconds: float) -> str:
    """Seconds as "2d 03h", "3h 05m", "4m 07s" or "9s"."""
    seconds = round(seconds)
    for size, name, lower, lower_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if seconds >= size:
            return f"{seconds // size}{name} {seconds % size // lower:02d}{lower_name}"
    return f"{seconds // 60}m {seconds % 60:02d}s" if seconds >= 60 else f"{seconds}s"
