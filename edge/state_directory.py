"""Where edge keeps what it remembers: the history of what was typed, and sessions."""

from __future__ import annotations

import os
from pathlib import Path


def state_directory() -> Path:
    """The folder named by EDGE_STATE, or the system's place for such things."""
    if folder := os.environ.get("EDGE_STATE"):
        return Path(folder).expanduser().absolute()
    from platformdirs import user_state_path

    return user_state_path("edge", appauthor=False)


def sessions_directory() -> Path:
    return state_directory() / "sessions"
