"""What the kill scenario makes of what it saw; that it holds is a test of the engine's process."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench.kill
from bench.kill import Case, Outcome, kill_under_load, outcome_lines
from edge.errors import EdgeError


@pytest.mark.parametrize(
    "broken",
    [Outcome(host_failures=["KeyError: 3"]), Outcome(unended_requests=1), Outcome(leaked_processes=1)],
)
def test_one_failure_of_any_kind_and_it_does_not_hold(broken: Outcome) -> None:
    assert Outcome(kills={"SIGKILL": 2}, replies=9, errors={"The engine's process was ended.": 4}).holds
    assert not broken.holds


def test_report_counts_everything_and_names_what_went_wrong() -> None:
    outcome = Outcome({"SIGKILL": 2, "SIGSTOP": 1}, 9, {"Ended.": 4, "Hung.": 2}, ["KeyError: 3"], 1, 2)
    assert outcome_lines(outcome) == [
        "Killed under load: 2 x SIGKILL, 1 x SIGSTOP",
        "replies            9",
        "EdgeErrors         6",
        "  4 x Ended.",
        "  2 x Hung.",
        "host failures      1",
        "  KeyError: 3",
        "requests not ended 1",
        "leaked processes   2",
    ]


def test_system_without_signals_is_told_apart_from_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.kill, "SIGNALS", ("SIGNOTHING",))
    with pytest.raises(EdgeError) as caught:
        kill_under_load(Case(Path("model.gguf"), times=1))
    assert caught.value.message == "This system has no signals to kill a process with."
    assert caught.value.hint == "Use Linux or macOS."
