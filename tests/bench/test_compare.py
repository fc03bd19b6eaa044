"""Verdicts about an earlier run, on made-up samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench.compare import Change, check_comparable, compare_records
from bench.record import MetricKind, Record
from edge.errors import EdgeError
from tests.bench.bench_records import DECODE, DIVERGENCE, FIRST_TOKEN, MACHINE, PREFILL, SETTINGS, make_record

EARLIER = Path("earlier.jsonl")
OLD = (100.0, 101.0, 99.0, 100.5, 102.0)


def _change(kind: MetricKind, new: Sequence[float], old: Sequence[float] = OLD, threshold: float = 0.05) -> Change:
    sides = [make_record(samples={kind: samples}, divergence=None) for samples in (new, old)]
    (change,) = compare_records(sides[:1], sides[1:], EARLIER, threshold).changes
    return change


def test_slower_decoding_is_worse() -> None:
    change = _change(DECODE, [90.0, 91.0, 89.5, 90.2, 90.8])
    assert change.verdict == "worse"
    assert change.ratio == pytest.approx(90.2 / 100.5)
    assert change.confidence == pytest.approx(1 - 2 / 252)
    assert change.interval[0] < change.ratio < change.interval[1] < 1


def test_a_shorter_wait_is_better() -> None:
    assert _change(FIRST_TOKEN, [90.0, 91.0, 89.5, 90.2, 90.8]).verdict == "better"
    assert _change(FIRST_TOKEN, [110.0, 111.0, 112.5, 110.2, 113.8]).verdict == "worse"


def test_a_change_below_the_threshold_is_none_however_sure_it_is() -> None:
    change = _change(DECODE, [97.0, 97.2, 96.8, 97.1, 96.9])
    assert change.p is not None and change.p < 0.05
    assert change.verdict == "same"
    assert _change(DECODE, [97.0, 97.2, 96.8, 97.1, 96.9], threshold=0.02).verdict == "worse"


def test_a_large_change_that_chance_could_make_is_none() -> None:
    assert _change(DECODE, [60.0, 140.0, 88.0, 101.5, 70.0]).verdict == "same"


def test_a_large_change_of_too_few_samples_is_unsure() -> None:
    change = _change(DECODE, [50.0, 51.0, 52.0], [100.0, 101.0, 102.0])
    assert (change.verdict, change.p, change.confidence) == ("unsure", None, None)
    assert _change(DECODE, [100.0], [100.0]).confidence is None


def test_what_describes_the_machine_is_not_judged() -> None:
    kind = MetricKind("ceiling", "decode that memory allows, predicted", "tok/s", "neither")
    assert _change(kind, [50.0, 51.0, 52.0, 50.5, 51.5]).verdict == "same"


def test_quality_is_judged_by_standard_errors() -> None:
    def verdict(divergence: float) -> str:
        sides = [make_record(divergence=value) for value in (divergence, 0.050)]
        changes = compare_records(sides[:1], sides[1:], EARLIER).changes
        (change,) = [change for change in changes if change.kind == DIVERGENCE]
        return change.verdict

    assert (verdict(0.070), verdict(0.030), verdict(0.054)) == ("worse", "better", "same")


def test_one_worse_figure_makes_the_run_worse() -> None:
    good, bad = {DECODE: OLD, PREFILL: OLD}, {DECODE: OLD, PREFILL: [80.0, 81.0, 79.0, 80.5, 82.0]}
    assert compare_records([make_record(samples=bad)], [make_record(samples=good)], EARLIER).is_worse
    assert not compare_records([make_record(samples=good)], [make_record(samples=bad)], EARLIER).is_worse


def test_what_was_measured_only_once_is_left_out() -> None:
    new, old = make_record(samples={DECODE: OLD, PREFILL: OLD}), make_record(samples={DECODE: OLD}, divergence=None)
    comparison = compare_records([new], [old], EARLIER)
    assert [change.kind for change in comparison.changes] == [DECODE]
    assert comparison.notes == ("Not compared, since in this run only: prefill, 512 tokens; KL divergence.",)
    assert compare_records([old], [new], EARLIER).notes == (
        "Not compared, since in earlier.jsonl only: prefill, 512 tokens; KL divergence.",
    )


def test_quality_over_another_text_is_not_compared() -> None:
    def record(text: str) -> Record:
        quality = {"text_sha256": text, "reference": "model-F16.gguf", "chunks": None}
        return make_record(samples={DECODE: OLD}, settings={**SETTINGS, "quality": quality})

    comparison = compare_records([record("a")], [record("b")], EARLIER)
    assert [change.kind for change in comparison.changes] == [DECODE]
    assert comparison.notes == (
        "Quality is not compared: earlier.jsonl had another text, reference or number of chunks.",
    )
    assert len(compare_records([record("a")], [record("a")], EARLIER).changes) == 2


def test_a_file_of_another_model_is_refused() -> None:
    with pytest.raises(EdgeError) as caught:
        compare_records([make_record("Q4_0")], [make_record("Q8_0")], EARLIER)
    assert caught.value.message == "earlier.jsonl has results of model-Q8_0 (Q8_0), not of model-Q4_0 (Q4_0)."
    assert caught.value.hint == "Compare with a run of the same model and quantization."


def test_a_file_of_a_model_of_another_name_or_size_is_said() -> None:
    new = make_record()
    old = replace(new, model=replace(new.model, name="tuned-Q4_0", file_bytes=92_000_001))
    assert compare_records([new], [new], EARLIER).notes == ()
    assert compare_records([new], [old], EARLIER).notes == (
        "The file was tuned-Q4_0, 92,000,001 bytes; now it is model-Q4_0, 92,000,000 bytes.",
    )


def test_an_earlier_run_that_was_interrupted_is_said() -> None:
    old = replace(make_record(), interrupted=True)
    assert compare_records([make_record()], [old], EARLIER).notes == (
        f"{EARLIER.name} was interrupted: its figures have fewer samples.",
    )


def test_of_several_models_alike_the_one_of_the_same_name_is_compared() -> None:
    new = make_record(samples={DECODE: OLD})
    other = make_record(samples={DECODE: [1.0, 2.0, 3.0, 4.0, 5.0]})
    other = replace(other, model=replace(other.model, name="tuned-Q4_0"))
    assert {change.ratio for change in compare_records([new], [new, other], EARLIER).changes} == {1.0}


def test_a_file_of_other_settings_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(EdgeError, match="measured with threads = 4, this run with 2"):
        check_comparable([make_record().model], {**SETTINGS, "threads": 2}, [make_record()], EARLIER)
    with pytest.raises(EdgeError, match="measured with generated_tokens = 128, this run with 64"):
        check_comparable([make_record().model], {**SETTINGS, "generated_tokens": 64}, [make_record()], EARLIER)
    check_comparable([make_record().model], SETTINGS, [make_record()], EARLIER)


def test_repacked_weights_are_not_compared_with_others_and_older_files_had_them() -> None:
    assert "repack_weights" not in SETTINGS
    check_comparable([make_record().model], {**SETTINGS, "repack_weights": True}, [make_record()], EARLIER)
    with pytest.raises(EdgeError, match="was measured with repack_weights = True, this run with False"):
        check_comparable([make_record().model], {**SETTINGS, "repack_weights": False}, [make_record()], EARLIER)


def test_a_file_without_a_common_figure_is_refused() -> None:
    new, old = (make_record(samples={kind: OLD}, divergence=None) for kind in (DECODE, PREFILL))
    with pytest.raises(EdgeError, match=r"has no figure of model-Q4_0 \(Q4_0\) that was measured now"):
        compare_records([new], [old], EARLIER)


def test_another_machine_or_other_versions_are_said() -> None:
    other = {**MACHINE, "cpu": {"name": "Other CPU", "simd": []}, "versions": {"python": "3.12.1"}}
    comparison = compare_records([make_record()], [make_record(machine=other)], EARLIER)
    assert comparison.notes[0] == "earlier.jsonl was measured on another machine: Other CPU."
    assert comparison.notes[1].startswith("Versions differ: python 3.12.1 -> 3.11.7, edge-llm none -> 0.1.0")
