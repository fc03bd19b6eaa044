"""Tables of the bench as text."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from bench.compare import compare_records
from bench.record import MetricKind, Unit
from bench.report import best_of, comparison_tables, figure_text, run_tables, short_labels
from tests.bench.bench_records import DECODE, DIVERGENCE, FIRST_TOKEN, PEAK, PREFILL, make_record


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
        (22.43, "", "22.430"),
    ],
)
def test_figures_have_as_many_digits_as_mean_something(value: float, unit: Unit, expected: str) -> None:
    assert figure_text(value, unit) == expected


def test_one_model_is_shown_with_its_spread() -> None:
    text = _text(run_tables([make_record(notes=("A note.",))]))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "model-Q4_0 (Q4_0), 92.0 MB"
    assert "decode, 128 tokens 100 tok/s 100 - 101 tok/s" in lines
    assert "KL divergence 0.05000 nats ± 0.00200 nats" in lines
    assert "bandwidth read 40.0, copy 36.0, triad 30.0 GB/s with 4 threads" in lines
    assert {"throttling noticed", "energy no meter", "graphics no card"} <= set(lines)
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


def test_what_describes_a_reply_or_the_machine_has_no_best() -> None:
    forced = MetricKind("structured_forced", "tokens that the schema forces", "%", "neither")
    assert best_of([make_record(samples={forced: [41.0]}), make_record(samples={forced: [35.0]})], forced) is None


def test_spreads_across_units_have_both() -> None:
    (line,) = [
        line
        for line in _text(run_tables([make_record(samples={PEAK: (900e6, 1100e6)})])).splitlines()
        if "peak" in line
    ]
    assert " ".join(line.split()).endswith("950 MB - 1.05 GB")


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
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "Against the earlier run: worse (1 worse by more than 5%)"
    assert "decode, 128 tokens 102 52.0 tok/s 0.51x 0.49 - 0.53 99.2% worse" in lines


def test_nothing_is_said_to_be_sure_where_samples_are_too_few() -> None:
    old, new = (
        make_record(samples={DECODE: [100]}, divergence=None),
        make_record(samples={DECODE: [50]}, divergence=0.9),
    )
    comparison = compare_records([new], [old], Path("old.jsonl"))
    lines = [" ".join(line.split()) for line in _text(comparison_tables(comparison)).splitlines()]
    assert lines[0] == "Against the earlier run: no worse (1 unsure by more than 5%)"
    assert "decode, 128 tokens 100 50.0 tok/s 0.50x ? unsure" in lines


def test_a_change_beyond_doubt_is_not_said_to_be_certain() -> None:
    sides = [make_record(divergence=divergence) for divergence in (0.9, 0.05)]
    comparison = compare_records(sides[:1], sides[1:], Path("old.jsonl"))
    (line,) = [line for line in _text(comparison_tables(comparison)).splitlines() if "KL" in line]
    assert line.split()[-2:] == [">99.9%", "worse"]


def test_a_comparison_stays_readable_on_a_narrow_terminal() -> None:
    sides = [make_record(samples={PREFILL: [1254.0, 1255.0], DECODE: [0.015, 0.02]}) for _ in range(2)]
    text = _text(comparison_tables(compare_records(sides[:1], sides[1:], Path("old.jsonl"))), width=80)
    (line,) = [" ".join(line.split()) for line in text.splitlines() if "1,254 tok/s" in line]
    assert line == "prefill, 512 tokens 1,254 1,254 tok/s 1.00x ? same"


def test_what_is_shown_of_an_interrupted_run_says_so() -> None:
    record = replace(make_record(), interrupted=True, notes=("Interrupted: 2 of 5 rounds were measured.",))
    alone, beside = _text(run_tables([record])), _text(run_tables([record, make_record("Q8_0")]))
    assert "model-Q4_0 (Q4_0), 92.0 MB, interrupted" in alone
    assert "Side by side, interrupted" in beside
    assert "Interrupted: 2 of 5 rounds were measured." in alone
    assert "interrupted" not in _text(run_tables([make_record()]))
