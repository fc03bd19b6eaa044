"""Claims a file or folder that is being made, so that no second conversion writes into it.

The system keeps the claim by a lock on the file itself: it ends with the process, however that ends, and leaves nothing
behind. Whoever holds one renames or removes the file before letting go.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path

from edge.errors import EdgeError

if sys.platform != "win32":
    import fcntl

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # some network file systems


class ClaimedError(EdgeError):
    """Somebody else is making the file."""


class Claim:
    """A file or folder that is this conversion's alone until `release`. A file is made if there is none."""

    def __init__(self, path: Path, *, made_for: Path) -> None:
        """ClaimedError, which names `made_for`, if another conversion has it; OSError if it cannot be opened."""
        self._descriptor: int | None = None
        if sys.platform == "win32":
            return
        while self._descriptor is None:
            self._descriptor = _open(path)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self.release()
                raise ClaimedError(
                    f"{made_for} is being made by another conversion.",
                    hint="Wait until it has ended, or write elsewhere with --out.",
                ) from error
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
            if not _is_at(self._descriptor, path):  # its maker renamed it meanwhile: this is a finished file
                self.release()

    def release(self) -> None:
        """Let go. Safe to call twice."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _open(path: Path) -> int:
    """Without emptying it: it may be another's."""
    if path.is_dir():
        return os.open(path, os.O_RDONLY)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def _is_at(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
