"""What the operating system tells in small files below /proc and /sys, read without ever failing.

Every function that looks at such files takes the folder they are in, so that a made-up machine is a folder of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path


def read_text(path: Path) -> str | None:
    """The text of a file; None where there is no such file or this user may not read it."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return None


def read_word(path: Path) -> str | None:
    """The text of a file without the space around it; None where it is empty, too."""
    return (read_text(path) or "").strip("\0 \t\n") or None


def read_number(path: Path) -> int | None:
    """The whole number in a file; None where there is none."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None


def read_numbers(paths: Iterator[Path]) -> list[int]:
    """The numbers of those files that hold one."""
    return [number for path in sorted(paths) if (number := read_number(path)) is not None]


def parse_fields(text: str) -> dict[str, str]:
    """`name: value` lines; of a repeated name the first value counts (/proc/cpuinfo has a block for each CPU)."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields


def parse_number_list(text: str) -> tuple[int, ...]:
    """The numbers of a list as the kernel writes it: `0-3,8` are 0, 1, 2, 3 and 8. Other text has none."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        if first.isdecimal() and (last.isdecimal() or not dash):
            numbers.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(numbers))


def number_list_text(numbers: Sequence[int]) -> str:
    """The way back, as `taskset` and `docker` take it as well."""
    runs = [
        [number for _, number in run] for _, run in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])
    ]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
