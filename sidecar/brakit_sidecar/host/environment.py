"""The environments of the processes that this package starts for itself: the variables named here, and no others.

A user's environment may hold passwords, which anyone who may read a daemon's /proc files would find there for as long
as the daemon runs. It may also hold variables that load code into a process (LD_PRELOAD), or that write a connection's
keys into a file (SSLKEYLOGFILE).
"""

from __future__ import annotations

from . import guards

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# What a Python that is started with -I needs besides its own path.
INTERPRETER = (
    "LANG", "LC_ALL", "LC_CTYPE",  # the encoding of file names; all processes must decode a path to the same text
    "LD_LIBRARY_PATH",  # a Python with a shared libpython may not start without it, for example that of setup-python
)  # fmt: skip

# All variables that a daemon reads, in this package and in the libraries that it uses.
DAEMON = (
    *INTERPRETER,
    "HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME",  # where its files are
    "BRAKIT_TELEMETRY", "DO_NOT_TRACK", *guards.VARIABLES,  # consent, which the daemon decides for itself
    "BRAKIT_TELEMETRY_ENDPOINT", "BRAKIT_TELEMETRY_KEY", "BRAKIT_DEBUG",
    "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy",  # only https has a proxy
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip


def only(names: tuple[str, ...], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of ``environ`` that have one of these names."""
    return {name: environ[name] for name in names if name in environ}
