"""`edge bench` as a process of its own, interrupted while it measures the real small model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.record import read_records

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")


def _start(model: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edge.cli", "bench", str(model), "--threads", "1", "--fresh-starts", "0", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait_for_line(process: subprocess.Popen[str], wanted: str) -> None:
    assert process.stderr
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith(wanted):
            return
    pytest.fail(f"It ended with {process.wait()} before {wanted!r}: {''.join(seen)}")


def test_interrupted_it_ends_with_the_report_of_the_rounds_that_were_complete(demo_gguf: Path, tmp_path: Path) -> None:
    out, html = tmp_path / "run.jsonl", tmp_path / "run.html"
    effort = ["--pp", "16", "--tg", "8", "--parallel", "2", "--rounds", "1000"]
    process = _start(demo_gguf, *effort, "--out", str(out), "--html", str(html), "--json")
    _wait_for_line(process, "Round 3 of 1000")
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate()
    assert process.returncode == 130, errors
    assert errors.strip() == "Interrupted: what was measured is shown in a moment. Ctrl-C ends at once."
    (record,) = read_records(out)
    assert record.interrupted
    assert record.notes[0] == "Interrupted: 2 of 1000 rounds and 0 of 0 fresh starts were measured."
    decode = record.metric("tg8")
    assert decode and len(decode.samples) == 2 and min(decode.samples) > 0
    assert json.loads(printed)["records"][0]["interrupted"] is True
    assert ", interrupted</h1>" in html.read_text("utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.html", "run.jsonl"]


def test_a_second_interrupt_ends_it_at_once(demo_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    # steps that were begun are computed to their end first: so many that the second one comes before it
    process = _start(demo_gguf, "--pp", "2048", "--tg", "512", "--parallel", "1", "--out", str(out))
    _wait_for_line(process, "Warming up")
    process.send_signal(signal.SIGINT)
    _wait_for_line(process, "Interrupted: ")
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == -signal.SIGINT
    assert not out.exists()
