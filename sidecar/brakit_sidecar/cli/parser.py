"""The command line, on one page: what a stranger reads under ``--help``."""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser, Namespace, RawDescriptionHelpFormatter, _SubParsersAction

from ..core.version import __version__

_DESCRIPTION = """\
brakit's telemetry sidecar: a local daemon that counts for all worker processes of your application
and reports one anonymous summary of each session.

Everything it sends can be seen (log), previewed (status), listed (schema) and switched off (telemetry off).
"""

_EXAMPLES = """\
examples:
  brakit-sidecar run -- gunicorn -w 4 app:app     run an application as one session
  brakit-sidecar demo                             see the whole path at work, on this machine only
  brakit-sidecar log                              what was sent, byte for byte
  BRAKIT_TELEMETRY=false COMMAND                  opt out
"""


def parse(argv: list[str]) -> Namespace:
    """The arguments, with the ``module`` and ``function`` that carry them out. Exits with 2 where they are wrong."""
    parser = ArgumentParser(
        prog="brakit-sidecar",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"brakit-sidecar {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = _command(commands, "run", "cli.run", "run a command as one session, and report it when it ends")
    run.add_argument("command", nargs=REMAINDER, metavar="[--] COMMAND ARG...", help="the command and its arguments")

    start = _command(commands, "start", "cli.daemon", "make sure that the daemon runs; print its socket's path")
    _add_json(start)
    _command(commands, "serve", "cli.daemon", "run the daemon in the foreground")
    _command(commands, "stop", "cli.daemon", "end every session, send what is to be sent, and stop the daemon")
    status = _command(commands, "status", "cli.daemon", "show what the daemon holds now; exit 1 where none runs")
    _add_json(status)

    session = commands.add_parser("session", help="open and end a session, for a CLI that does not use run")
    session_commands = session.add_subparsers(title="commands", metavar="COMMAND", required=True)
    session_start = _command(session_commands, "start", "cli.session", "open a session; print its id")
    session_start.add_argument("--owner-pid", type=int, metavar="PID", help="the session ends when this process does")
    _add_json(session_start)
    session_end = _command(session_commands, "end", "cli.session", "end a session")
    session_end.add_argument("id", metavar="ID", help="as session start printed it")
    session_end.add_argument("--reason", default="clean", help="clean (default), sigint, sigterm, sighup or crash")

    emit = _command(commands, "emit", "cli.emit", "send one journey event")
    emit.add_argument("event", metavar="EVENT", help="cli_invoked, setup_completed, ... (see schema)")
    emit.add_argument("fields", nargs="*", metavar="KEY=VALUE", help="its fields; values are JSON, else text")

    telemetry = _command(commands, "telemetry", "cli.telemetry", "show, give or withdraw consent")
    telemetry.add_argument("action", nargs="?", choices=["status", "on", "off"], default="status")

    log = _command(commands, "log", "cli.log", "show the receipts: every event, byte for byte, and what became of it")
    _add_json(log, "one JSON object a line")
    log.add_argument("--follow", action="store_true", help="go on with new ones as they come")

    schema = _command(commands, "schema", "cli.schema", "list every event and field that can be sent")
    form = schema.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON (default)")
    form.add_argument("--markdown", action="store_true", help="as the README's tables")

    systemd = commands.add_parser("systemd", help="run the daemon as a service of this user's systemd")
    systemd_commands = systemd.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _command(systemd_commands, "install", "cli.systemd", "put the units in place, with the sandbox where it starts")
    _command(systemd_commands, "uninstall", "cli.systemd", "stop the service and remove its units; nothing else")
    _command(systemd_commands, "status", "cli.systemd", "show what is installed and runs; exit 1 where nothing is")

    _command(commands, "demo", "selftest.demo", "show the whole path at work, on this machine only")
    _command(
        commands,
        "audit",
        "selftest.audit",
        "push secrets through everything, on this machine only; show that none arrives",
    )
    return parser.parse_args(argv)


def _command(commands: _SubParsersAction[ArgumentParser], name: str, module: str, does: str) -> ArgumentParser:
    parser = commands.add_parser(name, help=does, description=does[0].upper() + does[1:] + ".")
    parser.set_defaults(module=module, function=name)
    return parser


def _add_json(parser: ArgumentParser, form: str = "as JSON") -> None:
    parser.add_argument("--json", action="store_true", help=form)
