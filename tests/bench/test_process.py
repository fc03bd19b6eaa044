import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.process import disk_bytes, run_measured
from edge.errors import EdgeError

MEBIBYTE = 1 << 20


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_peak_memory_is_that_of_the_command_alone(tmp_path: Path) -> None:
    small = run_measured(python("pass"), folder=tmp_path)
    large = run_measured(python(f"len(bytearray({64 * MEBIBYTE}))"), folder=tmp_path)
    assert small.peak_rss_bytes < 40 * MEBIBYTE  # of which this process, with pytest in it, has more
    assert 63 * MEBIBYTE < large.peak_rss_bytes - small.peak_rss_bytes < 70 * MEBIBYTE


def test_processor_time_counts_what_the_command_computes(tmp_path: Path) -> None:
    measurement = run_measured(python("sum(range(3_000_000))"), folder=tmp_path)
    assert measurement.cpu_seconds > 0
    assert measurement.wall_seconds > 0


def test_a_file_that_is_gone_in_the_end_counts_as_disk(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, time
file = pathlib.Path({str(tmp_path)!r}, "passing")
file.write_bytes(os.urandom({MEBIBYTE}))
time.sleep(0.2)
file.unlink()
"""
    measurement = run_measured(python(code), folder=tmp_path)
    assert MEBIBYTE <= measurement.peak_disk_bytes < 2 * MEBIBYTE
    assert disk_bytes(tmp_path) < MEBIBYTE


def test_holes_of_a_sparse_file_take_no_disk(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(100 * MEBIBYTE)
    assert disk_bytes(tmp_path) < MEBIBYTE


def test_a_failing_command_is_an_error_with_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="ended with exit code 3") as caught:
        run_measured(python("import sys; print('it broke', file=sys.stderr); sys.exit(3)"), folder=tmp_path)
    assert caught.value.hint == "it broke"


def test_the_environment_of_a_command_can_be_added_to(tmp_path: Path) -> None:
    seen = "os.environ['EXTRA'] + os.environ['PATH']"
    code = f"import os, pathlib; pathlib.Path({str(tmp_path)!r}, 'seen').write_text({seen})"
    run_measured(python(code), folder=tmp_path, environment={"EXTRA": "yes"})
    assert (tmp_path / "seen").read_text() == "yes" + os.environ["PATH"]


def test_a_command_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="no-such-command could not be started") as caught:
        run_measured(["no-such-command"], folder=tmp_path)
    assert caught.value.hint == "no-such-command: No such file or directory"


def test_a_command_ends_when_waiting_for_it_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"

    def interrupted(process: subprocess.Popen[bytes]) -> None:
        while not started.exists() or not started.read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    code = f"import os, pathlib, time; pathlib.Path({str(started)!r}).write_text(str(os.getpid())); time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        run_measured(python(code), folder=tmp_path)
    deadline = time.monotonic() + 10
    while is_running(int(started.read_text())):
        assert time.monotonic() < deadline


def test_a_command_ends_with_the_process_that_measures_it(tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = f"import os, pathlib, time; pathlib.Path({str(started)!r}).write_text(str(os.getpid())); time.sleep(60)"
    measuring = f"""
import pathlib, sys
from bench.process import run_measured
run_measured([sys.executable, "-c", {code!r}], folder=pathlib.Path({str(tmp_path)!r}))
"""
    with subprocess.Popen(python(measuring)) as process:
        deadline = time.monotonic() + 20
        while not started.exists() or not started.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    while is_running(int(started.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
