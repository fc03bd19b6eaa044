"""What every command needs of the terminal: error lines, progress bars, text from stdin."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edge.errors import EdgeError
from edge.quantities import size_text

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from convert.pool import Progress


def report_error(error: EdgeError) -> None:
    """Two lines on stderr: what happened, and what to do."""
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint:  {error.hint}", file=sys.stderr)


def note(text: str) -> None:
    """A line on stderr, where it does not mix with results."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """While it lasts, a warning is a line on stderr, without the place in the code that gives it."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: note(f"warning: {message}")
        yield


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
    """A bar on stderr with bytes, rate and time left, once progress is reported; a line when stderr is no terminal."""
    display = _Bar(label) if sys.stderr.isatty() else _Line(label)
    try:
        yield display.update
    finally:
        display.close()


class _Line:
    """Says once what is going on."""

    def __init__(self, label: str) -> None:
        self._label: str | None = label

    def update(self, progress: Progress) -> None:
        if self._label:
            note(f"{self._label}: {size_text(progress.total_bytes)}")
            self._label = None

    def close(self) -> None:
        pass


class _Bar:
    """A progress bar that is drawn from the first report on, so that work that was not needed shows nothing."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Bar | None = None

    def update(self, progress: Progress) -> None:
        bar = self._bar = self._bar or self._start()
        bar.update(bar.task_ids[0], completed=progress.done_bytes, total=progress.total_bytes)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()

    def _start(self) -> Bar:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        bar = Bar(*columns, console=Console(stderr=True))
        bar.add_task(self._label)
        bar.start()
        return bar
