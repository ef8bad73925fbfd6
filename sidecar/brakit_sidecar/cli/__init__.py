"""The commands, one file for each group. A command's modules are imported only when it runs, so that it starts fast."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from ..host import standard_fds
from .errors import CommandError, UsageError
from .parser import parse
from .terminal import complain


def main(argv: list[str] | None = None) -> int:
    """Run one command line. Returns its exit code: 0 done, 1 failed, 2 wrong command line."""
    try:
        standard_fds.fill()  # first, before anything else is opened
        arguments = parse(sys.argv[1:] if argv is None else argv)
        command = import_module(f"brakit_sidecar.{arguments.module}")
        code: int = getattr(command, arguments.function)(arguments)
        sys.stdout.flush()  # here, because a BrokenPipeError at the interpreter's exit could not be handled
    except UsageError as error:
        complain(str(error))
        return 2
    except CommandError as error:
        complain(str(error))
        return 1
    except BrokenPipeError:  # the reader closed the pipe, as in `brakit-sidecar log | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes stdout when it exits
        return 0
    except OSError as error:  # for example a full disk; the message tells which error it is
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return code
