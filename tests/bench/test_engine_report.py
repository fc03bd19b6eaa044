"""The table of the engine bench: what its verdicts say."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.engine_case import Case
from bench.engine_report import Bar, Finding, machine_line, print_table, result_document, skipped, speed_finding
from bench.engine_turns import Speed

HELD = Finding("decode", "one stream", "99 tok/s", "99.5 tok/s", "bare loop", 0.995, bar=Bar(0.99, "at least"))
MISSED = Finding("decode", "two streams", value=0.891, bar=Bar(0.99, "at least"), spread=(0.88, 0.9))
RECOMPUTED = Finding("turn", "second turn", value=3, unit="", bar=Bar(0, "at most"))
SHOWN = Finding("batch", "at once", value=1.5, note="as it is [bold]")


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (HELD, "holds"),
        (MISSED, "missed"),
        (RECOMPUTED, "missed"),
        (SHOWN, "shown"),
        (skipped("x", "y", "no model"), "skipped"),
    ],
)
def test_verdict_follows_from_figure_and_bar(finding: Finding, verdict: str) -> None:
    assert finding.verdict == verdict
    assert finding.is_missed == (verdict == "missed")


def test_figure_on_the_bar_holds() -> None:
    assert Finding("a", "b", value=0.35, unit="ms", bar=Bar(0.35, "at most")).verdict == "holds"
    assert Finding("a", "b", value=1.25, bar=Bar(1.25, "at least")).verdict == "holds"


def test_shortfall_is_a_share_of_the_bar() -> None:
    assert Bar(0.99, "at least").shortfall(0.891) == pytest.approx(0.1)
    assert Bar(2.5, "at most").shortfall(3.0) == pytest.approx(0.2)
    assert Bar(0, "at most").shortfall(3) == 3


def test_table_has_both_sides_bar_and_by_how_much_it_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([HELD, MISSED, RECOMPUTED, SHOWN], "Title")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "Title"
    held, missed, recomputed, shown = (" ".join(line.split()) for line in lines[2:6])
    assert held == "one stream 99 tok/s 99.5 tok/s bare loop 0.995x ≥ 0.990x holds"
    assert missed == "two streams 0.891x 0.880x - 0.900x ≥ 0.990x missed by 10.0%"
    assert recomputed == "second turn 3 ≤ 0 missed by 3"
    assert shown == "at once 1.500x shown"
    assert lines[6] == "at once: as it is [bold]"
    assert "llama-cpp-python" in lines[7]


def test_document_has_verdicts_samples_and_conditions() -> None:
    case = Case(Path("model.gguf"), None, threads=2, rounds=3, tokens=8, schema="{}")
    document = result_document([MISSED], case)
    (finding,) = document["findings"]
    assert finding["verdict"] == "missed" and finding["shortfall"] == pytest.approx(0.1)
    assert document["case"]["rounds"] == 3 and "schema" not in document["case"]
    assert {"python", "llama-cpp-python", "numpy"} <= document["versions"].keys()
    assert document["machine"]["cpu"]["name"] in machine_line()


def test_speeds_become_a_finding_with_the_same_ratio_in_processor_time() -> None:
    speeds = [Speed(90, 45), Speed(110, 66)], [Speed(100, 50), Speed(100, 60)]
    found = speed_finding("decode", "one", "bare loop", speeds, Bar(0.99, "at least"), note="As it is.")
    assert (found.ours, found.anchor, found.value) == ("100.0 tok/s", "100.0 tok/s", 1.0)
    assert found.note == "As it is. 1.000x in processor time (0.950 - 1.050)."
    assert found.samples["cpu"] == {"ours": [45, 66], "anchor": [50, 60]}
