"""The command: ``brakit-sidecar``, or ``python -m brakit_sidecar``."""

import os
import sys


def _remove_working_directory() -> None:
    """Remove the working directory from the front of ``sys.path``, where ``python -m`` puts it.

    A user's ``json.py`` or ``socket.py`` in that directory would otherwise replace the standard library's module in
    this process. Does nothing in safe mode (``-P``, ``-I``, PYTHONSAFEPATH), because Python then adds no directory,
    and the first entry is the user's choice.
    """
    if sys.flags.isolated or getattr(sys.flags, "safe_path", False):
        return
    try:
        added = os.getcwd()
    except OSError:  # the directory was removed; Python then adds no entry for it
        return
    if sys.path[0] in ("", added):
        del sys.path[0]


if __name__ == "__main__":
    _remove_working_directory()  # before the next import; `os` and `sys` are loaded before any user's file

from .cli import main  # noqa: E402 (the working directory must be off sys.path first)

if __name__ == "__main__":
    sys.exit(main())
