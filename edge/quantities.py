"""Numbers as people read them: 5.76 GB, 9.24 B, 49,152."""

from __future__ import annotations

_SIZE_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_COUNT_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"))


def size_text(n_bytes: int) -> str:
    """Bytes in decimal units with three digits, as disks and downloads are labelled."""
    for unit, name in _SIZE_UNITS:
        if n_bytes >= unit:
            return f"{_three_digits(n_bytes / unit)} {name}"
    return f"{n_bytes} bytes"


def count_text(count: int) -> str:
    """A count of parameters with three digits: 135 M, 9.24 B. Smaller ones are written out."""
    for unit, letter in _COUNT_UNITS:
        if count >= unit:
            return f"{_three_digits(count / unit)} {letter}"
    return f"{count:,}"


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
