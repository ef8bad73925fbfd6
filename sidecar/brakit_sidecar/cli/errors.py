"""How a command fails: one line that says what is wrong and what to do."""


class CommandError(Exception):
    """It failed: exit code 1."""


class UsageError(Exception):
    """The command line is wrong: exit code 2."""
