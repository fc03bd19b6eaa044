"""The comparison with llama-bench: its command, its output, and the verdict, with a tool that is made up."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from bench.cases import BenchSettings
from bench.llama_bench import Rate, Sides, measure_sides, rates_of, sides_line, tool_command
from edge.errors import EdgeError

SETTINGS = BenchSettings(prompt_tokens=32, generated_tokens=8, rounds=2, threads=1)
OUTPUT = json.dumps([{"n_prompt": 32, "samples_ts": [500.0, 400.0, 600.0]}])


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.llama_bench._REST_SECONDS", 0)


def _tool(folder: Path, script: str) -> Path:
    tool = folder / "llama-bench"
    tool.write_text(f"#!{sys.executable}\n{script}\n", encoding="utf-8")
    tool.chmod(0o755)
    return tool


def test_both_sides_have_a_figure_for_each_round(tiny_gguf: Path, tmp_path: Path) -> None:
    prefill, decode = measure_sides(_tool(tmp_path, f"print({OUTPUT!r})"), tiny_gguf, SETTINGS)
    assert (prefill.name, decode.name) == ("pp32", "tg8")
    assert [rate.wall for rate in prefill.theirs + decode.theirs] == [500.0] * 4
    assert len(prefill.ours) == len(decode.ours) == 2
    assert all(rate.wall > 0 and rate.processor > 0 for rate in prefill.ours + decode.ours + prefill.theirs)


def test_the_tool_is_run_with_the_same_settings() -> None:
    words = tool_command(Path("llama-bench"), Path("model.gguf"), SETTINGS, (32, 0), 5)
    assert " ".join(words) == "llama-bench -m model.gguf -p 32 -n 0 -r 5 -t 1 -b 512 -lm mmap -o json"


def test_the_tool_is_run_with_the_libraries_that_edge_computes_with(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    seen = tmp_path / "seen"
    script = f"import os; open({str(seen)!r}, 'w').write(os.environ['LD_LIBRARY_PATH']); print({OUTPUT!r})"
    measure_sides(_tool(tmp_path, script), tiny_gguf, SETTINGS)
    first, second = seen.read_text(encoding="utf-8").split(os.pathsep)
    assert list(Path(first).glob("*llama*")) and second == "/elsewhere"


def test_a_tool_that_fails_is_quoted(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="llama-bench ended with exit code 1") as caught:
        measure_sides(_tool(tmp_path, "import sys; sys.exit('no such option')"), tiny_gguf, SETTINGS)
    assert caught.value.hint == "no such option"
    with pytest.raises(EdgeError, match="llama-bench ended with exit code 3") as caught:
        measure_sides(_tool(tmp_path, "import sys; sys.exit(3)"), tiny_gguf, SETTINGS)
    assert caught.value.hint == "It said nothing. Is it a llama-bench?"


def test_a_tool_that_is_not_there_is_named(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="missing cannot be run: No such file or directory"):
        measure_sides(tmp_path / "missing", tiny_gguf, SETTINGS)


def test_output_without_results_is_quoted() -> None:
    assert rates_of(OUTPUT) == [500.0, 400.0, 600.0]
    with pytest.raises(EdgeError, match="llama-bench printed no results") as caught:
        rates_of("[]")
    assert caught.value.hint == "It printed: '[]'"


def _sides(ours: list[float], processor: float) -> Sides:
    return Sides("tg8", tuple(Rate(wall, processor) for wall in ours), tuple(Rate(100.0, 100.0) for _ in ours))


def test_within_three_percent_the_bar_holds() -> None:
    assert _sides([102.0, 103.0, 101.0], 50.0).holds
    off = _sides([90.0, 90.0, 90.0], 100.0)
    assert sides_line(off) == (
        "tg8      edge 90.0 tok/s, llama-bench 100.0 tok/s, ratio 0.900 (0.900 - 0.900), in processor time 1.000:"
        " is off by more than 3%"
    )


def test_where_the_clock_cannot_tell_processor_time_decides() -> None:
    assert _sides([60.0, 150.0, 120.0, 80.0, 140.0], 101.0).holds
    assert not _sides([60.0, 150.0, 120.0, 80.0, 140.0], 110.0).holds
