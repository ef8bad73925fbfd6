"""The commands, a file for each group of them. Each imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from .errors import CommandError, UsageError
from .parser import parse


def main(argv: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    try:
        arguments = parse(sys.argv[1:] if argv is None else argv)
        command = import_module(f"brakit_sidecar.{arguments.module}")
        code: int = getattr(command, arguments.function)(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where it is known what to do about a reader that is gone
    except UsageError as error:
        print(f"brakit-sidecar: {error}", file=sys.stderr)
        return 2
    except CommandError as error:
        print(f"brakit-sidecar: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `brakit-sidecar log | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter writes out the rest at its end
        return 0
    except OSError as error:  # a path that is not ours, a disk that is full: the message says which
        print(f"brakit-sidecar: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code
