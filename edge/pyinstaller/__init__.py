"""Tells PyInstaller where the hooks are that put edge into a frozen app whole. PyInstaller finds this by entry point.

The hooks run when an app is built, those in `rthooks/` when it starts.
"""

from __future__ import annotations

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """The folder that PyInstaller shall search."""
    return [str(Path(__file__).parent)]
