"""Keeps llama.cpp's log off the terminal and remembers its last lines, so that an error can say what it said."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections import deque
from collections.abc import Iterator
from typing import Any

from edge.llama.binding import llama

_WARNING = 3
_ERROR = 4
_CONTINUED = 5
_KEPT_LINES = 200

_lines: deque[tuple[int, str]] = deque(maxlen=_KEPT_LINES)
_recorders: list[list[str]] = []
_echo_descriptors: list[int] = []


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def _receive(level: int, text: bytes, user_data: Any) -> None:
    line = text.decode("utf-8", "replace")
    if level == _CONTINUED and _lines:
        level, start = _lines.pop()
        line = start + line
    _lines.append((level, line))
    for recorder in _recorders:
        recorder.append(line)
    for descriptor in _echo_descriptors if level >= _WARNING else ():
        os.write(descriptor, text)  # at once: what comes next may be the end of the process


def capture() -> None:
    """Route llama.cpp's and ggml's log to this module."""
    llama.llama_log_set(_receive, ctypes.c_void_p(0))


def first_error() -> str:
    """The first error line since `forget`, without its function name, or an empty string.

    The first one names the cause; those after it only say what failed in turn.
    """
    errors = (line for level, line in _lines if level == _ERROR)
    line = next(errors, "").strip()
    name, separator, rest = line.partition(": ")
    return rest if separator and " " not in name else line


def forget() -> None:
    """Drop what was logged so far, so that `first_error` speaks of what comes next."""
    _lines.clear()


def echo_problems(descriptor: int) -> None:
    """From now on, write warnings and errors to a file descriptor too, as they come."""
    _echo_descriptors.append(descriptor)


@contextlib.contextmanager
def recorded() -> Iterator[list[str]]:
    """A list that receives every line logged inside the block."""
    lines: list[str] = []
    _recorders.append(lines)
    try:
        yield lines
    finally:
        _recorders.remove(lines)
