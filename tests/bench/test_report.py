"""Tables of the bench as text."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from bench.compare import compare_records
from bench.record import Unit
from bench.report import best_of, comparison_tables, figure_text, run_tables, short_labels
from tests.bench.bench_records import DECODE, DIVERGENCE, FIRST_TOKEN, PREFILL, make_record


def _text(tables: list[RenderableType], width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    for table in tables:
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (12345.6, "tok/s", "12,346 tok/s"),
        (57.34, "tok/s", "57.3 tok/s"),
        (1.6345, "s", "1.63 s"),
        (0.00369, "nats", "0.00369 nats"),
        (98.7, "%", "98.7 %"),
        (1.2345, "x", "1.234x"),
        (145_000_000.0, "bytes", "145 MB"),
        (22.43, "", "22.4"),
    ],
)
def test_figures_have_as_many_digits_as_mean_something(value: float, unit: Unit, expected: str) -> None:
    assert figure_text(value, unit) == expected


def test_one_model_is_shown_with_its_spread() -> None:
    text = _text(run_tables([make_record(notes=("A note.",))]))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "model-Q4_0 (Q4_0), 92.0 MB"
    assert "decode, 128 tokens 100 tok/s 100 tok/s - 101 tok/s" in lines
    assert "KL divergence 0.05000 nats ± 0.00200 nats" in lines
    assert "bandwidth read 40.0, copy 36.0, triad 30.0 GB/s with 4 threads" in lines
    assert "throttling noticed" in lines and "energy no meter" in lines
    assert "A note." in text


def test_several_models_are_side_by_side() -> None:
    records = [make_record("Q8_0", divergence=0.004), make_record("Q4_0")]
    lines = [" ".join(line.split()) for line in _text(run_tables(records)).splitlines()]
    assert lines[1] == "Q8_0 Q4_0"
    assert "file 145 MB 92.0 MB" in lines
    assert "KL divergence 0.00400 nats 0.05000 nats" in lines


def test_figures_stay_in_one_line_on_a_narrow_terminal() -> None:
    text = _text(run_tables([make_record("Q8_0"), make_record("Q4_0")]), width=60)
    figures = [line.rstrip().endswith("tok/s") for line in text.splitlines() if "tok/s" in line]
    assert figures == [True] * 3 and text.count("tok/s") == 6


def test_the_best_is_the_highest_or_the_lowest_by_what_is_measured() -> None:
    records = [
        make_record(samples={DECODE: [10.0], FIRST_TOKEN: [5.0]}),
        make_record(samples={DECODE: [20.0], FIRST_TOKEN: [9.0]}),
    ]
    assert (best_of(records, DECODE), best_of(records, FIRST_TOKEN), best_of(records, PREFILL)) == (1, 0, None)


def test_none_is_the_best_where_spreads_touch() -> None:
    def best(first: list[float], second: list[float]) -> int | None:
        return best_of([make_record(samples={DECODE: first}), make_record(samples={DECODE: second})], DECODE)

    assert best([10.0, 11.0, 12.0], [12.0, 13.0, 14.0]) == 1
    assert best([10.0, 11.0, 14.0], [12.0, 13.0, 14.0]) is None
    assert best([10.0], [10.0]) is None
    near, far = ([make_record(divergence=value), make_record(divergence=0.05)] for value in (0.049, 0.03))
    assert (best_of(near, DIVERGENCE), best_of(far, DIVERGENCE)) == (None, 0)


def test_models_that_quantizations_do_not_tell_apart_have_their_names() -> None:
    assert short_labels([make_record("Q8_0"), make_record("Q4_0")]) == ["Q8_0", "Q4_0"]
    assert short_labels([make_record("Q8_0"), make_record("Q4_0", parameters=7)]) == ["model-Q8_0", "model-Q4_0"]


def test_a_comparison_has_the_verdict_with_its_confidence() -> None:
    old, new = (
        make_record(samples={DECODE: [100, 101, 102, 103, 104]}),
        make_record(samples={DECODE: [50, 51, 52, 53, 54]}),
    )
    text = _text(comparison_tables(compare_records([new], [old], Path("old.jsonl"))))
    (line,) = [" ".join(line.split()) for line in text.splitlines() if "decode" in line]
    assert line.startswith("decode, 128 tokens 102 tok/s 52.0 tok/s 0.510x 0.4")
    assert line.endswith("99.2% worse")
