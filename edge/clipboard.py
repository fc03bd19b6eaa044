"""Puts a text on the clipboard of whoever looks at the terminal: by the desktop's own program, or by the terminal.

Over ssh the clipboard that counts is at the other end, which only the terminal there can reach (OSC 52).
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import IO

from edge.errors import EdgeError

_SECONDS = 5.0
_TERMINAL_BYTES = 74_994  # what every terminal with OSC 52 takes: 100,000 bytes of sequence


def copy(text: str, environment: Mapping[str, str], terminal: IO[str]) -> str:
    """Copy; gives how, as the end of a sentence. EdgeError where there is no way."""
    content = text.encode("utf-8", "replace")
    command = _command(environment)
    if command and _run(command, content):
        return f"by {command[0]}"
    if not terminal.isatty() or environment.get("TERM") in ("dumb", "linux"):
        raise EdgeError(
            "There is no clipboard that can be reached from here.",
            hint="Install wl-clipboard or xclip, or use a terminal that takes OSC 52.",
        )
    if len(content) > _TERMINAL_BYTES:
        raise EdgeError(
            f"The text has {len(content)} bytes, a terminal's clipboard takes {_TERMINAL_BYTES}.",
            hint="Copy one of its code blocks: /copy N",
        )
    terminal.write(f"\x1b]52;c;{base64.b64encode(content).decode('ascii')}\a")
    terminal.flush()
    return "by the terminal, if it takes OSC 52"


def _command(environment: Mapping[str, str]) -> list[str] | None:
    """The program that reaches the clipboard, if there is one."""
    candidates: list[list[str]] = []
    if environment.get("TMUX"):  # which passes on no sequences of the programs inside of it
        candidates.append(["tmux", "load-buffer", "-w", "-"])
    elif environment.get("SSH_CONNECTION") or environment.get("SSH_TTY"):
        return None
    elif sys.platform == "darwin":
        candidates.append(["pbcopy"])
    elif sys.platform == "win32":
        candidates.append(["clip"])
    else:
        if environment.get("WAYLAND_DISPLAY"):
            candidates.append(["wl-copy"])
        if environment.get("DISPLAY"):
            candidates.append(["xclip", "-selection", "clipboard"])
    return next((each for each in candidates if shutil.which(each[0], path=environment.get("PATH"))), None)


def _run(command: list[str], content: bytes) -> bool:
    """Whether the program took the text. It may stay behind to hold it, so nothing of its output is waited for."""
    try:
        quiet = subprocess.DEVNULL
        return not subprocess.run(command, input=content, stdout=quiet, stderr=quiet, timeout=_SECONDS).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False
