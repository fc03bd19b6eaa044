import json
import sys
from dataclasses import replace

import pytest

from bench.convert_report import Result, Round, SideRun, print_table, result_document, summary
from bench.convert_sides import ANCHOR, OURS, Case
from bench.encode import KindRates, Rates
from bench.process import Measurement

MEGABYTE = 10**6
ENCODERS = (KindRates("Q8_0", plain=Rates(3.0, 0.6), weighted=Rates(3.0, 0.5)),)


def measurement(wall_seconds: float, *, rss: int = 100, disk: int = 0) -> Measurement:
    return Measurement(wall_seconds, 2 * wall_seconds, rss * MEGABYTE, disk * MEGABYTE)


def one_round(ours_seconds: float) -> Round:
    outputs = 50 * MEGABYTE, 50 * MEGABYTE, 1e9, ("F32", "Q8_0")
    ours = SideRun(OURS, (("convert", measurement(ours_seconds, rss=90, disk=50)),), *outputs)
    steps = (("write BF16", measurement(2, rss=95, disk=200)), ("quantize Q8_0", measurement(8, rss=700, disk=250)))
    anchor = SideRun(ANCHOR, steps, *outputs)
    return Round((ours, anchor), read_back=measurement(1.5), disk_write_rate=4e8)


@pytest.fixture
def result() -> Result:
    case = Case("small", ("Q8_0",), threads=2)
    return Result(case, 10**9, 2 * 10**9, tuple(one_round(seconds) for seconds in (3, 4, 9)), ENCODERS)


def test_the_ratio_compares_medians(result: Result) -> None:
    assert result.wall_ratio(ANCHOR) == pytest.approx(4 / 10)


def test_time_per_weight_counts_every_core(result: Result) -> None:
    assert result.nanoseconds_per_weight_and_core(ANCHOR) == pytest.approx(20)


def test_a_side_has_the_peak_of_its_largest_step_and_the_disk_that_is_no_result(result: Result) -> None:
    ours, anchor = result_document(result)["sides"]
    assert (ours["peak_rss_bytes"], ours["temporary_bytes"]) == (90 * MEGABYTE, 0)
    assert (anchor["peak_rss_bytes"], anchor["temporary_bytes"]) == (700 * MEGABYTE, 200 * MEGABYTE)


def test_steps_are_medians_of_their_own(result: Result) -> None:
    ours, anchor = result_document(result)["sides"]
    assert [step["name"] for step in anchor["steps"]] == ["write BF16", "quantize Q8_0"]
    assert (ours["steps"][0]["wall_seconds"], ours["steps"][0]["cpu_seconds"]) == (4, 8)


def test_the_document_is_json_with_conditions_and_every_sample(result: Result) -> None:
    document = json.loads(json.dumps(result_document(result)))
    assert document["wall_ratio"] == {ANCHOR: 0.4}
    assert document["case"]["quantizations"] == ["Q8_0"]
    assert document["disk_write_bytes_per_second"] == 4e8
    assert document["read_back_seconds"] == 1.5
    assert document["versions"].keys() == {"python", "edge-llm", "llama-cpp-python", "numpy"}
    assert document["machine"]["cores"]["logical"] >= 1
    assert [sample["sides"][0]["steps"][0][1]["wall_seconds"] for sample in document["samples"]] == [3, 4, 9]


def test_the_table_fits_a_terminal_and_shows_each_side(
    result: Result, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(result)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines]
    assert ["edge", "4.0", "8.0", "90", "0", "8.0"] in rows
    assert [*ANCHOR.split(), "10.0", "20.0", "700", "200", "20.0"] in rows
    assert ["quantize", "Q8_0", "8.0", "16.0", "700"] in rows


def test_the_summary_says_the_ratio_and_what_it_leaves_out(result: Result) -> None:
    lines = summary(result)
    assert lines[0] == f"edge takes 0.40 of the time of: {ANCHOR}"
    assert any("Reading the files back" in line and "1.5 s" in line for line in lines)


def test_disk_below_the_size_of_the_results_is_no_temporary_disk() -> None:
    run = one_round(3).sides[0]
    assert replace(run, output_disk_bytes=60 * MEGABYTE).temporary_bytes == 0


def test_the_limit_is_what_would_take_longest_by_itself(result: Result) -> None:
    # 2 GB read at 1 GB/s; a median of 8 s of processor on 2 threads; 50 MB written at 400 MB/s
    assert result.least_seconds() == {"reading": 2.0, "encoding": 4.0, "writing": 0.125}
    assert "Limit: encoding. By itself each would take edge: reading 2.0 s, encoding 4.0 s, writing 0.1 s." in summary(
        result
    )
    assert "Q8_0, one core: 0.6 ns per weight, ggml 3.0 (5.0x)" in summary(result)
