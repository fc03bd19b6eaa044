"""Starts an engine's process. Imports next to nothing, so that the process is on its way before its host is ready."""

from __future__ import annotations

import os
import subprocess
import sys

from edge.errors import EdgeError

ARGUMENT = "--edge-worker-process"
"""By this first argument, an app that is frozen into one executable knows that it is to be an engine's process."""
MARK = "EDGE_WORKER_PROCESS"
"""Set in an engine's process until it serves."""


def launch() -> subprocess.Popen[bytes]:
    """A process that waits for an `Open` on its standard input.

    It has a session of its own, so that Ctrl-C in a terminal reaches only the host.
    """
    if MARK in os.environ:
        raise EdgeError(
            "This process was started to be an engine's own, and is about to start another one.",
            hint="Let the app call edge.worker_process.run_if_worker() before anything else.",
        )
    creation_flags = 0
    if sys.platform == "win32":
        creation_flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    return subprocess.Popen(
        _command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            MARK: "1",
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),  # it finds the modules that the host finds
            "GGML_NO_BACKTRACE": "1",  # or else a failed assertion starts a debugger
        },
        start_new_session=True,  # POSIX; on Windows, the flags do the same
        creationflags=creation_flags,
    )


def _command() -> list[str]:
    if getattr(sys, "frozen", False):  # by PyInstaller and its like: there is no interpreter but the app
        return [sys.executable, ARGUMENT]
    return [sys.executable, "-P", "-m", "edge.worker_process"]  # -P: no module of the current directory
