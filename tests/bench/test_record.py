"""Records as lines of JSON, there and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.record import SCHEMA, read_records, record_line
from edge.errors import EdgeError
from tests.bench.bench_records import DECODE, make_record


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    records = [make_record("Q4_0", notes=("A note.",)), replace(make_record("Q8_0", divergence=None), interrupted=True)]
    path.write_text("".join(f"{record_line(record)}\n" for record in records), encoding="utf-8")
    assert read_records(path) == records


def test_a_record_from_before_runs_could_be_interrupted_is_a_whole_one(tmp_path: Path) -> None:
    document = json.loads(record_line(make_record()))
    del document["interrupted"]
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert read_records(path) == [make_record()]


def test_a_line_has_summaries_beside_the_samples() -> None:
    document = json.loads(record_line(make_record()))
    assert document["schema"] == SCHEMA
    (decode,) = [metric for metric in document["metrics"] if metric["name"] == "tg128"]
    assert decode["samples"] == [100.0, 101.0, 99.0, 100.5, 102.0]
    assert (decode["median"], decode["quartiles"], decode["count"]) == (100.5, [100.0, 101.0], 5)
    assert decode["interval"][0] < 100.5 < decode["interval"][1]


def test_figures_are_found_by_name() -> None:
    record = make_record()
    metric = record.metric("tg128")
    assert metric and metric.kind == DECODE
    assert record.value("tg128") == 100.5
    assert record.value("nothing") is None and record.metric("nothing") is None


@pytest.mark.parametrize("content", ["{}", "[1]", "not json", '{"schema": "edge-bench/1"}', "3", "[" * 100_000])
def test_a_file_that_is_no_run_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(f"\n{content}\n", encoding="utf-8")
    with pytest.raises(EdgeError, match="line 2 is no result of edge bench") as caught:
        read_records(path)
    assert caught.value.hint == "Give a file that --out wrote."


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"samples": []}, "pp512 has no samples"),
        ({"samples": [1.0, float("nan")]}, "pp512 has a sample that is no number"),
        ({"standard_error": float("inf")}, "pp512 has a sample that is no number"),
        ({"unit": "parsecs"}, "pp512 is in 'parsecs', of which 'higher' is better"),
        ({"better": "faster"}, "pp512 is in 'tok/s', of which 'faster' is better"),
    ],
)
def test_a_metric_that_cannot_be_is_refused(change: dict[str, object], reason: str, tmp_path: Path) -> None:
    document = json.loads(record_line(make_record()))
    document["metrics"][0].update(change)
    assert _refusal(document, tmp_path) == f"{reason}."


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    document = json.loads(record_line(make_record()))
    del document["settings"]
    assert _refusal(document, tmp_path) == "'settings' is missing."
    document = json.loads(record_line(make_record()))
    document["machine"]["cpu"]["name"] = 7
    assert _refusal(document, tmp_path) == "its machine has no processor or no versions."


def _refusal(document: dict[str, Any], folder: Path) -> str:
    """Why a line is no result."""
    path = folder / "run.jsonl"
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(EdgeError) as caught:
        read_records(path)
    assert caught.value.hint == "Give a file that --out wrote."
    message, _, reason = caught.value.message.partition(": ")
    assert message == f"{path}, line 1 is no result of edge bench"
    return reason


def test_another_version_of_the_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text('{"schema": "edge-bench/9"}\n', encoding="utf-8")
    with pytest.raises(EdgeError, match="line 1 is in the format 'edge-bench/9', not 'edge-bench/1'"):
        read_records(path)


def test_an_empty_or_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with pytest.raises(EdgeError, match=r"run\.jsonl cannot be read: No such file"):
        read_records(path)
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(EdgeError, match=r"run\.jsonl holds no results"):
        read_records(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(EdgeError, match=r"run\.jsonl cannot be read: it is no text"):
        read_records(path)
