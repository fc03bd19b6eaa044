from __future__ import annotations

import json
import sys

import pytest

from bench import sampling
from bench.sampling import CASES, CaseTimes, StreamTimes, main, print_tables
from edge.llama.sampler import Sampler


@pytest.fixture
def small_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "VOCABULARIES", (3000,))
    monkeypatch.setattr(sys, "argv", ["sampling", "--rounds", "3", "--json"])


@pytest.mark.usefixtures("small_run")
def test_a_run_gives_both_sides_of_each_case(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    document = json.loads(capsys.readouterr().out)
    assert [each["case"] for each in document["times"]] == [case.name for case in CASES]
    assert [each["streams"] for each in document["streams"]] == [4, 8, 4, 8]
    for each in document["times"]:
        assert min(each["llama"], each["edge"]) > 0
    for each in document["streams"]:
        assert min(each["in_turn"], each["pooled"]) > 0


@pytest.mark.usefixtures("small_run")
def test_tokens_that_differ_end_a_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Sampler, "choose_from_all", lambda sampler, logits, allowed: -1)
    with pytest.raises(SystemExit):
        main()
    *_, message, hint = capsys.readouterr().err.splitlines()
    assert message.startswith("error: Of 3000 tokens, greedy chose ")
    assert message.endswith(", and llama.cpp's chain -1.")
    assert hint == "hint:  Report it, with what edge doctor says."


def test_the_tables_show_how_many_times_faster_edge_and_the_pool_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_tables([CaseTimes(262_144, "default", 700, 100)], [StreamTimes(49_152, "greedy", 4, 90, 120)], "Machine")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "Microseconds per token, Machine"
    assert lines[2].split() == ["262,144", "default", "700", "100", "7.0x"]
    assert lines[5].split() == ["49,152", "greedy", "4", "90", "120", "0.8x"]
