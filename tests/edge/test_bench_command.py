"""`edge bench` as people call it: options, files, exit codes, and a run over a tiny model."""

from __future__ import annotations

import errno
import json
import os
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import bench.suite
from bench.record import Record, read_records, record_line
from bench.suite import BenchPlan, QualityPlan
from edge.cli import make_app
from edge.errors import EdgeError
from tests.bench.bench_records import DECODE, SETTINGS, make_record

SAMPLES = {DECODE: (100.0, 101.0, 99.0, 100.5, 102.0)}


def _invoke(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(make_app(), ["bench", *words])
    if isinstance(result.exception, EdgeError):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path) -> list[BenchPlan]:
    """The plans that the command makes, none of which is carried out: the figures are made up."""
    made: list[BenchPlan] = []

    def run(plan: BenchPlan, say: Callable[[str], None] = print) -> list[Record]:
        made.append(plan)
        return [_measured(path, plan) for path in plan.models]

    monkeypatch.setattr(bench.suite, "run_bench", run)
    return made


def _measured(path: Path, plan: BenchPlan) -> Record:
    record = make_record(samples=SAMPLES, divergence=None)
    return replace(record, model=bench.suite.model_record(path), settings={**SETTINGS, **plan.settings.document})


def _earlier(folder: Path, path: Path, samples: tuple[float, ...], threads: int = 1) -> Path:
    record = make_record(samples={DECODE: samples}, divergence=None)
    settings = {**SETTINGS, "threads": threads, "largest_streams": 8}
    file = folder / "earlier.jsonl"
    line = record_line(replace(record, model=bench.suite.model_record(path), settings=settings))
    file.write_text(f"{line}\n", encoding="utf-8")
    return file


def test_a_tiny_model_is_measured_and_written_in_all_formats(tiny_gguf: Path, tmp_path: Path) -> None:
    out, html = tmp_path / "run.jsonl", tmp_path / "run.html"
    effort = ["--pp", "16", "--tg", "8", "--parallel", "2", "--rounds", "1", "--fresh-starts", "0", "--threads", "1"]
    code, printed = _invoke(str(tiny_gguf), *effort, "--out", str(out), "--html", str(html), "--json")
    assert code == 0
    document = json.loads(printed)
    assert document["comparison"] is None
    (record,) = read_records(out)
    assert document["records"][0]["model"]["name"] == record.model.name == tiny_gguf.stem
    assert {"pp16", "tg8", "streams2"} <= {metric.kind.name for metric in record.metrics}
    assert html.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_options_become_the_plan(plans: list[BenchPlan], tiny_gguf: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Some text.", encoding="utf-8")
    words = [
        "--pp",
        "64",
        "--tg",
        "16",
        "--parallel",
        "4,1,4",
        "--threads",
        "3",
        "--cache-type-k",
        "Q8_0",
        "--no-repack",
    ]
    code, _ = _invoke(
        str(tiny_gguf), str(tiny_gguf), *words, "--quality", str(text), "--reference", str(tiny_gguf), "--chunks", "2"
    )
    assert code == 0
    (plan,) = plans
    assert plan.models == (tiny_gguf, tiny_gguf)
    assert plan.quality == QualityPlan(text, tiny_gguf, 2)
    settings = plan.settings
    assert (settings.prompt_tokens, settings.generated_tokens, settings.streams) == (64, 16, (1, 4))
    assert (settings.threads, settings.key_type, settings.value_type) == (3, "Q8_0", "F16")
    assert not settings.repack_weights and not settings.model_settings(512).repack_weights


def test_a_reference_alone_is_compared_over_edges_own_text(plans: list[BenchPlan], tiny_gguf: Path) -> None:
    _invoke(str(tiny_gguf), "--reference", str(tiny_gguf))
    assert plans[0].quality == QualityPlan(bench.suite.OWN_TEXT, tiny_gguf, None)
    assert bench.suite.OWN_TEXT.is_file()


def test_the_table_has_the_figures(plans: list[BenchPlan], tiny_gguf: Path) -> None:
    _, printed = _invoke(str(tiny_gguf))
    assert "decode, 128 tokens" in printed and "Measured with" in printed


def test_the_format_of_llama_bench_is_a_list_of_tests(plans: list[BenchPlan], tiny_gguf: Path) -> None:
    code, printed = _invoke(str(tiny_gguf), "--format", "llama-bench")
    assert code == 0
    (decode,) = json.loads(printed)
    assert (decode["n_gen"], decode["model_filename"]) == (128, str(tiny_gguf))


def test_a_regression_is_exit_code_1_and_is_kept_all_the_same(
    plans: list[BenchPlan], tiny_gguf: Path, tmp_path: Path
) -> None:
    earlier = _earlier(tmp_path, tiny_gguf, (200.0, 201.0, 202.0, 203.0, 204.0))
    out = tmp_path / "now.jsonl"
    code, printed = _invoke(str(tiny_gguf), "--threads", "1", "--compare", str(earlier), "--out", str(out))
    assert code == 1
    assert "worse" in printed
    assert len(read_records(out)) == 1


def test_no_regression_is_exit_code_0(plans: list[BenchPlan], tiny_gguf: Path, tmp_path: Path) -> None:
    earlier = _earlier(tmp_path, tiny_gguf, (100.0, 101.0, 99.0, 102.0, 98.0))
    code, printed = _invoke(str(tiny_gguf), "--threads", "1", "--compare", str(earlier), "--json")
    assert code == 0
    comparison = json.loads(printed)["comparison"]
    (change,) = comparison["changes"]
    assert (change["verdict"], change["ratio"], comparison["is_worse"]) == ("same", 1.005, False)
    assert change["confidence"] == pytest.approx(1 - change["p"])


def test_beside_llama_bench_s_format_the_verdict_is_said(
    plans: list[BenchPlan], tiny_gguf: Path, tmp_path: Path
) -> None:
    earlier = _earlier(tmp_path, tiny_gguf, (200.0, 201.0, 202.0, 203.0, 204.0))
    words = ["bench", str(tiny_gguf), "--threads", "1", "--compare", str(earlier), "--format", "llama-bench"]
    result = CliRunner().invoke(make_app(), words)
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)) == 1
    assert result.stderr.splitlines()[-1] == "Against the earlier run: worse (1 worse by more than 5%)"


def test_what_cannot_be_compared_is_refused_before_anything_is_measured(
    plans: list[BenchPlan], tiny_gguf: Path, tmp_path: Path
) -> None:
    earlier = _earlier(tmp_path, tiny_gguf, (100.0,), threads=7)
    with pytest.raises(EdgeError, match="measured with threads = 7, this run with 1"):
        _invoke(str(tiny_gguf), "--threads", "1", "--compare", str(earlier))
    earlier.write_text(f"{record_line(make_record('Q8_0'))}\n", encoding="utf-8")
    with pytest.raises(EdgeError, match=r"has results of model-Q8_0 \(Q8_0\), not of llama3"):
        _invoke(str(tiny_gguf), "--threads", "1", "--compare", str(earlier))
    assert plans == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_what_there_is_no_room_for_is_printed_and_kept_elsewhere(
    plans: list[BenchPlan], tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    html = tmp_path / "run.html"
    result = CliRunner().invoke(make_app(), ["bench", str(tiny_gguf), "--out", "/dev/full", "--html", str(html)])
    assert "decode, 128 tokens" in result.stdout
    assert html.is_file()
    assert isinstance(result.exception, EdgeError)
    assert result.exception.message == "/dev/full cannot be written: No space left on device."
    (kept,) = tmp_path.glob("edge-bench-*")
    assert result.exception.hint == f"What belongs there is in {kept} now."
    assert len(read_records(kept)) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_without_room_anywhere_the_figures_are_printed(
    plans: list[BenchPlan], tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    result = CliRunner().invoke(make_app(), ["bench", str(tiny_gguf), "--out", "/dev/full"])
    assert "decode, 128 tokens" in result.stdout
    assert isinstance(result.exception, EdgeError)
    assert result.exception.hint == "The figures above are all that is left; make room before you measure again."


def test_a_file_that_was_there_is_untouched_until_the_new_one_is_whole(
    plans: list[BenchPlan], tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = _earlier(tmp_path, tiny_gguf, (100.0,))
    before = out.read_text("utf-8")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(EdgeError, match=r"earlier\.jsonl cannot be written: No space left on device"):
        _invoke(str(tiny_gguf), "--out", str(out))
    assert out.read_text("utf-8") == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parallel", "1,many"], "--parallel is '1,many'."),
        (["--pp", "0"], "--pp is 0."),
        (["--chunks", "3"], "--chunks is given, but no text to cut."),
        (["--quality", "missing.txt"], "There is no text missing.txt."),
        (["--out", "missing/run.jsonl"], "missing/run.jsonl cannot be written: No such file or directory."),
        (["--html", "."], ". cannot be written: it is a folder."),
        (["--compare", "missing.jsonl"], "missing.jsonl cannot be read: No such file or directory."),
        (["--parallel", "0"], "--parallel is 0."),
        (["--json", "--format", "llama-bench"], "--json and --format llama-bench are two kinds of JSON."),
        (["--parallel", "4,65"], "--parallel is 4,65."),
    ],
)
def test_wrong_options_are_refused_before_anything_is_measured(
    words: list[str],
    message: str,
    plans: list[BenchPlan],
    tiny_gguf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgeError) as caught:
        _invoke(str(tiny_gguf), *words)
    assert caught.value.message == message
    assert caught.value.hint
    assert plans == []


def test_an_interrupted_run_is_reported_and_not_compared(
    plans: list[BenchPlan], tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = bench.suite.run_bench
    monkeypatch.setattr(
        bench.suite,
        "run_bench",
        lambda plan, say: [replace(record, interrupted=True) for record in measured(plan, say=say)],
    )
    earlier = _earlier(tmp_path, tiny_gguf, (200.0, 201.0, 202.0, 203.0, 204.0))
    out, usual = tmp_path / "now.jsonl", signal.getsignal(signal.SIGINT)
    words = ["bench", str(tiny_gguf), "--threads", "1", "--compare", str(earlier), "--out", str(out)]
    result = CliRunner().invoke(make_app(), words)
    assert result.exit_code == 130
    assert "interrupted" in result.stdout and "Against the earlier run" not in result.stdout
    assert result.stderr.splitlines()[-1] == f"Interrupted runs are not compared; {earlier} was left alone."
    assert read_records(out)[0].interrupted
    assert signal.getsignal(signal.SIGINT) is usual
