"""The whole bench over tiny models, and how samples become figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import bench.suite
from bench.cases import BenchSettings, gaps_of, opened, rate_together
from bench.compare import compare_records
from bench.engine_sides import Run
from bench.figures import fresh_metrics, quality_metrics, speed_metrics, throttling_notes
from bench.fresh_start import FreshStart
from bench.measure import Guard, Observation, Sample
from bench.quality import Estimate
from bench.record import MetricKind, Record
from bench.suite import BenchPlan, QualityPlan, run_bench
from convert.pipeline import write_checkpoint
from edge.errors import EdgeError
from edge.request import Completion, Timing, Usage
from edge.throttling import ThrottleState
from tests.tiny import write_tiny_checkpoint

TINY = BenchSettings(
    prompt_tokens=32,
    generated_tokens=8,
    streams=(1, 2),
    rounds=1,
    threads=1,
    gpu_layers=0,
    key_type="Q8_0",
    fresh_starts=1,
)
DECODE = MetricKind("tg8", "decode, 8 tokens", "tok/s", "higher")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("suite")
    full, small = write_checkpoint(write_tiny_checkpoint("llama3", folder), ["F32", "Q8_0"], folder)
    return full, small


@pytest.fixture(scope="module")
def records(models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("The keeper of the lighthouse counted the ships that came by. " * 40, encoding="utf-8")
    steady = Guard(read_state=lambda: ThrottleState(0, None, None))
    return run_bench(BenchPlan(models, TINY, QualityPlan(text, models[0], chunks=1)), steady)


def test_every_question_has_its_figures(records: list[Record]) -> None:
    of_full, of_small = records
    expected = ["cold_start", "warm_start", "load", "peak_rss", "pp32", "tg8", "ceiling", "ceiling_share", "ttft32"]
    for streams in (1, 2):
        expected += [f"streams{streams}", f"streams{streams}_gap_p50", f"streams{streams}_gap_p99"]
    expected += ["structured", "structured_ratio", "structured_forced"]
    of_cache = ["cache_divergence", "cache_same_top", "cache_perplexity_ratio"]
    of_reference = ["perplexity", "divergence", "same_top", "perplexity_ratio"]
    assert [metric.kind.name for metric in of_full.metrics] == [*expected, "perplexity", *of_cache]
    assert [metric.kind.name for metric in of_small.metrics] == [*expected, *of_reference, *of_cache]
    assert all(sample >= 0 for record in records for metric in record.metrics for sample in metric.samples)


def test_a_record_says_what_was_measured_and_with_what(records: list[Record], models: tuple[Path, Path]) -> None:
    record = records[1]
    assert (record.model.name, record.model.quantization, record.model.architecture) == (
        models[1].stem,
        "Q8_0",
        "llama",
    )
    assert record.model.file_bytes == models[1].stat().st_size
    assert "Q8_0" in record.model.description
    assert record.settings["threads"] == 1 and record.settings["key_type"] == "Q8_0"
    assert record.settings["notices_throttling"] is True
    assert record.machine["versions"]["llama-cpp-python"]
    assert record.ceiling and record.ceiling["weight_bytes"] > 0 and record.ceiling["cache_bytes"] > 0
    assert len(record.gaps_seconds["1"]) == 8 and len(record.gaps_seconds["2"]) == 16
    assert record.memory and record.memory["phases"][0] == ["imports", 0.0]
    assert [quality["reference"] for quality in record.quality] == [
        models[0].name,
        "the same model with F16 keys and values",
    ]


def test_decode_is_held_against_the_ceiling(records: list[Record]) -> None:
    for record in records:
        ceiling, decode, share = (record.value(name) for name in ("ceiling", "tg8", "ceiling_share"))
        assert ceiling and decode
        assert share == pytest.approx(100 * decode / ceiling)


def test_a_run_is_no_worse_than_itself(records: list[Record]) -> None:
    assert not compare_records(records, records, Path("old.jsonl")).is_worse


def test_a_prompt_longer_than_the_model_can_hold_is_refused(models: tuple[Path, Path]) -> None:
    settings = BenchSettings(prompt_tokens=4096, threads=1)
    with (
        pytest.raises(EdgeError, match="was trained on 512 tokens; 4096 were asked for") as caught,
        opened(models[0], settings),
    ):
        pass
    assert caught.value.hint == "Ask for at most 512 with --pp and --tg."


def test_what_is_wrong_with_a_text_or_a_length_is_said_before_anything_is_measured(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "short.txt"
    text.write_text("Too short.", encoding="utf-8")
    monkeypatch.setattr(bench.suite, "measure_fresh_start", lambda *_, **__: pytest.fail("it was measured"))
    with pytest.raises(EdgeError, match=r"The text has \d+ tokens; at least 1,024 are needed") as caught:
        run_bench(BenchPlan(models, TINY, QualityPlan(text)))
    assert caught.value.hint == "Give a longer text with --quality."
    said: list[str] = []
    with pytest.raises(EdgeError, match="was trained on 512 tokens; 4096 were asked for"):
        run_bench(BenchPlan(models, BenchSettings(prompt_tokens=4096, threads=1)), say=said.append)
    assert said == []


def test_a_reference_that_is_the_model_itself_leaves_its_perplexity(models: tuple[Path, Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The keeper of the lighthouse counted the ships that came by. " * 40, encoding="utf-8")
    settings = BenchSettings(16, 8, (1,), rounds=1, threads=1, fresh_starts=0)
    said: list[str] = []
    plan = BenchPlan(models[:1], settings, QualityPlan(text, models[0], chunks=1))
    (record,) = run_bench(plan, Guard(), said.append)
    assert record.value("perplexity") and record.metric("divergence") is None
    assert "The reference is the model itself: there is no divergence from it." in record.notes
    assert "Quality: chunk 1 of 1" in said


@pytest.mark.parametrize(
    ("wrong", "message", "hint"),
    [
        ({"prompt_tokens": 0}, "--pp is 0.", "--pp must be at least 1."),
        ({"generated_tokens": 4}, "--tg is 4.", "--tg must be at least 8."),
        ({"streams": (0, 1)}, "--parallel is 0,1.", "--parallel must be numbers between 1 and 64."),
        ({"rounds": 0}, "--rounds is 0.", "--rounds must be at least 1."),
    ],
)
def test_effort_out_of_range_is_refused(wrong: dict[str, object], message: str, hint: str) -> None:
    with pytest.raises(EdgeError) as caught:
        BenchSettings(**wrong)  # type: ignore[arg-type]
    assert (caught.value.message, caught.value.hint) == (message, hint)


def _sample(value: float, joules: float | None = None, attempts: int = 1, *, is_throttled: bool = False) -> Sample:
    return Sample(Observation({"tg8": value}, tokens=8), joules, attempts, is_throttled)


def test_energy_is_shared_out_over_the_tokens() -> None:
    decode, energy = speed_metrics({"tg8": [_sample(10.0, 4.0), _sample(12.0, 8.0)]}, [DECODE])
    assert decode.samples == (10.0, 12.0)
    assert (energy.kind.name, energy.kind.unit, energy.samples) == ("tg8_energy", "J/tok", (0.5, 1.0))
    assert len(speed_metrics({"tg8": [_sample(10.0)]}, [DECODE])) == 1


def test_throttling_is_said() -> None:
    assert throttling_notes({"tg8": [_sample(10.0)]}) == []
    assert throttling_notes({"tg8": [_sample(10.0, attempts=2), _sample(9.0, attempts=3, is_throttled=True)]}) == [
        "The machine slowed itself down; 3 samples were measured again.",
        "The machine slowed itself down every time in: tg8.",
    ]


def test_fresh_starts_are_told_apart_by_where_the_file_was() -> None:
    def start(first_token: float, *, is_warm: bool) -> FreshStart:
        return FreshStart(is_warm, 0.2, first_token, 1000, 50, (), ())

    metrics = fresh_metrics([start(2.0, is_warm=False), start(1.0, is_warm=True), start(1.5, is_warm=True)])
    assert {metric.kind.name: metric.samples for metric in metrics} == {
        "cold_start": (2.0,),
        "warm_start": (1.0, 1.5),
        "load": (0.2, 0.2),
        "peak_rss": (1000.0, 1000.0, 1000.0),
        "vram": (50.0, 50.0, 50.0),
    }
    assert fresh_metrics([]) == []


def test_a_system_that_cannot_measure_processes_is_said_and_goes_on(
    models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.suite.can_measure_processes", lambda: False)
    (record,) = run_bench(BenchPlan(models[:1], replace(TINY, streams=())))
    assert "Fresh processes cannot be measured on this system." in record.notes
    assert record.memory is None and record.metric("peak_rss") is None
    assert record.metric("tg8")


def test_a_perplexity_alone_is_a_figure_with_its_error() -> None:
    (metric,) = quality_metrics(Estimate(12.5, 0.25))
    assert (metric.kind.name, metric.value, metric.standard_error) == ("perplexity", 12.5, 0.25)


def test_replies_that_hardly_overlap_have_a_rate_from_the_first_to_the_last_token() -> None:
    completion = Completion("", (), "length", Usage(1, 0, 3), Timing(0, 0, 0))
    apart = [Run(0.0, (1.0, 1.5, 2.0), 2.0, completion), Run(0.0, (4.0, 4.5, 5.0), 5.0, completion)]
    assert rate_together(apart) == pytest.approx(4 / 4)
    together = [Run(0.0, (1.0, 2.0, 3.0), 3.0, completion), Run(0.0, (1.0, 2.0, 3.0), 3.0, completion)]
    assert rate_together(together) == pytest.approx(2.0)


def test_gaps_are_between_the_tokens_of_each_reply() -> None:
    completion = Completion("", (), "length", Usage(1, 0, 3), Timing(0, 0, 0))
    runs = [Run(0.0, (1.0, 1.5, 3.0), 3.0, completion), Run(0.0, (2.0, 2.25), 3.0, completion)]
    assert gaps_of(runs) == [0.5, 1.5, 0.25]
    with pytest.raises(EdgeError, match="The replies had a single token"):
        gaps_of([Run(0.0, (1.0,), 1.0, completion)])


def _interrupted_at(said: list[str], moment: str) -> Callable[[str], None]:
    """A progress line for which the user presses Ctrl-C."""

    def say(text: str) -> None:
        said.append(text)
        if text == moment:
            raise KeyboardInterrupt

    return say


def test_an_interrupted_run_keeps_the_rounds_that_were_complete(models: tuple[Path, Path]) -> None:
    settings = BenchSettings(16, 8, (1,), rounds=3, threads=1, gpu_layers=0, fresh_starts=0)
    records = run_bench(BenchPlan(models, settings), Guard(), _interrupted_at([], "Round 3 of 3"))
    assert [record.model.name for record in records] == [path.stem for path in models]
    for record in records:
        assert record.interrupted
        assert record.notes[0] == "Interrupted: 2 of 3 rounds and 0 of 0 fresh starts were measured."
        decode, share = record.metric("tg8"), record.metric("ceiling_share")
        assert decode and share and len(decode.samples) == len(share.samples) == 2
        assert len(record.gaps_seconds["1"]) == 16


def test_a_run_interrupted_before_its_speeds_keeps_the_fresh_starts_and_leaves_out_models_without_any(
    models: tuple[Path, Path],
) -> None:
    settings = BenchSettings(16, 8, (1,), rounds=1, threads=1, gpu_layers=0, fresh_starts=2)
    moment = f"{models[0].name}: fresh start 2 of 2"
    (record,) = run_bench(BenchPlan(models, settings), Guard(), _interrupted_at([], moment))
    assert record.notes[0] == "Interrupted: 0 of 1 rounds and 1 of 2 fresh starts were measured."
    assert record.model.name == models[0].stem
    peak = record.metric("peak_rss")
    assert peak and len(peak.samples) == 2  # from disk, and from memory
    assert record.metric("tg8") is None


def test_a_run_interrupted_before_anything_was_measured_is_no_run(models: tuple[Path, Path]) -> None:
    settings = BenchSettings(16, 8, (1,), rounds=1, threads=1, gpu_layers=0, fresh_starts=0)
    with pytest.raises(KeyboardInterrupt):
        run_bench(BenchPlan(models, settings), Guard(), _interrupted_at([], "Round 1 of 1"))
