"""Workers' memories as the daemon holds them: descriptors of somebody else's file, in which nothing is trusted."""

from __future__ import annotations

import os
import stat

from sidecar.core import slab


class WorkersMemory:
    """One worker's memory; ours to close. Read with pread and never mapped: a worker that truncates its file must not
    be able to hurt us.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def is_acceptable(self) -> bool:
        """Whether it is what a worker of ours would pass: a regular file of ours, of the right size, with its magic.
        Whoever is told that it was taken says nothing more of its counts.
        """
        info = os.fstat(self._fd)
        is_ours = stat.S_ISREG(info.st_mode) and info.st_uid == os.getuid() and info.st_size == slab.SIZE
        return is_ours and self.read() is not None

    def read(self) -> slab.Contents | None:
        """What is counted in it by now; None where it is no longer what it was."""
        try:
            head = os.pread(self._fd, slab.CELL * slab.FIRST_ROW, 0)
            used = slab.used_rows(head)
            return None if used is None else slab.read(os.pread(self._fd, slab.CELL * slab.row_cell(used), 0))
        except OSError:
            return None

    def close(self) -> None:
        os.close(self._fd)
