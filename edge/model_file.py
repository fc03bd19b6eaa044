"""Whether a model reference is a file already. Who was given one need not load what downloads and converts."""

from __future__ import annotations

import os
import re

DEMO = re.compile(r"demo(?::(?P<quantization>\w+))?")


def is_file(reference: str) -> bool:
    """Whether a reference names a file on this disk. Never raises, whatever a person types."""
    return not DEMO.fullmatch(reference) and os.path.isfile(os.path.expanduser(reference))  # noqa: PTH111, PTH113
