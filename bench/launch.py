"""Starts a command and writes what it took to a file: `python -I -S launch.py LIFELINE FILE COMMAND...`.

LIFELINE is the number of a pipe's end; where its other end closes, since whoever holds it died, the command ends too.

Linux counts the memory of the process that starts a command as the command's own peak. This one is small, since it
imports next to nothing, and stands between `bench.process` and what that measures.
"""

from __future__ import annotations

import _thread  # threading would import more
import os
import signal
import sys
import time


def main(lifeline: int, report: str, command: list[str]) -> None:
    os.set_inheritable(lifeline, False)
    _thread.start_new_thread(_end_with, (lifeline,))
    start = time.perf_counter()
    try:
        process_id = os.posix_spawnp(command[0], command, os.environ)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")
    _, status, usage = os.wait4(process_id, 0)
    wall_seconds = time.perf_counter() - start
    exit_code = os.waitstatus_to_exitcode(status)
    rss_unit_bytes = 1 if sys.platform == "darwin" else 1024
    figures = (wall_seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * rss_unit_bytes, exit_code)
    with open(report, "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib would be most of the memory
        file.write(" ".join(map(str, figures)))


def _end_with(lifeline: int) -> None:
    """Kill the command and this process, which lead a process group of their own, when nobody waits any more."""
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
