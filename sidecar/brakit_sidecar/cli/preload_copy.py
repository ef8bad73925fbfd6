"""The private copy of the preload files, whose paths NODE_OPTIONS and PYTHONPATH hold below ``run``.

Every Node below ends with an error if its preload file is missing. So the copy is apart from this package, which may be
upgraded or removed while the command runs, and from the runtime directory, which a logout removes. Its directory is
named by the version and the content, and its files are never changed: another version makes another copy. Old copies
are kept, because a command that still runs may use them.

    preload-<version>-<checksum>/node/      brakit.cjs and the modules that it loads
                                 python/    sitecustomize.py alone, because PYTHONPATH holds this directory
                                 lib/       the worker's side of this package, for a Python environment without it

A Python keeps its compiled files beside these, in __pycache__.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from contextlib import suppress
from zlib import crc32

from ..core.injection import NODE_ENTRY, Preload
from ..core.version import __version__
from ..host import paths, secure_files

_WORKERS_SIDE = ("client", "core", "host", "integrations")  # the folders that a worker imports from
_RESTORE_ATTEMPTS, _RESTORE_PAUSE_S = 50, 0.002  # the removal of all files takes a few ms; a full disk takes them all
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class PreloadCopy:
    """One copy. It is restored if its files are removed while the command runs."""

    def __init__(self, directory: str, files: dict[str, bytes]) -> None:
        """``files`` are the contents by their paths below ``directory``."""
        self._directory = directory
        self._files = files
        self._watched: list[int] = []

    @property
    def paths(self) -> Preload:
        """Return the paths for the command's environment."""
        return Preload(os.path.join(self._directory, NODE_ENTRY), os.path.join(self._directory, "python"))

    def ensure(self) -> None:
        """Write each file that is missing or different. Raises OSError."""
        secure_files.ensure_directory(os.path.dirname(self._directory))  # first, because it may be another user's
        secure_files.ensure_directory(self._directory)
        for directory in sorted({os.path.dirname(name) for name in self._files}):
            secure_files.ensure_directory(os.path.join(self._directory, directory))
        for name, content in self._files.items():
            path = os.path.join(self._directory, name)
            if not _has_content(path, content):
                _write(path, content)

    def watch(self) -> None:
        """Have the kernel send SIGIO when a file that Node needs is removed. The caller must have blocked SIGIO.

        Does nothing on a system other than Linux, because only Linux can do that.
        """
        self._stop_watching()
        if sys.platform != "linux":
            return
        for directory in (self._directory, os.path.join(self._directory, "node")):
            with suppress(OSError):
                fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                self._watched.append(fd)
                fcntl.fcntl(fd, fcntl.F_NOTIFY, fcntl.DN_DELETE | fcntl.DN_RENAME | fcntl.DN_MULTISHOT)

    def restore(self) -> None:
        """Write the files again, as far as that is possible, after some were removed. Never raises OSError.

        Race: a Node that starts between the removal and this call ends with an error. A Node takes 10 ms to get to its
        preload file, and the restoration takes 1 ms.

        Race: the removal of a whole directory goes on meanwhile. It may remove a directory before a file is written
        into it, or a file before its directory is watched. So the files are checked after the directories are watched.
        """
        for _attempt in range(_RESTORE_ATTEMPTS):
            with suppress(OSError):
                self.ensure()
            self.watch()
            if all(_has_content(os.path.join(self._directory, name), content) for name, content in self._files.items()):
                return
            time.sleep(_RESTORE_PAUSE_S)

    def _stop_watching(self) -> None:
        for fd in self._watched:
            os.close(fd)
        self._watched.clear()


def of_this_package() -> PreloadCopy:
    """Return the copy of this package's files, which may not be written yet. Raises OSError."""
    files = _files()
    checksum = 0
    for path, content in sorted(files.items()):
        checksum = crc32(content, crc32(path.encode(), checksum))
    directory = os.path.join(paths.state_dir(), f"preload-{__version__}-{checksum:08x}")
    return PreloadCopy(directory, files)


def _files() -> dict[str, bytes]:
    files = {
        "python/sitecustomize.py": _read(os.path.join(_PACKAGE, "preload", "sitecustomize.py")),
        "lib/brakit_sidecar/__init__.py": _read(os.path.join(_PACKAGE, "__init__.py")),
    }
    for folder in _WORKERS_SIDE:
        files |= _folder(os.path.join(_PACKAGE, folder), f"lib/brakit_sidecar/{folder}", ".py")
    node = _node_directory()
    return files | _folder(node, "node", ".cjs") | _folder(os.path.join(node, "lib"), "node/lib", ".cjs")


def _node_directory() -> str:
    """Return the directory of the Node package. It is in the installed package, or beside the package in a checkout."""
    packaged = os.path.join(_PACKAGE, "preload", "node")
    return packaged if os.path.isdir(packaged) else os.path.join(os.path.dirname(_PACKAGE), "node")


def _folder(directory: str, name: str, ending: str) -> dict[str, bytes]:
    found = sorted(entry for entry in os.listdir(directory) if entry.endswith(ending))
    return {f"{name}/{entry}": _read(os.path.join(directory, entry)) for entry in found}


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _has_content(path: str, content: bytes) -> bool:
    """Return whether the path is a file of this user with that content."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with open(fd, "rb") as file:
        return secure_files.is_own_file(path) and file.read(len(content) + 1) == content


def _write(path: str, content: bytes) -> None:
    """Write a file beside its path and rename it, so that a process never reads a part of it."""
    new = f"{path}.{os.getpid()}.new"
    with open(secure_files.open_file(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
        file.write(content)
    secure_files.replace(path, by=new)
