"""Where edge keeps what it remembers: the history of what was typed, sessions, and prompts computed ahead."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def state_directory() -> Path:
    """The folder named by EDGE_STATE, or the system's place for such things."""
    if folder := os.environ.get("EDGE_STATE"):
        return Path(folder).expanduser().absolute()
    from platformdirs import user_state_path

    return user_state_path("edge", appauthor=False)


def baked_directory(model: Path) -> Path:
    """For prompts that were computed ahead, where the model's own folder cannot be written."""
    folder = hashlib.sha256(os.fsencode(model.absolute().parent)).hexdigest()
    return state_directory() / "baked" / folder[:16]


def sessions_directory() -> Path:
    return state_directory() / "sessions"
