"""The comparison with llama-bench: its command, its output, and the verdict, with a tool that is made up."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.cases import BenchSettings
from bench.llama_bench import Sides, measure_sides, rates_of, sides_line, tool_command
from edge.errors import EdgeError

SETTINGS = BenchSettings(prompt_tokens=32, generated_tokens=8, rounds=2, threads=1)
OUTPUT = json.dumps([{"n_prompt": 32, "avg_ts": 500.0}, {"n_prompt": 0, "avg_ts": 100.0}])


def _tool(folder: Path, script: str) -> Path:
    tool = folder / "llama-bench"
    tool.write_text(f"#!{sys.executable}\n{script}\n", encoding="utf-8")
    tool.chmod(0o755)
    return tool


def test_both_sides_have_a_figure_for_each_round(tiny_gguf: Path, tmp_path: Path) -> None:
    prefill, decode = measure_sides(_tool(tmp_path, f"print({OUTPUT!r})"), tiny_gguf, SETTINGS)
    assert (prefill.name, decode.name) == ("pp32", "tg8")
    assert prefill.theirs == (500.0, 500.0) and decode.theirs == (100.0, 100.0)
    assert len(prefill.ours) == len(decode.ours) == 2 and min(prefill.ours + decode.ours) > 0


def test_the_tool_is_run_with_the_same_settings() -> None:
    words = tool_command(Path("llama-bench"), Path("model.gguf"), SETTINGS)
    assert " ".join(words) == "llama-bench -m model.gguf -p 32 -n 8 -r 1 -t 1 -b 512 -lm mmap -o json"


def test_a_tool_that_fails_is_quoted(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="llama-bench ended with exit code 1") as caught:
        measure_sides(_tool(tmp_path, "import sys; sys.exit('no such option')"), tiny_gguf, SETTINGS)
    assert caught.value.hint == "no such option"


def test_a_tool_that_is_not_there_is_named(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="missing cannot be run: No such file or directory"):
        measure_sides(tmp_path / "missing", tiny_gguf, SETTINGS)


def test_output_without_results_is_quoted() -> None:
    assert rates_of(OUTPUT) == (500.0, 100.0)
    with pytest.raises(EdgeError, match="llama-bench printed no results") as caught:
        rates_of("[]")
    assert caught.value.hint == "It printed: '[]'"


def test_within_three_percent_the_bar_holds() -> None:
    assert Sides("tg8", (102.0, 103.0, 101.0), (100.0, 100.0, 100.0)).holds
    line = sides_line(Sides("tg8", (90.0, 90.0, 90.0), (100.0, 100.0, 100.0)))
    assert line.startswith("tg8      edge 90.0 tok/s, llama-bench 100.0 tok/s, ratio 0.900 (0.900 - 0.900),")
    assert line.endswith("of the fastest rounds 0.900: is off by more than 3%")
