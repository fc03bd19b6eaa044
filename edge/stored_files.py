"""Files of the model store: safe names for them, their hashes, and locks between processes that make them."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import EdgeError

if TYPE_CHECKING:
    from convert.pool import ProgressCallback

    Display = Callable[[str], AbstractContextManager[ProgressCallback]]  # a label to what shows progress under it

SHA256 = re.compile(r"[0-9a-f]{64}")

_BLOCK_BYTES = 1 << 20
_RESERVED = re.compile(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?", re.IGNORECASE)  # devices on Windows
_NAME_LIMIT = 200


@dataclass(frozen=True)
class StoredFile:
    """A file of a model: its name in the repository or bundle, and its content by which it is known again."""

    name: str
    size_bytes: int
    sha256: str


def is_safe_name(name: str) -> bool:
    """Whether a name with slashes, from a stranger, stays below the folder that it is put in, on every system."""
    return len(name) <= _NAME_LIMIT and all(_is_safe_part(part) for part in name.split("/"))


def _is_safe_part(part: str) -> bool:
    if part in ("", ".", "..") or part[-1] in ". " or _RESERVED.fullmatch(part):
        return False
    return part.isprintable() and not any(letter in part for letter in '\\:*?"<>|')


def sha256_of(path: Path, progress: ProgressCallback | None = None) -> str:
    """The hash of a file's content. EdgeError if it cannot be read."""
    from convert.pool import Progress

    digest = hashlib.sha256()
    done_bytes = 0
    try:
        total_bytes = path.stat().st_size
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
                done_bytes += len(block)
                if progress and (done_bytes % (64 * _BLOCK_BYTES) == 0 or done_bytes == total_bytes):
                    progress(Progress(done_bytes, total_bytes))
    except OSError as error:
        raise EdgeError(
            f"{path} cannot be read: {error.strerror or error}.", hint="Check its permissions and the disk."
        ) from error
    return digest.hexdigest()


@contextlib.contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """The lock at `path`, held by one process at a time; says so once when another one has it.

    The system lets go of it when the process ends, however it ends.
    """
    from filelock import FileLock, Timeout

    from edge.terminal import note

    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            note(f"Another process is at work on {what}: waiting for it")
            lock.acquire()
    except OSError as error:
        raise EdgeError(
            f"The cache folder {path.parent.parent} cannot be written: {error.strerror or error}.",
            hint="Name another folder in the environment variable EDGE_CACHE.",
        ) from error
    try:
        yield
    finally:
        lock.release()
