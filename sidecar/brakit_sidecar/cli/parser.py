"""The whole command line and its help texts."""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser, Namespace, RawDescriptionHelpFormatter, _SubParsersAction
from typing import NoReturn

from ..core.printable import printable
from ..core.version import __version__

_DESCRIPTION = """\
brakit's telemetry sidecar: a local daemon that adds up the counts of all worker processes of your application
and reports one anonymous summary of each session.

`log` shows what was sent, `status` what will be sent, `schema` what can be sent; `telemetry off` switches it off.
"""

_EXAMPLES = """\
examples:
  brakit-sidecar run -- gunicorn -w 4 app:app     run an application as one session
  brakit-sidecar demo                             try everything out with an example, on this machine only
  brakit-sidecar log                              show what was sent, byte for byte
  BRAKIT_TELEMETRY=false COMMAND                  opt out
"""


def parse(argv: list[str]) -> Namespace:
    """Parse a command line. The result's ``module`` and ``function`` name the code of the command.

    Exits with code 2 if the command line is wrong.
    """
    parser: ArgumentParser = _Parser(
        prog="brakit-sidecar",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"brakit-sidecar {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = _command(commands, "run", "cli.run", "run a command as one session, and report it when it ends")
    run.add_argument(
        "--no-inject",
        dest="inject",
        action="store_false",
        help="keep NODE_OPTIONS and PYTHONPATH as they are; brakit applications then do not join by themselves",
    )
    run.add_argument("command", nargs=REMAINDER, metavar="[--] COMMAND ARG...", help="the command and its arguments")

    start = _command(commands, "start", "cli.daemon", "make sure that the daemon runs; print its socket's path")
    _add_json(start)
    _command(commands, "serve", "cli.daemon", "run the daemon in the foreground")
    _command(commands, "stop", "cli.daemon", "end every session, send the queued events, and stop the daemon")
    status = _command(commands, "status", "cli.daemon", "show the daemon's state and its sessions; exit 1 if none runs")
    _add_json(status)

    session = commands.add_parser("session", help="open and end a session, for a CLI that does not use run")
    session_commands = session.add_subparsers(title="commands", metavar="COMMAND", required=True)
    session_start = _command(session_commands, "start", "cli.session", "open a session; print its id")
    session_start.add_argument("--owner-pid", type=int, metavar="PID", help="end the session when this process ends")
    _add_json(session_start)
    session_end = _command(session_commands, "end", "cli.session", "end a session")
    session_end.add_argument("id", metavar="ID", help="the id that session start printed")
    session_end.add_argument("--reason", default="clean", help="clean (default), sigint, sigterm, sighup or crash")

    emit = _command(commands, "emit", "cli.emit", "report one journey event")
    emit.add_argument("event", metavar="EVENT", help="cli_invoked, setup_completed, ... (see schema)")
    emit.add_argument("fields", nargs="*", metavar="KEY=VALUE", help="its fields; a value that is not JSON is text")

    telemetry = _command(commands, "telemetry", "cli.telemetry", "show whether telemetry is on, or switch it on or off")
    telemetry.add_argument("action", nargs="?", choices=["status", "on", "off"], default="status")
    telemetry.add_argument("--forget", action="store_true", help="with off: also remove the receipts")
    _add_json(telemetry)

    log = _command(commands, "log", "cli.log", "show the receipts: every event, byte for byte, and its outcome")
    _add_json(log, "as one JSON object a line")
    log.add_argument("--follow", action="store_true", help="continue with new receipts until interrupted")

    schema = _command(commands, "schema", "cli.schema", "list every event and field that can be sent")
    form = schema.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON (default)")
    form.add_argument("--markdown", action="store_true", help="as the README's tables")

    systemd = commands.add_parser("systemd", help="run the daemon as a service of this user's systemd")
    systemd_commands = systemd.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _command(systemd_commands, "install", "cli.systemd", "install the units, sandboxed if the service starts that way")
    _command(systemd_commands, "uninstall", "cli.systemd", "stop the service and remove its units")
    _command(systemd_commands, "status", "cli.systemd", "show the installed units and their state; exit 1 if none")

    _command(commands, "demo", "selftest.demo", "run an example application and show its events, on this machine only")
    _command(commands, "audit", "selftest.audit", "feed secrets to every input and search every output for them")
    return parser.parse_args(argv)


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print the message, which may quote an argument, and exit with 2."""
        super().error(printable(message))


def _command(commands: _SubParsersAction[ArgumentParser], name: str, module: str, text: str) -> ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(module=module, function=name)
    return parser


def _add_json(parser: ArgumentParser, form: str = "as JSON") -> None:
    parser.add_argument("--json", action="store_true", help=form)
