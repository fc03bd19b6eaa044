"""How far a batch is: a bar on stderr with rate and time left, or a line now and then where stderr is no terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from edge.batch import Totals
from edge.quantities import counted
from edge.terminal import note

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

_NOTE_SECONDS = 10.0


class Display(Protocol):
    """Shows totals, and knows the last ones."""

    totals: Totals

    def update(self, totals: Totals) -> None: ...
    def close(self) -> None: ...


@contextlib.contextmanager
def batch_progress(lines: int) -> Iterator[Display]:
    """A display for so many lines."""
    display: Display = BarDisplay(lines) if sys.stderr.isatty() else NoteDisplay(lines)
    try:
        yield display
    finally:
        display.close()


class NoteDisplay:
    """A line whenever some seconds have passed."""

    def __init__(self, lines: int) -> None:
        self.totals = Totals()
        self._lines = lines
        self._noted_seconds = 0.0

    def update(self, totals: Totals) -> None:
        self.totals = totals
        is_due = totals.seconds - self._noted_seconds >= _NOTE_SECONDS
        if is_due and 0 < totals.lines < self._lines:
            self._noted_seconds = totals.seconds
            left_seconds = (self._lines - totals.lines) * totals.seconds / totals.lines
            rate = f"{totals.tokens_per_second:.0f} tokens/s"
            note(f"{totals.lines:,} of {self._lines:,} lines, {rate}, {duration_text(left_seconds)} left")

    def close(self) -> None:
        pass


class BarDisplay:
    """A bar that is drawn over and over."""

    def __init__(self, lines: int) -> None:
        self.totals = Totals()
        self._bar = _bar()
        self._task = self._bar.add_task("Answering", total=lines, rate="")
        self._bar.start()

    def update(self, totals: Totals) -> None:
        self.totals = totals
        self._bar.update(self._task, completed=totals.lines, rate=f"{totals.tokens_per_second:.0f} tokens/s")

    def close(self) -> None:
        self._bar.stop()


def summary(totals: Totals) -> str:
    """What a batch came to, in one line."""
    written = counted(totals.completion_tokens, "token")
    return (
        f"{counted(totals.lines, 'line')} in {duration_text(totals.seconds)}: {written},"
        f" {totals.tokens_per_second:.0f} tokens/s;"
        f" {totals.cached_share:.0%} of {totals.prompt_tokens:,} prompt tokens came from the cache"
    )


def duration_text(seconds: float) -> str:
    """1.5 s, 2 min 05 s, 3 h 04 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("lines, {task.fields[rate]}, left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
