"""A system like Windows: what only others have is gone, and the program is loaded and used all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

AS_ON_WINDOWS = '''
import importlib, mmap, os, pkgutil, signal, socket, sys, time
import bench, convert, edge

def load_all():
    """Every module of the product; other packages are loaded beside them."""
    for package in (edge, bench, convert):
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if "-" not in found.name and "pyinstaller" not in found.name:
                importlib.import_module(found.name)

load_all()  # as on this system, so that other packages are there
import platformdirs, psutil  # which the product loads late

for name in [name for name in sys.modules if name.partition(".")[0] in ("edge", "bench", "convert")]:
    del sys.modules[name]

MISSING = {
    os: "wait4 wait3 killpg fork forkpty sched_getaffinity sched_setaffinity sysconf getloadavg pread pwrite statvfs"
        " posix_fadvise posix_spawn posix_spawnp getuid geteuid getgid getpgid setsid uname mkfifo chown lchown nice"
        " fdatasync openpty O_NOFOLLOW O_CLOEXEC O_NONBLOCK O_DIRECTORY",
    signal: "SIGKILL SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGPIPE SIGALRM SIGCHLD SIGWINCH SIGSTOP SIGTSTP SIGCONT"
        " pthread_sigmask pthread_kill setitimer alarm",
    time: "clock_gettime CLOCK_BOOTTIME CLOCK_MONOTONIC tzset",
    socket: "AF_UNIX",
    mmap: "MADV_DONTNEED MADV_WILLNEED MADV_SEQUENTIAL PROT_READ MAP_PRIVATE MAP_SHARED",
}
for module, names in MISSING.items():
    for name in names.split():
        vars(module).pop(name, None)
for name in ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog", "curses", "readline"):
    sys.modules[name] = None
sys.platform = "win32"
import bench, convert, edge  # anew
load_all()
'''


def _run(code: str, *words: str) -> str:
    command = [sys.executable, "-c", AS_ON_WINDOWS + code, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_can_be_loaded_without_what_only_unix_has() -> None:
    printed = _run("print(len([name for name in sys.modules if name.startswith(('edge.', 'bench.', 'convert.'))]))")
    assert int(printed) > 200


def test_the_machine_of_a_measurement_has_what_can_be_known() -> None:
    code = """
from bench.machine import machine_record
record = machine_record()
print(record["load_average"], record["cores"])
"""
    printed = _run(code)
    assert printed.startswith("None {'logical': ")


def test_a_measurement_goes_without_fresh_processes(tiny_gguf: Path) -> None:
    code = """
from edge.cli import make_app
effort = ["--pp", "16", "--tg", "8", "--parallel", "2", "--rounds", "1", "--threads", "1"]
make_app()(["bench", sys.argv[1], *effort], standalone_mode=False)
"""
    printed = _run(code, str(tiny_gguf))
    assert "decode, 8 tokens" in printed
    assert "Fresh processes cannot be measured on this system." in printed
    assert "unknown" in printed  # the load before


def test_a_plan_is_made() -> None:
    code = """
from edge.cli import make_app
make_app()(["plan", "google/gemma-2-9b-it", "--device", "rtx-3060-12gb"], standalone_mode=False)
"""
    assert "best quality" in _run(code)


def test_measuring_a_command_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    code = """
from pathlib import Path
import bench.convert
from bench.process import run_measured
from edge.errors import EdgeError
for measure in (lambda: bench.convert.measure(None, 1), lambda: run_measured(["true"], folder=Path("nowhere"))):
    try:
        measure()
    except EdgeError as error:
        print(error.message, error.hint)
"""
    expected = "Peak memory of a command cannot be measured on this system. Use Linux or macOS.\n"
    assert _run(code) == 2 * expected
