"""The engine bench: both sides of its rows on small models, and its command line."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import engine, engine_arrival, engine_cache, engine_parts, engine_requests, engine_worker, kill, sampling
from bench.engine import PERSON_SCHEMA, ROWS, main
from bench.engine_arrival import gaps, measure_arrival
from bench.engine_cache import measure_second_turn, measure_session
from bench.engine_case import Case, model_name, openings
from bench.engine_decode import measure_decode
from bench.engine_parts import measure_kill, measure_maskbench, measure_sampling
from bench.engine_report import Bar, Finding
from bench.engine_requests import measure_drafts, measure_structured
from bench.engine_sides import BareLoop, Run, counted_steps, joint_tokens_per_second, run_requests
from bench.kill import Outcome
from edge.errors import EdgeError
from edge.llama.context import Context
from edge.local_engine import LocalEngine
from edge.request import Completion, Request, Timing, Usage
from edge.settings import SamplingSettings


@pytest.fixture
def case(tiny_gguf: Path) -> Case:
    schema = PERSON_SCHEMA.read_text(encoding="utf-8")
    return Case(tiny_gguf, None, threads=1, rounds=1, tokens=8, schema=schema)


def test_bare_loop_feeds_every_sequence_in_each_step(case: Case) -> None:
    settings = case.settings(2)
    with LocalEngine(case.model, settings) as opened, BareLoop(opened.model, settings) as bare:
        prompts = openings(opened, 2)
        with counted_steps() as steps:
            speed = bare.speed(prompts, 5)
    assert steps == [*map(len, prompts), 2, 2, 2, 2, 2]
    assert speed.per_second > 0 and speed.per_cpu_second > 0


def test_steps_made_in_one_call_are_counted_one_by_one(demo_gguf: Path) -> None:
    with LocalEngine(demo_gguf, delivery_seconds=1.0) as opened, counted_steps() as steps:
        prompt = opened.text_tokens("The bees danced")
        opened.submit(Request(prompt, max_tokens=12, ignore_eos=True)).result()
    assert steps == [len(prompt), *[1] * 11]


def test_steps_are_counted_only_inside_the_block() -> None:
    decode, decode_several = Context.decode, Context.decode_several
    with counted_steps() as steps:
        assert Context.decode is not decode
    assert Context.decode is decode and Context.decode_several is decode_several
    assert steps == []


def test_every_request_gets_its_tokens_and_their_times(case: Case) -> None:
    with LocalEngine(case.model, case.settings(2)) as opened:
        requests = [Request(prompt, max_tokens=4, ignore_eos=True) for prompt in openings(opened, 2)]
        runs = run_requests(opened, requests)
    for run in runs:
        assert len(run.arrivals) == run.completion.usage.completion_tokens == 4
        assert run.submitted < run.arrivals[0] <= run.arrivals[-1] <= run.finished


def run_of(*arrivals: float) -> Run:
    completion = Completion("", (), "length", Usage(1, 0, len(arrivals)), Timing(0, 0, 0))
    return Run(arrivals[0], arrivals, arrivals[-1], completion)


def test_joint_rate_counts_what_came_while_all_were_answered() -> None:
    assert joint_tokens_per_second([run_of(0, 1, 2, 3, 4), run_of(2, 3, 4, 5)]) == 4 / 2


def test_runs_one_after_the_other_have_no_joint_rate() -> None:
    with pytest.raises(EdgeError) as caught:
        joint_tokens_per_second([run_of(0, 1), run_of(1, 2)])
    assert caught.value.message == "2 requests were hardly answered at the same time."


def test_gaps_are_those_that_end_within_the_time() -> None:
    assert gaps([0, 1, 3, 6, 10], 1, 6) == [2, 3]


def test_decode_is_compared_with_the_bare_loop(case: Case) -> None:
    found, left_out = measure_decode(case)
    assert found.row == "decode" and found.title == f"1 stream, {model_name(case.model)}"
    assert found.against == "bare loop" and found.value
    assert found.samples.keys() == {"ours", "anchor", "cpu"}
    assert left_out.verdict == "skipped" and "tools/gemma_model.py" in left_out.note


@pytest.mark.model
def test_structured_output_forces_tokens_on_a_real_model(case: Case, demo_gguf: Path) -> None:
    speed, passes = measure_structured(replace(case, model=demo_gguf))
    assert speed.against == "free text"
    assert 'for example: {"name": ' in speed.note and "in processor time" in speed.note
    assert passes.verdict == "holds"


@pytest.mark.model
def test_second_turn_of_a_real_chat_computes_only_what_is_new(case: Case, demo_gguf: Path) -> None:
    turn, _ = measure_second_turn(replace(case, model=demo_gguf))
    assert turn.verdict == "holds", turn
    assert turn.value == 0


def test_recomputed_history_misses_the_bar() -> None:
    first = Completion("", (), "stop", Usage(10, 0, 5), Timing(0, 0, 0))
    second = Completion("", (), "stop", Usage(20, 0, 3), Timing(0, 0, 0))
    kept = engine_cache._finding("turn", 10, first, second, [5, 1, 1, 1])
    recomputed = engine_cache._finding("turn", 10, first, second, [20, 1, 1, 1])
    assert (kept.value, kept.verdict) == (0, "holds")
    assert (recomputed.value, recomputed.verdict) == (15, "missed")


def test_copying_is_compared_with_and_without_drafts(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def requests(opened: LocalEngine) -> list[Request]:
        greedy = SamplingSettings(temperature=0)
        return [Request(prompt, greedy, max_tokens=12, ignore_eos=True) for prompt in openings(opened, 2)]

    monkeypatch.setattr(engine_requests, "_CONTEXT_TOKENS", 512)
    monkeypatch.setattr(engine_requests, "_copy_requests", requests)
    (found,) = measure_drafts(case)
    assert found.note.startswith("identical tokens;")
    assert found.bar == Bar(1.5, "at least")


def test_drafts_have_to_give_the_same_tokens() -> None:
    runs = {("drafts", 0): run_of(0, 1), ("none", 0): run_of(0, 1)}
    engine_requests._check_are_identical(runs)
    other = replace(runs["none", 0].completion, tokens=(7,))
    with pytest.raises(EdgeError) as caught:
        engine_requests._check_are_identical({**runs, ("none", 0): replace(runs["none", 0], completion=other)})
    assert caught.value.message == "Greedy tokens differ with and without drafts."


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["engine", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_missed_bar_ends_the_run_with_an_error(
    case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held, missed = (Finding("decode", "one", value=value, bar=Bar(0.99, "at least")) for value in (1.0, 0.5))
    arguments = ("--model", str(case.model), "--rows", "decode", "--json", str(tmp_path / "found.json"))
    monkeypatch.setattr(engine, "ROWS", {**ROWS, "decode": lambda _: [held]})
    assert run_main(monkeypatch, *arguments) == 0
    monkeypatch.setattr(engine, "ROWS", {**ROWS, "decode": lambda _: [missed]})
    assert run_main(monkeypatch, *arguments) == 1
    assert "missed by 49.5%" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["findings"][0]["verdict"] == "missed"


def test_unknown_row_is_refused_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "--rows", "decode,speed") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"there is no row 'speed'; rows: {', '.join(ROWS)}" in error


def test_only_the_named_rows_are_measured(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    monkeypatch.setattr(engine, "ROWS", {name: lambda _, name=name: measured.append(name) or [] for name in ROWS})
    engine.measure(case, ["batch", "decode"])
    assert measured == ["decode", "batch"]


def test_session_goes_on_without_computing_its_history_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_cache, "_CONTEXT_TOKENS", 512)
    monkeypatch.setattr(engine_cache, "_SESSION_TOKENS", 200)
    found, left_out = measure_session(case)
    assert (found.row, found.verdict, found.value) == ("session", "holds", 0)
    assert "bytes" in found.note
    assert left_out.verdict == "skipped"


def test_worker_is_compared_with_the_engine_in_this_process(case: Case) -> None:
    found = engine_worker._finding(case, 1)
    assert found.against == "in this process" and found.bar == Bar(0.97, "at least")
    assert found.value


def test_maskbench_counts_schemas_and_invalid_instances(case: Case, tmp_path: Path) -> None:
    tests = [{"valid": True, "data": 1}, {"valid": False, "data": "one"}]
    (tmp_path / "one.json").write_text(json.dumps({"schema": {"type": "integer"}, "tests": tests}), encoding="utf-8")
    right, accepted = measure_maskbench(replace(case, maskbench=tmp_path))
    assert (right.ours, right.anchor, right.value, right.verdict) == ("1", "1", 1.0, "holds")
    assert (accepted.ours, accepted.anchor, accepted.value) == ("0", "1", 0)


def test_maskbench_without_a_folder_is_skipped_with_the_option_to_give(case: Case) -> None:
    (found,) = measure_maskbench(case)
    assert found.verdict == "skipped" and "--maskbench" in found.note


def test_every_failure_after_a_kill_counts(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = Outcome({"SIGKILL": 2}, 7, {"It died.": 3}, ["KeyError"], unended_requests=1, leaked_processes=1)
    monkeypatch.setattr(kill, "kill_under_load", lambda _: outcome)
    (found,) = measure_kill(replace(case, kills=2))
    assert (found.value, found.verdict, found.anchor) == (3, "missed", "10 requests")
    assert found.note == "7 replies, 3 EdgeErrors; 1 host failures, 1 requests not ended, 1 processes left."


def test_sampling_is_held_to_its_bar(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "VOCABULARIES", (1024,))
    monkeypatch.setattr(engine_parts, "_SAMPLING_ROUNDS", 2)
    (found,) = measure_sampling(case)
    assert found.title == "choosing one of 1,024 tokens"
    assert found.bar == Bar(0.35, "at most") and found.value


def test_arrival_measures_the_streams_before_and_beside_a_prompt(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"_STREAMS": 2, "_PROMPT_TOKENS": 100, "_BEFORE_TOKENS": 8, "_STREAM_TOKENS": 90}
    for name, size in sizes.items():
        monkeypatch.setattr(engine_arrival, name, size)
    (found,) = measure_arrival(case)
    assert found.against == "before it arrives" and found.bar == Bar(2.5, "at most")
    assert found.value and "alone after" in found.note
