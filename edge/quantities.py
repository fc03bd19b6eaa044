"""Numbers as people read and write them: 5.76 GB, 9.24 B, 49,152 tokens."""

from __future__ import annotations

import re

from edge.errors import EdgeError

_SIZE_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_COUNT_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"))


def size_text(n_bytes: int) -> str:
    """Bytes in decimal units with three digits, as disks and downloads are labelled."""
    for unit, name in _SIZE_UNITS:
        if n_bytes >= unit:
            return f"{_three_digits(n_bytes / unit)} {name}"
    return f"{n_bytes} {'byte' if n_bytes == 1 else 'bytes'}"


def parse_size(text: str) -> int:
    """Bytes of a size as people write it, in decimal units: 2GB, 500M, 1.5 GB, 4096. EdgeError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    n_bytes = int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " ")) if match else 0
    if not n_bytes:
        raise EdgeError(f"{text!r} is not a size.", hint="Write it with a unit, such as 2GB or 500M.")
    return n_bytes


def count_text(count: int) -> str:
    """A count of parameters with three digits: 135 M, 9.24 B. Smaller ones are written out."""
    for unit, letter in _COUNT_UNITS:
        if count >= unit:
            return f"{_three_digits(count / unit)} {letter}"
    return f"{count:,}"


def counted(count: int, thing: str) -> str:
    """So many of a thing: 1 token, 1,224 tokens."""
    return f"{count:,} {thing}{'s' * (count != 1)}"


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
