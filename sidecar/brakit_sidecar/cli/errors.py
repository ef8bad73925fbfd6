"""The errors of a command. Each message is one line that states what is wrong and what to do."""


class CommandError(Exception):
    """The command failed. Its exit code is 1."""


class UsageError(Exception):
    """The command line is wrong. The exit code is 2."""
