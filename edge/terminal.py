"""What every command needs of the terminal: error lines, progress bars, text from stdin."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edge.errors import EdgeError

if TYPE_CHECKING:
    from convert.pool import Progress


def report_error(error: EdgeError) -> None:
    """Two lines on stderr: what happened, and what to do."""
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint:  {error.hint}", file=sys.stderr)


def note(text: str) -> None:
    """A line on stderr, where it does not mix with results."""
    print(text, file=sys.stderr, flush=True)


def read_stdin() -> str:
    """All of stdin as text. EdgeError if it is not UTF-8."""
    return decode_utf8(sys.stdin.buffer.read(), "stdin")


def decode_utf8(content: bytes, name: str) -> str:
    """The text of some bytes. EdgeError that says where they stop being UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EdgeError(
            f"{name} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}.",
            hint="Convert it first, for example with: iconv -t UTF-8",
        ) from error


@contextlib.contextmanager
def byte_progress(label: str) -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr with bytes, rate and time left, fed with conversion progress; silent when stderr is a file."""
    if not sys.stderr.isatty():
        note(f"{label} ...")
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None)
        yield lambda progress: bar.update(task, completed=progress.done_bytes, total=progress.total_bytes)
