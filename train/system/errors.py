"""What the command lines turn into a line on stderr and exit code 2."""


class UserError(Exception):
    """Something that the user can mend; the message says what, where and what to do, in a line."""


class TasksFailedError(UserError):
    """Tasks of a preparation failed somewhere else; what the others did is kept."""
