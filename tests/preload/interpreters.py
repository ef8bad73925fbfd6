"""The Python interpreters of this machine, those that are too old to join included. None of them has brakit-sidecar."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from contextlib import suppress

from tests.harness import PATIENCE_S

JOINING = ("3.9", "3.10", "3.11", "3.12", "3.13")
ALL = ("2.7", "3.6", "3.7", "3.8", *JOINING)
THIS = f"{sys.version_info[0]}.{sys.version_info[1]}"

_PRINT_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


def find(version: str) -> str | None:
    """Return the path of an interpreter of that version, as its user installed it. Returns None if there is none."""
    installed = sorted(glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python")))
    named = shutil.which(f"python{version}")
    for path in [*installed, *([named] if named else [])]:
        with suppress(OSError, subprocess.TimeoutExpired):
            ran = subprocess.run(
                [path, "-c", _PRINT_VERSION], capture_output=True, text=True, timeout=PATIENCE_S, check=False
            )
            if (ran.returncode, ran.stdout.strip()) == (0, version):
                return path
    return None


def make_environment(directory: str) -> str:
    """Make a virtual environment with every package of this one but brakit-sidecar. Returns its interpreter.

    The packages are links, so this takes no network and no time.
    """
    venv.create(directory, symlinks=True)
    python = os.path.join(directory, "bin", "python")
    (target,) = glob.glob(os.path.join(directory, "lib", "python*", "site-packages"))
    for source in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for name in os.listdir(source):
            if "brakit_sidecar" not in name and not name.endswith(".pth"):
                os.symlink(os.path.join(source, name), os.path.join(target, name))
    return python
