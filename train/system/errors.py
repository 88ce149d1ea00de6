"""Errors that end a command with one line on stderr and exit code 2."""


class UserError(Exception):
    """A mistake that the user can correct; one line says what is wrong, where, and what to do."""


class ResumableError(UserError):
    """An error after which a run can go on; what it says ends with what to type for that."""

    def __init__(self, problem: str, rest: str = "") -> None:
        """What is wrong, and what to give or do besides, such as " and a lower rate"."""
        super().__init__(problem, rest)
        self._problem, self._rest = problem, rest

    def __str__(self) -> str:
        return self.advising("--resume")

    def advising(self, what: str) -> str:
        """The message, where this is what resumes the run."""
        return f"{self._problem}: continue with {what}{self._rest}"


class TasksFailedError(UserError):
    """Tasks of a preparation failed in other processes; the results of the others are kept."""
