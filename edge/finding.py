"""Something that could be better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Subject = Literal[
    "instructions", "graphics", "memory", "cores", "disk", "packages", "encoder", "clock", "power", "swap", "speed"
]


@dataclass(frozen=True)
class Finding:
    """What it is, why it matters, what to do, and the exact command where there is one."""

    subject: Subject
    what: str
    hint: str
    command: str = ""
    why: str = ""
