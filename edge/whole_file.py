"""A file that appears under its name whole, or not at all, however many write it at the same time."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_numbers = itertools.count()


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
    part = path.with_name(f"{path.name}.{os.getpid()}-{next(_numbers)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(path, part)
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
