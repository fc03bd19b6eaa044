"""Answers in a terminal as they are written: as Markdown where the terminal can redraw a line, and else as they are.

Answers go to stdout and everything else to stderr.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from math import ceil
from typing import TYPE_CHECKING, Protocol, TextIO

from edge.quantities import counted
from edge.request import Completion
from edge.session_list import one_line
from edge.tables import printable
from edge.terminal import note

if TYPE_CHECKING:
    from rich.console import Console

_ENDS = {"length": "cut off at the token limit", "cancelled": "interrupted", "deadline": "out of time"}
_FENCE = "`" * 12
_REDRAW_SECONDS = 0.04
_DRAWING_SHARE = 4  # at most 1/4 of the time is spent on drawing


class AnswerWriter(Protocol):
    """Shows one answer."""

    def write(self, piece: str) -> None:
        """More of the answer."""

    def finish(self) -> None:
        """There will be no more of it; the next line is free."""


def can_redraw(stream: TextIO) -> bool:
    """Whether a stream is a terminal that moves its cursor."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def answer_writer(stream: TextIO, *, is_plain: bool, language: str = "") -> AnswerWriter:
    """What suits the stream. With a language, answers are no Markdown but code in it."""
    if is_plain or not can_redraw(stream):
        return PlainWriter(stream)
    from rich.console import Console

    return MarkdownWriter(Console(file=stream), opening=f"{_FENCE}{language}\n" if language else "")


class PlainWriter:
    """Text as it comes; for a terminal, without what could steer it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()

    def write(self, piece: str) -> None:
        if self._is_terminal:
            from edge.terminal_markdown import without_control

            piece = without_control(piece)
        self._stream.write(piece)
        self._stream.flush()

    def finish(self) -> None:
        self._stream.write("\n")
        self._stream.flush()


class MarkdownWriter:
    """Markdown, block by block: finished ones are printed once, and of the open one only what changes is redrawn."""

    def __init__(self, console: Console, *, opening: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        """`opening` is Markdown in front of all that is written."""
        self._console = console
        self._clock = clock
        self._lines = _RedrawnLines(console)
        self._open = opening
        self._drawn_at = -1.0
        self._pause_seconds = 0.0

    def write(self, piece: str) -> None:
        from edge.terminal_markdown import without_control

        self._open = (self._open + without_control(piece)).lstrip("\n")
        now = self._clock()
        if now - self._drawn_at >= self._pause_seconds:
            self._draw()
            self._drawn_at = self._clock()
            self._pause_seconds = max(_REDRAW_SECONDS, _DRAWING_SHARE * (self._drawn_at - now))

    def finish(self) -> None:
        self._draw(is_last=True)
        self._lines.keep()

    def _draw(self, *, is_last: bool = False) -> None:
        from edge.terminal_markdown import decided, rendered_lines, split_blocks

        shown = self._open if is_last else decided(self._open)
        *finished, last = split_blocks(shown)
        for block in finished:
            self._lines.draw([*rendered_lines(block, self._console), ""])
            self._lines.keep()
            self._open = self._open[len(block) :]
        if last.strip():
            self._lines.draw(rendered_lines(last, self._console))


class _RedrawnLines:
    """The lowest lines of a terminal, drawn again from the first one that changes. The cursor is behind the last."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawn: list[str] = []
        self._width = console.width

    def draw(self, lines: list[str]) -> None:
        pairs = zip(self._drawn, lines, strict=False)
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(self._drawn), len(lines)))
        heights = [self._height(line) for line in self._drawn]
        while sum(heights[same:]) > self._console.height - 1:
            same += 1  # what has left the screen stays as it is
        if same == len(lines) == len(self._drawn):
            return
        if same == len(lines) > 0:
            same -= 1  # the cursor has to end behind a line
        self._write(self._back_to(same, heights) + "\n".join(lines[same:]))
        self._drawn = lines
        self._width = self._console.width

    def keep(self) -> None:
        """Leave what is drawn as it is, and begin below."""
        if self._drawn:
            self._write("\n")
        self._drawn = []

    def _back_to(self, line: int, heights: list[int]) -> str:
        """Sequences that erase the drawn lines from one on, and put the cursor where it began."""
        if line >= len(self._drawn):
            return "\n" if self._drawn else ""
        up = sum(heights[line:]) - 1
        return "\r" + (f"\x1b[{up}A" if up else "") + "\x1b[J"

    def _height(self, line: str) -> int:
        """Rows that a line takes: more than one if the terminal has become narrower."""
        if self._console.width >= self._width:
            return 1
        from rich.text import Text

        return max(1, ceil(Text.from_ansi(line).cell_len / self._console.width))

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()


def summary(completion: Completion, context_tokens: int, columns: int = 0) -> str:
    """What an answer took, in a line: `57 tokens · 34.1 tokens/s · first after 0.12 s · context 312 / 8192`.

    Where `columns` do not hold that, in a shorter form.
    """
    usage, timing = completion.usage, completion.timing
    rate = timing.tokens_per_second(usage)
    used = usage.prompt_tokens + usage.completion_tokens
    is_full = completion.finish_reason == "length" and used >= context_tokens
    end = "cut off as the context is full" if is_full else _ENDS.get(completion.finish_reason, "")
    long = (
        counted(usage.completion_tokens, "token"),
        f"{rate:.1f} tokens/s" if rate else "",
        f"first after {timing.first_token_seconds:.2f} s" if usage.completion_tokens else "",
        f"context {used} / {context_tokens}",
        end,
    )
    short = (
        f"{rate:.1f} tok/s" if rate else "",
        f"{timing.first_token_seconds:.2f} s" if usage.completion_tokens else "",
        f"{used}/{context_tokens}",
        end,
    )
    line = " · ".join(part for part in long if part)
    return line if not columns or len(line) < columns else " · ".join(part for part in short if part)


def quiet_note(text: str) -> None:
    """A line on stderr that does not ask for attention."""
    line = _broken(printable(text))
    note(_dim(line) if can_redraw(sys.stderr) else line)


def _dim(text: str) -> str:
    return f"\x1b[2m{text}\x1b[0m"


def say(text: str) -> None:
    """A line on stderr that may hold what people, files and models say."""
    note(_broken(printable(text)))


def note_columns() -> int:
    """Of the terminal that notes go to; 0 where that is none."""
    return os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else 0


def _broken(text: str) -> str:
    """A text with its lines broken between words to fit the terminal, each part indented as its line is."""
    columns = note_columns()
    if not columns:
        return text
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(line, columns, subsequent_indent=indent, break_on_hyphens=False) or [""]
    return "\n".join(lines)


@contextlib.contextmanager
def passing_note(text: str) -> Iterator[Callable[[], None]]:
    """A note on stderr that is there until the function it gives is called; nothing where none could be taken back."""
    is_shown = bool(text) and can_redraw(sys.stderr)
    if is_shown:
        columns = note_columns()  # where it took two rows, one would stay
        sys.stderr.write(_dim(one_line(printable(text), columns - 1) if columns else printable(text)))
        sys.stderr.flush()

    def clear() -> None:
        nonlocal is_shown
        if is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        is_shown = False

    try:
        yield clear
    finally:
        clear()


@contextlib.contextmanager
def interrupting(cancel: Callable[[], None]) -> Iterator[None]:
    """Inside the block, the first Ctrl-C calls `cancel` and any further one interrupts as usual."""

    usual = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, usual)
        cancel()

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


@contextlib.contextmanager
def silent_keyboard() -> Iterator[None]:
    """Inside the block, what is typed does not show; it is there for the next prompt."""
    if sys.platform == "win32" or not sys.stdin.isatty():  # on Windows nothing shows anyway
        yield
        return
    import termios

    try:
        descriptor = sys.stdin.fileno()
        usual = termios.tcgetattr(descriptor)
    except (OSError, termios.error):
        yield
        return
    silent = [*usual]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, usual)
