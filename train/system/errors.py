"""Errors that end a command with one line on stderr and exit code 2."""


class UserError(Exception):
    """A mistake that the user can correct; one line says what is wrong, where, and what to do."""


class TasksFailedError(UserError):
    """Tasks of a preparation failed in other processes; the results of the others are kept."""
