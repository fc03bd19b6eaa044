"""Runs a command and measures it: wall and processor time, its own peak memory, and the disk it takes meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.errors import EdgeError

DISK_BLOCK_BYTES = 512
"""The unit of st_blocks, whatever the file system's own is. Source: POSIX, sys/stat.h"""

_LAUNCH = Path(__file__).with_name("launch.py")
_SAMPLE_SECONDS = 0.02
_ERROR_LINES = 12


@dataclass(frozen=True)
class Measurement:
    """What a command took. `peak_disk_bytes` is the most that the watched folder held at any time."""

    wall_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    peak_disk_bytes: int


def can_measure_processes() -> bool:
    """Whether this system tells the peak memory of a process that ended. Windows does not."""
    return hasattr(os, "wait4")


def check_can_measure_processes() -> None:
    """EdgeError where it does not, for those who do much before the first command."""
    if not can_measure_processes():
        raise EdgeError("Peak memory of a command cannot be measured on this system.", hint="Use Linux or macOS.")


def run_measured(command: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None) -> Measurement:
    """Run a command to its end with what it prints kept back. EdgeError with its last lines when it fails."""
    check_can_measure_processes()
    with tempfile.TemporaryDirectory() as scratch, _DiskWatch(folder) as disk:
        report = Path(scratch) / "report"
        output = _run([str(report), *command], {**os.environ, **(environment or {})})
        figures = report.read_text(encoding="ascii").split() if report.exists() else []
    if not figures or int(figures[3]) != 0:
        lines = output.decode("utf-8", "replace").splitlines()[-_ERROR_LINES:]
        outcome = f"ended with exit code {figures[3]}" if figures else "could not be started"
        raise EdgeError(f"{' '.join(command)} {outcome}.", hint="\n".join(lines))
    return Measurement(float(figures[0]), float(figures[1]), int(figures[2]), disk.peak_bytes)


def _run(launched: Sequence[str], environment: Mapping[str, str]) -> bytes:
    """What a command prints. It and all that it started end when the wait is interrupted, or this process dies."""
    lifeline, held = os.pipe()
    try:
        with subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LAUNCH), str(lifeline), *launched],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            pass_fds=[lifeline],
            start_new_session=True,
        ) as process:
            try:
                return process.communicate()[0]
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
    finally:
        os.close(lifeline)
        os.close(held)


class _DiskWatch:
    """Samples what the files of a folder take on the disk, from a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="disk-watch", daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> _DiskWatch:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._is_over.wait(_SAMPLE_SECONDS)
            self.peak_bytes = max(self.peak_bytes, disk_bytes(self._folder))


def disk_bytes(folder: Path) -> int:
    """Bytes on the disk of every file below a folder; holes of sparse files take none."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_blocks * DISK_BLOCK_BYTES  # noqa: PTH116, PTH118 - sampled often
            except OSError:
                continue  # it went away between the two calls
    return total
