"""Errors that end a command with one line on stderr and exit code 2."""


class UserError(Exception):
    """A mistake that the user can correct; the message says in one line what, where, what to do."""


class TasksFailedError(UserError):
    """Tasks of a preparation failed somewhere else; what the others did is kept."""
