"""A file that appears under its name whole, or not at all, however many write it at the same time."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_ANYONE = 0o666  # as far as the umask lets them
_OWNER = 0o600


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that gets its name when it is closed and on the disk; on any failure nothing is left of it.

    Each writer has a temporary file of its own beside `path`, in whichever thread or process; the last one's stays.
    What was there before is untouched until then, and passes on its permissions; a link stays one. What is no regular
    file, such as a pipe or /dev/stdout, is written as it is. OSErrors are left to the caller, who knows what it writes.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") as file:
            yield file
        return
    with _renamed_at_last(path, _ANYONE) as (file, part):
        yield file
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(path, part)


@contextlib.contextmanager
def written_privately(path: Path) -> Iterator[BinaryIO]:
    """The same for what only its owner may read, from its first byte on. It takes the place of what was there before,
    a link included: nothing is ever written to where that leads."""
    with _renamed_at_last(path, _OWNER) as (file, _):
        yield file


@contextlib.contextmanager
def _renamed_at_last(path: Path, mode: int) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file beside `path`, and its name until it is renamed."""
    part = path.with_name(f"{path.name}.{os.urandom(6).hex()}.part")  # process numbers come again in a container
    file = open(part, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115  # closed below
    try:
        with file:
            yield file, part
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
